"""How pixels become the input of a network, and its output labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dmmn_qp.choices import Beyond, Channels, Reduction
from dmmn_qp.specs import FileModel

MAX_INPUT = 1000.0
"""Largest number that a network is given for a pixel, of either sign: plain pixels are 0 .. 255."""

MIN_CONTRAST = 0.001
"""Least difference between black and white as a network is given them, and least part of the larger of the two that it
is: below, the picture is lost beside the network's biases, or in rounding."""

Shift = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]

Factor = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class InputConvention(FileModel):
    """How pixels become the network's input: ``(value * scale - mean) / std`` for each channel.

    Outside the slide a pixel is 0 as in a black picture, before all of this, unless ``beyond`` says otherwise. The
    authors' networks were given the same.

    Attributes:
        channels: Order of the colour channels.
        scale: Factor on uint8 values.
        mean: Subtracted after scaling, in the order of ``channels``; None subtracts nothing.
        std: Divided by after that, in the order of ``channels``; None divides by nothing.
        reduction: How a lower magnification is made from finer pixels.
        beyond: What lies outside the slide.
    """

    channels: Channels = "RGB"
    scale: Factor = 1 / 255
    mean: tuple[Shift, Shift, Shift] | None = None
    std: tuple[Factor, Factor, Factor] | None = None
    reduction: Reduction = "area"
    beyond: Beyond = "black"

    @model_validator(mode="after")
    def _shows_the_picture(self) -> Self:
        for mean, std in zip(self.mean or (0.0,) * 3, self.std or (1.0,) * 3, strict=True):
            black, white = -mean / std, (255 * self.scale - mean) / std
            largest = max(abs(black), abs(white))
            if largest > MAX_INPUT or white - black < MIN_CONTRAST * max(1.0, largest):
                raise ValueError(
                    f"scale, mean and std turn black into {black:g} and white into {white:g}; both must lie within "
                    f"{-MAX_INPUT:g} .. {MAX_INPUT:g} and differ by {MIN_CONTRAST:g} times the larger, at least by "
                    f"{MIN_CONTRAST:g}"
                )
        return self


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
