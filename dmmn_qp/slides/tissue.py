"""Where a slide shows tissue and where only glass: an estimate on a small picture of it."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

GLASS_CHROMA: Final = 20
"""Glass is grey: a picture whose less colourful part is more colourful than this (0 .. 255) shows no glass."""

TISSUE_CHROMA: Final = 10
"""Stained tissue has colour: a picture whose more colourful part is greyer than this (0 .. 255) shows no tissue."""


def tissue_mask(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Finds the part of a small picture of a slide that shows stained tissue.

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


def cleaned(
    mask: NDArray[np.bool_], *, min_area_px: float, min_hole_px: float, margin_px: float = 0.0
) -> NDArray[np.bool_]:
    """Returns a mask without small holes, then without small parts, then grown.

    Args:
        mask: (rows, columns) bool, the pixels of a small picture.
        min_area_px: A part of fewer pixels is dropped. Pixels that meet at a corner are one part, and holes that were
            filled count.
        min_hole_px: A hole of fewer pixels is filled. What reaches the picture's border is no hole, and pixels that
            meet only at a corner are not one hole.
        margin_px: Pixels whose centre lies at most so far from the centre of one of the mask are added.

    Returns:
        (rows, columns) bool.
    """
    numbers, areas = _parts(~mask, connectivity=4)
    is_small_hole = areas < min_hole_px
    for side in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        is_small_hole[side] = False
    is_small_hole[0] = False
    filled = mask | is_small_hole[numbers]
    numbers, areas = _parts(filled, connectivity=8)
    is_kept = areas >= min_area_px
    is_kept[0] = False
    kept: NDArray[np.bool_] = is_kept[numbers]
    if margin_px <= 0 or not kept.any():
        return kept
    away = cv2.distanceTransform((~kept).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= margin_px + 1e-3)


def part_covered(
    mask: NDArray[np.bool_],
    top: NDArray[np.int64],
    bottom: NDArray[np.int64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Part of each box that a mask covers.

    Args:
        mask: (rows, columns) bool, fewer than 2**31 pixels.
        top: (M,) first row of the boxes.
        bottom: (M,) row behind their last.
        left: (N,) first column.
        right: (N,) column behind their last.

    Returns:
        (M, N) 0 to 1.
    """
    sums = np.pad(mask, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    inside = (
        sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    )
    return np.asarray(inside / ((bottom - top)[:, None] * (right - left)))


def _parts(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Returns the number of each pixel's connected part, 0 outside the mask, and the pixels of each number."""
    _, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    return np.asarray(numbers, np.int32), np.asarray(statistics[:, cv2.CC_STAT_AREA], np.int32)


def otsu_cut(counts: NDArray[np.int64], values: NDArray[np.float64]) -> int | None:
    """Finds Otsu's cut of a histogram: the two parts differ most in their means.

    OpenCV's takes no values of one's own for the bins, here the roots of the chroma.

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
