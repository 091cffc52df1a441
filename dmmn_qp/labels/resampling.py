"""How sure figures are: intervals by drawing slides anew, and a test of two models by exchanging them slide by slide.

Slides of one case look alike, so where cases are known these are drawn and exchanged whole. Pixels are no samples:
millions of them in one slide say no more of the next slide than that slide does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[Any]], NDArray[np.float64]]
"""Sums over samples, (..., *shape) -> figures, (...) or (..., C)."""

MOST_EXACT: Final = 12
"""With up to so many samples all ways of exchanging are tried: 4096."""

RANDOM_EXCHANGES: Final = 10_000
"""So many random ones are tried with more."""

_AT_ONCE: Final = 2**22
"""Numbers that are held at a time."""


def by_sample(values: NDArray[Any], samples: Sequence[str]) -> NDArray[Any]:
    """Sums what belongs to one sample.

    Args:
        values: (slides, ...).
        samples: The sample of each slide, such as its case.

    Returns:
        (samples, ...) in the order in which they first appear.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys(samples))}
    sums = np.zeros((len(order), *values.shape[1:]), values.dtype)
    np.add.at(sums, [order[name] for name in samples], values)
    return sums


def drawn_anew(samples: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each sample is in each resample: (resamples, samples), drawn with replacement."""
    chances = np.full(samples, 1 / samples)
    return np.random.default_rng(seed).multinomial(samples, chances, size=resamples).astype(np.float64)


def interval(
    values: NDArray[Any], statistic: Statistic, weights: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval of a figure: the middle part of what it is in the resamples (percentile bootstrap).

    A resample in which the figure has none, as a class that it does not hold, is left out.

    Args:
        values: (samples, ...) what the figure is made of, as sums.
        statistic: The figure of sums.
        weights: `drawn_anew`.
        confidence: The part of the resamples in the interval, 0 .. 1.

    Returns:
        Lower and upper end, NaN where there is none: fewer than two samples, or no figure.
    """
    parts = _parts(weights, values[0].size)
    figures = np.concatenate([statistic(np.tensordot(part, values, axes=1)) for part in parts])
    ends = np.full((2, *figures.shape[1:]), np.nan)
    if len(values) > 1:
        has_any = ~np.isnan(figures).all(axis=0)
        tail = (1 - confidence) / 2
        ends[:, has_any] = np.nanquantile(figures[:, has_any], (tail, 1 - tail), axis=0)
    return ends[0], ends[1]


def exchange_test(first: NDArray[Any], second: NDArray[Any], statistic: Statistic, seed: int) -> NDArray[np.float64]:
    """Chance of a difference at least as large if it did not matter which model is which (permutation test).

    Args:
        first: (samples, ...) what the figure of one model is made of, as sums.
        second: That of the other.
        statistic: The figure of sums.
        seed: Start of the random numbers, where there are too many ways.

    Returns:
        The two-sided p-value, of each class where the statistic has classes; NaN with fewer than two samples, or where
        a model has no figure.
    """
    samples = len(first)
    found = statistic(first.sum(axis=0)) - statistic(second.sum(axis=0))
    if samples < 2:
        return np.full(np.shape(found), np.nan)
    exchanged = _exchanges(samples, seed)
    at_least = np.zeros(np.shape(found))
    for swap in _parts(exchanged, first[0].size):
        differences = statistic(_pooled(first, second, swap)) - statistic(_pooled(second, first, swap))
        at_least += (np.abs(differences) >= np.abs(found) - 1e-12).sum(axis=0)
    extra = 0 if samples <= MOST_EXACT else 1  # what was found is one of all ways, but not one of the random ones
    return np.where(np.isnan(found), np.nan, (at_least + extra) / (len(exchanged) + extra))


def _exchanges(samples: int, seed: int) -> NDArray[np.float64]:
    """(ways, samples), 1 where a sample is exchanged."""
    if samples <= MOST_EXACT:
        return np.array([*product((0.0, 1.0), repeat=samples)])
    return np.random.default_rng(seed).integers(0, 2, (RANDOM_EXCHANGES, samples)).astype(np.float64)


def _pooled(kept: NDArray[Any], other: NDArray[Any], swap: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.tensordot(1 - swap, kept, axes=1) + np.tensordot(swap, other, axes=1)


def _parts(rows: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    at_once = max(1, _AT_ONCE // max(1, size))
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
