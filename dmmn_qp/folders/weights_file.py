"""The file of a model's weights, compared with the network that it is for before and while it is read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dmmn_qp.errors import ModelError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.text import count_of, shorten

MAX_HEADER_BYTES = 2**20
"""Longest header of a file of weights: six times that of the network with the most tensors."""

AGAIN: Final = "take the whole folder again from its source"
SHOWN: Final = 160  # characters of what a file says

_STORED = {torch.float32: ("F32", "F16", "BF16"), torch.int64: ("I64",)}
"""Type of a tensor of a network -> types in which a file may hold it, all without loss."""


def take_memory(network: nn.Module, path: Path) -> None:
    """Moves a network from the meta device to the CPU, its values still to come."""
    try:
        network.to_empty(device="cpu")
    except (RuntimeError, MemoryError) as error:
        gib = sum(tensor.nbytes for tensor in network.state_dict().values()) / 2**30
        raise ModelError(
            f'the network of model "{path.parent}" takes {gib:.1f} GiB, more than this machine has free; use a larger '
            "machine or a model of smaller width"
        ) from error


def check_header_length(path: Path) -> None:
    """Refuses what no network's weights begin with, before anything is read.

    Raises:
        OSError: There is no such file.
        SafetensorError: Its header is longer than any network's.
    """
    check_there(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorError(f"a header of {length} bytes is longer than any network's")


def check_there(path: Path) -> None:
    """Refuses what is no file that can be read; a pipe would keep its reader waiting.

    Raises:
        OSError: It is none.
    """
    if not path.is_file() or why_not_there(path):
        raise FileNotFoundError(why_not_there(path) or "is no file")


def check_header(file: Any, expected: Mapping[str, Tensor], path: Path) -> None:
    """Compares names, shapes and types in a file of weights with those of the network (on the meta device)."""
    names = set(file.keys())
    for wrong, fault in (
        (expected.keys() - names, "lack {} of the card's network"),
        (names - expected.keys(), "hold {} that the card's network has not"),
    ):
        if wrong:
            many = fault.format(count_of(len(wrong), "tensor"))
            raise ModelError(f'weights "{path}" {many}, the first "{shorten(min(wrong), SHOWN)}"; {AGAIN}')
    for name, tensor in expected.items():
        stored = file.get_slice(name)
        if tuple(stored.get_shape()) != tuple(tensor.shape):
            raise ModelError(
                f'weights "{path}" have "{name}" of shape {shorten(_shape(stored.get_shape()), SHOWN)}, but the '
                f"network of the card needs {_shape(tensor.shape)}; {AGAIN}"
            )
        if stored.get_dtype() not in _STORED[tensor.dtype]:
            raise ModelError(
                f'weights "{path}" have "{name}" as {stored.get_dtype()}, but it must be one of '
                f"{', '.join(_STORED[tensor.dtype])}; {AGAIN}"
            )


def check_digest(path: Path, sha256: str | None) -> None:
    """Refuses weights that are not those of the card; an older card does not tell.

    Raises:
        ModelError: They are others.
        OSError: There are none.
    """
    check_there(path)
    with path.open("rb") as file:
        if sha256 is None:
            return
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(
            f'weights "{path}" are not those of its card (SHA-256 {found[:12]}, not {sha256[:12]}); '
            f"{AGAIN}, or if a training was interrupted there, go on with dmmn-qp train --resume --out "
            f'"{path.parent}"'
        )


def check_values(name: str, tensor: Tensor, path: Path) -> None:
    """Refuses what no training leaves behind; least and greatest are found without further memory."""
    if not tensor.is_floating_point():
        return
    least, greatest = (float(value) for value in tensor.aminmax())
    if not (math.isfinite(least) and math.isfinite(greatest)):
        raise ModelError(f'weights "{path}" have numbers in "{name}" that are not finite; {AGAIN}')
    if name.endswith(".running_var") and least < 0:
        raise ModelError(f'weights "{path}" have a negative variance in "{name}"; {AGAIN}')


def _shape(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides)) or "()"
