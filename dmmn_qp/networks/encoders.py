"""Encoders that were trained elsewhere, for networks that are built on them. `ENCODERS` names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dmmn_qp.choices import DEFAULT_ENCODER
from dmmn_qp.errors import ModelError
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.efficientnet import EfficientNetLite
from dmmn_qp.networks.timm_encoders import TIMM, build_timm_encoder, timm_encoder
from dmmn_qp.text import shorten

__all__ = [
    "DEFAULT_ENCODER",
    "ENCODERS",
    "EncoderKind",
    "PretrainedEncoder",
    "build_encoder",
    "convention_of",
    "digest_of",
    "encoder_kind",
    "is_known",
]


class PretrainedEncoder(Protocol):
    """What an encoder makes of an image. It may name its ``layers``, from the image upwards, which then learn at rates
    of their own.

    It computes the same in training and in prediction, for each image by itself.

    Attributes:
        strides: Image px per cell of each map, ascending, at most 32; cell i of stride s lies about the px s (i + 1/2).
            Where a side is no multiple of s, the map reaches beyond the image by as much on either side.
        channels: Channels of each map.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, h, w), multiples of 32 -> maps (B, channels[k], h / strides[k], w / strides[k]), rounded up."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderKind:
    """How to build an encoder, and how it wants to see pixels.

    Attributes:
        build: Makes it, with random weights, as a module that is a `PretrainedEncoder`.
        convention: How pixels became its input when it was trained.
    """

    build: Callable[[], nn.Module]
    convention: InputConvention


_TENSORFLOW = InputConvention(scale=1, mean=(127, 127, 127), std=(128, 128, 128), beyond="mirror")

ENCODERS: dict[str, EncoderKind] = {
    "efficientnet-lite0": EncoderKind(EfficientNetLite, _TENSORFLOW),
    "efficientnet-lite1": EncoderKind(lambda: EfficientNetLite(depth=1.1), _TENSORFLOW),
}


def encoder_kind(name: str) -> EncoderKind:
    """What an encoder is, by its name: a key of `ENCODERS`, or one of timm (`dmmn_qp.networks.timm_encoders`).

    Raises:
        ModelError: It is unknown.
        ConfigError: It is one of timm, which is not installed.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith(TIMM):
        return EncoderKind(lambda: build_timm_encoder(name), timm_encoder(name)[0])
    raise ModelError(
        f'encoder "{shorten(name)}" is unknown; choose one of {", ".join(ENCODERS)}, or one of timm: {TIMM}NAME'
    )


def digest_of(encoder: nn.Module) -> str:
    """SHA-256 of the weights of an encoder, and their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_known(name: str | None) -> bool:
    """Whether `encoder_kind` knows a name, as far as can be said without building it; None is no encoder's."""
    return name is None or name in ENCODERS or name.startswith(TIMM)


def convention_of(encoder: str | None) -> InputConvention:
    """How pixels become the input of a network on this encoder, or of one on none."""
    return InputConvention() if encoder is None else encoder_kind(encoder).convention


def build_encoder(name: str) -> nn.Module:
    """An encoder with random weights, by its name.

    Raises:
        ModelError: It is unknown.
        ConfigError: It is one of timm, which is not installed.
    """
    return encoder_kind(name).build()
