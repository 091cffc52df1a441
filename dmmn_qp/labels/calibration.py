"""Whether probabilities mean what they say: how often predictions of each confidence are right."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.labels.tallies import quotient

BINS: Final = 15
"""Intervals of confidence, of equal width."""

ReliabilitySums = NDArray[np.float64]
"""(..., 3, bins): of each interval its predictions, the sum of their confidence, and those that are right."""


def reliability_sums(
    confidence: NDArray[np.float64] | NDArray[np.float32], is_right: NDArray[np.bool_], bins: int = BINS
) -> ReliabilitySums:
    """Sorts predictions by their confidence.

    Args:
        confidence: (n,) probability of each predicted class, 0 .. 1.
        is_right: (n,) whether it is the true one.
        bins: Intervals; each but the first lacks its lower end.
    """
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    weights: tuple[NDArray[Any] | None, ...] = (None, confidence, is_right)
    return np.stack([np.bincount(places, w, minlength=bins).astype(np.float64) for w in weights])


def expected_calibration_error(sums: NDArray[Any]) -> NDArray[np.float64]:
    """(...) mean difference of confidence and accuracy, weighted by the predictions of each interval; NaN of none."""
    total = sums[..., 0, :].sum(axis=-1)
    return quotient(np.abs(sums[..., 1, :] - sums[..., 2, :]).sum(axis=-1), total)
