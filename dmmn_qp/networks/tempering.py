"""Logits -> probabilities, at a temperature that a model's card says or as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from dmmn_qp.networks.conventions import class_logits


def class_chances(logits: Tensor, n_classes: int, temperature: float | None = None) -> Tensor:
    """What a network gives, (B, reserved + C, S, S) -> the probability of each class: (B, C, S, S) float32.

    Args:
        logits: What it gives.
        n_classes: C.
        temperature: What they are divided by; None divides by nothing.
    """
    own = class_logits(logits, n_classes).float()
    return (own if temperature is None else own / temperature).softmax(1)


def tempered(chances: Tensor, temperature: float | None) -> Tensor:
    """Probabilities as their logarithms, taken for logits, give them at a temperature.

    Of one softmax it is what `class_chances` gives. The order of the classes stays, of a mean of several softmaxes too.

    Args:
        chances: (B, C, h, w) float32 that sum up to 1.
        temperature: None leaves them as they are.
    """
    return chances if temperature is None else (logits_of(chances) / temperature).softmax(1)


def logits_of(chances: Tensor) -> Tensor:
    """Logits whose softmax gives probabilities; those of 0 are finite."""
    return chances.clamp_min(torch.finfo(chances.dtype).tiny).log()
