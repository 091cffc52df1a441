"""Encoders that were trained elsewhere, for networks that are built on them. `ENCODERS` names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.efficientnet import EfficientNetLite

__all__ = ["ENCODERS", "EncoderKind", "PretrainedEncoder"]


class PretrainedEncoder(Protocol):
    """What an encoder makes of an image. It may name its ``layers``, from the image upwards, which then learn at rates
    of their own.

    Attributes:
        strides: Image px per cell of each map, ascending; cell i of stride s lies about the px s (i + 1/2).
        channels: Channels of each map.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, h, w), multiples of the coarsest stride s -> maps (B, channels[k], h / strides[k], w / strides[k])."""
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
