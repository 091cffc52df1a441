"""Temperature scaling: the one number by which logits are divided, so that probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_STEPS: Final = 30  # halvings: to 1e-8
_AT_ONCE: Final = 2**20  # values

Logits = NDArray[np.float32]
"""(N, C), of N pixels."""


def fitted_temperature(logits: Logits, classes: NDArray[np.int64], least: float, most: float) -> float:
    """The temperature within limits at which the true classes are likeliest.

    The likelihood has a single maximum, where the mean logit that the probabilities expect is that of the true classes.

    Args:
        logits: Of each pixel.
        classes: (N,) the true class of each, from 0 on.
        least: Lowest temperature.
        most: Highest temperature.
    """
    true = float(np.mean(logits[np.arange(len(classes)), classes], dtype=np.float64))
    low, high = 1 / most, 1 / least
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _expected(logits, middle) > true:
            high = middle
        else:
            low = middle
    return float(np.clip(2 / (low + high), least, most))


def log_loss(logits: Logits, classes: NDArray[np.int64], temperature: float) -> float:
    """Mean negative log-likelihood of the true classes at a temperature, in nats."""
    total, done = 0.0, 0
    for part in _parts(logits):
        own = classes[done : done + len(part)]
        done += len(part)
        scaled = part / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        total += float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(own)), own]).sum())
    return total / len(classes)


def confidences(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Probability of the likeliest class of each pixel at a temperature: (N,)."""
    return np.concatenate([_chances(part, 1 / temperature).max(axis=1) for part in _parts(logits)])


def _expected(logits: Logits, sharpness: float) -> float:
    """Mean over pixels of the logit that the probabilities expect, at 1 / temperature."""
    total = sum(float((_chances(part, sharpness) * part).sum()) for part in _parts(logits))
    return total / len(logits)


def _chances(logits: NDArray[np.float64], sharpness: float) -> NDArray[np.float64]:
    raised = np.exp(sharpness * (logits - logits.max(axis=1, keepdims=True)))
    chances: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return chances


def _parts(logits: Logits) -> Iterator[NDArray[np.float64]]:
    """Some pixels at a time, in 64 bits."""
    rows = max(1, _AT_ONCE // logits.shape[1])
    return (logits[start : start + rows].astype(np.float64) for start in range(0, len(logits), rows))
