"""Where a slide shows tissue and where only glass: an estimate on a small picture of it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

GLASS_CHROMA: Final = 20
"""Glass is grey: a picture whose less colourful part is more colourful than this (0 .. 255) shows no glass."""

TISSUE_CHROMA: Final = 10
"""Stained tissue has colour: a picture whose more colourful part is greyer than this (0 .. 255) shows no tissue."""


def tissue_mask(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The part of a small picture of a slide that shows stained tissue.

    Tissue is told from glass by its chroma, the difference between a pixel's strongest and weakest channel, which is
    near 0 for glass, for black where nothing was scanned, and for grey dirt. Otsu's rule cuts the chroma in two; a
    picture all of glass or all of tissue stays in one piece.

    Args:
        thumbnail: (rows, columns, 3) uint8 RGB.

    Returns:
        (rows, columns) bool.
    """
    chroma = thumbnail.max(axis=2) - thumbnail.min(axis=2)
    counts = np.bincount(chroma.ravel(), minlength=256)
    levels = np.arange(256)
    cut = otsu_cut(counts, np.sqrt(levels))  # the root, so that the cut lies below pale and not below dark tissue
    if cut is None:
        return np.asarray(chroma >= TISSUE_CHROMA)
    low, high = (float(np.average(levels[part], weights=counts[part])) for part in (levels <= cut, levels > cut))
    if low > GLASS_CHROMA:
        return np.ones(chroma.shape, np.bool_)
    if high < TISSUE_CHROMA:
        return np.zeros(chroma.shape, np.bool_)
    return np.asarray(chroma > cut)


def otsu_cut(counts: NDArray[np.int64], values: NDArray[np.float64]) -> int | None:
    """Otsu's cut of a histogram: the two parts differ most in their means.

    Args:
        counts: (N,) how often each value occurs.
        values: (N,) the values, ascending.

    Returns:
        The last index of the lower part; None when fewer than two values occur.
    """
    if np.count_nonzero(counts) < 2:
        return None
    below, total = np.cumsum(counts), counts.sum()
    sum_below, sum_total = np.cumsum(counts * values), (counts * values).sum()
    possible = (below > 0) & (below < total)
    between = np.full(counts.size, -1.0)
    difference = sum_below[possible] / below[possible] - (sum_total - sum_below[possible]) / (total - below[possible])
    between[possible] = below[possible].astype(float) * (total - below[possible]) * difference**2
    return int(between.argmax())
