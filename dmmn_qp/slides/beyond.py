"""What a network is shown beyond the border of a slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray


def mirrored_beyond(pixels: RgbArray, region: Region, shape: tuple[int, int]) -> RgbArray:
    """Fills what lies beyond a slide with the slide's own pixels, mirrored at its border.

    Only what the region holds of the slide is mirrored, again and again where it is narrower than what is missing.

    Args:
        pixels: (region.height, region.width, 3) uint8.
        region: Where they lie, in px of some magnification.
        shape: (rows, columns) of the slide at that magnification.

    Returns:
        Likewise; ``pixels`` itself where nothing lies beyond, or nothing on the slide.
    """
    rows, columns = (
        _mirrored(start, side, length)
        for start, side, length in ((region.y, region.height, shape[0]), (region.x, region.width, shape[1]))
    )
    if rows is None and columns is None:
        return pixels
    filled = pixels if rows is None else pixels[rows]
    return filled if columns is None else np.ascontiguousarray(filled[:, columns])


def _mirrored(start: int, side: int, length: int) -> NDArray[np.intp] | None:
    """For each of ``side`` places from ``start``: which of them is shown there; None for each itself."""
    first, end = max(start, 0), min(start + side, length)
    if (first == start and end == start + side) or end <= first:
        return None
    inside = end - first
    place = (np.arange(start, start + side) - first) % (2 * inside)
    return np.where(place < inside, place, 2 * inside - 1 - place) + first - start
