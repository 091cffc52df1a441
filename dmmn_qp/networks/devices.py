"""Where to compute, how precisely, how pixels become a network's input, and its output labels."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmmn_qp.choices import Device, Precision
from dmmn_qp.errors import ConfigError
from dmmn_qp.folders.model import InputConvention

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BF16_ON_CPU = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""How torch tells of such instructions; without them bf16 is ten times slower than fp32."""


def choose_device(wanted: Device) -> torch.device:
    """Resolves ``auto`` to a GPU if there is one.

    Raises:
        ConfigError: The device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available[wanted]:
        raise ConfigError(f'device "{wanted}" is not available on this machine; pass --device cpu')
    return torch.device(wanted)


def choose_devices(wanted: Device, number: int) -> list[torch.device]:
    """Resolves ``auto`` to GPUs if there are any; on a processor, so many threads share it.

    Raises:
        ConfigError: There are not so many of them.
    """
    first = choose_device(wanted)
    if first.type != "cuda":
        return [first] * number
    if number > torch.cuda.device_count():
        raise ConfigError(f"--devices {number}: this machine has {torch.cuda.device_count()} GPUs; pass fewer")
    return [torch.device("cuda", index) for index in range(number)]


def choose_bf16(wanted: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; ``auto`` does where the device has instructions for it.

    It goes by what the processor says and never by a measurement, so that the same command computes the same on a
    busy machine.
    """
    if wanted != "auto":
        return wanted == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in _BF16_ON_CPU)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Mixed precision, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def network_inputs(images: Tensor, convention: InputConvention, device: torch.device) -> list[Tensor]:
    """Pixels -> what a network takes.

    Args:
        images: (B, M, 3, S, S) uint8 RGB.
        convention: The model's input convention.
        device: Where to compute; the uint8 values travel there, not floats.

    Returns:
        M tensors (B, 3, S, S) float32, channels last.
    """
    on_device = images.to(device, non_blocking=True)
    return [
        network_input(on_device[:, m], convention).contiguous(memory_format=torch.channels_last)
        for m in range(images.shape[1])
    ]


def network_input(image: Tensor, convention: InputConvention) -> Tensor:
    """One magnification's RGB pixels 0 .. 255, (B, 3, S, S) of any type -> float32 in the convention's order and scale.

    It divides by 1 / scale: 1 / 255 has no exact binary form, and a product with it would differ from what other
    programs, the authors' among them, make of the same pixels.
    """
    if convention.channels == "BGR":
        image = image.flip(1)
    scaled = image.float() / (1 / convention.scale)
    if convention.mean is not None:
        scaled = scaled - _per_channel(convention.mean, scaled)
    if convention.std is not None:
        scaled = scaled / _per_channel(convention.std, scaled)
    return scaled


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).reshape(1, 3, 1, 1)


def class_logits(logits: Tensor, n_classes: int) -> Tensor:
    """What a network gives, (B, reserved + C, S, S), without the outputs that stand for no class: (B, C, S, S)."""
    return logits[:, logits.shape[1] - n_classes :]


def predicted_labels(logits: Tensor, n_classes: int) -> Tensor:
    """What a network gives, (B, reserved + C, S, S) -> the likeliest class of each pixel: (B, S, S) uint8, 1 .. C."""
    return (class_logits(logits, n_classes).argmax(dim=1) + 1).to(torch.uint8)


def mean_of_processes(value: Tensor, fabric: Fabric) -> Tensor:
    """The mean of a tensor over all processes."""
    reduced = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def memory_gib() -> float:
    """Most memory that this process has held, of the GPU where there is one, else of the machine; NaN if unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":
        return float("nan")
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
