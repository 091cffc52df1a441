"""Where to compute, how precisely, and how pixels become a network's input."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from dmmn_qp.checkpoint import InputConvention
from dmmn_qp.choices import Device, Precision
from dmmn_qp.errors import ConfigError

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
        (on_device[:, m].float() * convention.scale).contiguous(memory_format=torch.channels_last)
        for m in range(images.shape[1])
    ]
