"""How much annotating each window would tell: three scores of 0 to 1, and their weighted mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.suggesting.windows import Window

Ranks = NDArray[np.float64]
"""(windows,) 0 for the lowest, 1 for the highest, equal ones alike; a half for what is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What speaks for each window, 0 to 1.

    Attributes:
        uncertainty: Rank by the entropy of its tissue.
        rarity: How little is annotated of what it is predicted as. It is no rank: where all classes are annotated about
            alike, it is near 0 for all windows and decides nothing.
        distance: Rank by how unlike what is annotated as its class it looks.
        total: Their weighted mean.
    """

    uncertainty: Ranks
    rarity: NDArray[np.float64]
    distance: Ranks
    total: NDArray[np.float64]


def scores_of(
    windows: Sequence[Window],
    rarity_of_class: Mapping[str, float],
    distances: NDArray[np.float64],
    weights: tuple[float, float, float],
) -> Scores:
    """Scores windows.

    Args:
        windows: The windows.
        rarity_of_class: `rarity_by_class`.
        distances: (windows,) how unlike what is annotated as its class each looks; NaN where that is not known.
        weights: Of uncertainty, rarity and distance.
    """
    parts = (
        ranks(np.array([window.entropy for window in windows])),
        np.array([rarity(window, rarity_of_class) for window in windows]),
        ranks(distances),
    )
    total = sum((weight * part for weight, part in zip(weights, parts, strict=True)), np.zeros(len(windows)))
    return Scores(*parts, np.round(total / sum(weights), 9))  # rounded, so that sums in another order decide nothing


def rarity_by_class(labelled_um2: Mapping[str, float], predicted: Sequence[str]) -> dict[str, float]:
    """How rare classes are among what is annotated: 0 for the most frequent, 1 for one of which nothing is annotated.

    It is a logarithm, because what a hundred times as much annotation tells is not a hundred times as much.

    Args:
        labelled_um2: Annotated area of each class, by name.
        predicted: Names of the predicted classes; those without annotation count as rarest.
    """
    names = dict.fromkeys([*labelled_um2, *predicted])
    most = max(labelled_um2.values(), default=0.0)
    if most == 0:
        return dict.fromkeys(names, 1.0)
    return {name: 1 - math.log1p(labelled_um2.get(name, 0.0)) / math.log1p(most) for name in names}


def rarity(window: Window, rarity_of_class: Mapping[str, float]) -> float:
    """How little is annotated of what a window is predicted as: the mean over its tissue."""
    return sum(share * rarity_of_class.get(name, 1.0) for name, share in window.shares)


def ranks(values: NDArray[np.float64]) -> Ranks:
    """Ranks of values, 0 to 1; equal values have the mean of their ranks, and NaN a half."""
    found = np.full(len(values), 0.5)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 2:
        return found
    _, which, counts = np.unique(np.round(values[known], 9), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found[known] = ((last - counts + last - 1) / 2)[which] / (len(known) - 1)
    return found
