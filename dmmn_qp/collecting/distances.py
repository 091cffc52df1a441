"""How far a class is from the outline of the tissue, read strip by strip from a raster of labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.regions import Region
from dmmn_qp.slides.tissue import cleaned
from dmmn_qp.specs import MM2_OF_UM2, LabelArray
from dmmn_qp.vectors.sources import LabelSource

MOST_CELLS: Final = 2**23
"""Cells in which the tissue is looked at; larger rasters have several pixels in each, so that memory is bounded."""

STRIP_PX: Final = 512

NEAREST_PART: Final = 0.05
"""Part of a class's area that lies within the distance that one wrong pixel does not change."""


@dataclass(frozen=True, slots=True)
class FromOutline:
    """How far a class is from the outline of the tissue: how much lies between it and what is no tissue.

    Attributes:
        least_um: The least distance.
        nearest_part_um: Distance within which the nearest 5 % of its area lie.
        within_mm2: Its area within each distance that was asked for.
    """

    least_um: float
    nearest_part_um: float
    within_mm2: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """What counts as the outline of the tissue.

    Attributes:
        labels: Labels that are tissue.
        mpp: um/px of the raster.
        min_area_um2: Smaller parts are dirt.
        min_hole_um2: Smaller holes are tissue.
    """

    labels: Collection[int]
    mpp: float
    min_area_um2: float
    min_hole_um2: float


def cell_px(shape: tuple[int, int]) -> int:
    """Side of a cell in px of the raster."""
    return max(1, ceil(sqrt(shape[0] * shape[1] / MOST_CELLS)))


def distances_from_outline(raster: LabelSource, outline: Outline, within_um: Sequence[float]) -> dict[int, FromOutline]:
    """Measures how far each label is from the outline of the tissue.

    Tissue are cells of which at least half is of its labels. The border of the raster is no outline: nobody knows what
    lies beyond. A distance is exact to the side of a cell.

    Args:
        raster: The labels.
        outline: What is tissue.
        within_um: Distances within which the area is wanted, ascending.

    Returns:
        By label, for labels of the tissue; empty where all is tissue or nothing.
    """
    side = cell_px(raster.shape)
    cell_um = side * outline.mpp
    tissue = np.concatenate([_is_tissue(strip, side, outline.labels) for strip in _strips(raster, side)])
    tissue = cleaned(
        tissue, min_area_px=outline.min_area_um2 / cell_um**2, min_hole_px=outline.min_hole_um2 / cell_um**2
    )
    if tissue.all() or not tissue.any():
        return {}
    away = cv2.distanceTransform(tissue.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    bins = np.minimum(np.floor(np.maximum(away - 1, 0) * _BINS_PER_CELL + 0.5), np.iinfo(np.int32).max).astype(np.int32)
    areas: dict[int, NDArray[np.float64]] = {label: np.zeros(int(bins.max()) + 1) for label in outline.labels}
    row = 0
    for strip in _strips(raster, side):
        here = slice(row, row := row + -(-strip.shape[0] // side))
        for label in np.intersect1d(strip, [*outline.labels]).tolist():
            pixels = _counts(strip == label, side)
            counted = tissue[here] & (pixels > 0)
            areas[label] += np.bincount(bins[here][counted], pixels[counted], minlength=areas[label].size)
    um_of_bin = np.arange(int(bins.max()) + 1) / _BINS_PER_CELL * cell_um
    mm2 = outline.mpp**2 * MM2_OF_UM2
    return {label: _summed(um_of_bin, area * mm2, within_um) for label, area in areas.items() if area.any()}


_BINS_PER_CELL: Final = 4
"""Steps into which a cell's side is divided where areas are added up by distance."""


def _summed(um: NDArray[np.float64], mm2: NDArray[np.float64], within_um: Sequence[float]) -> FromOutline:
    """Sums up areas by distance."""
    upto = np.cumsum(mm2)
    nearest = int(np.searchsorted(upto, NEAREST_PART * upto[-1]))
    within = tuple(float(mm2[um <= limit + 1e-9].sum()) for limit in within_um)
    return FromOutline(float(um[np.flatnonzero(mm2)[0]]), float(um[nearest]), within)


def _strips(raster: LabelSource, side: int) -> Iterator[LabelArray]:
    """Strips of whole rows of cells, from top to bottom; the last one may end within a cell."""
    rows, columns = raster.shape
    height = max(1, STRIP_PX // side) * side
    for y in range(0, rows, height):
        yield raster.read(Region(0, y, columns, min(height, rows - y)))


def _counts(mask: NDArray[np.bool_], side: int) -> NDArray[np.int32]:
    """Pixels of each cell that are in a mask."""
    rows, columns = mask.shape
    padded = np.pad(mask, ((0, -rows % side), (0, -columns % side)))
    cells = padded.reshape(padded.shape[0] // side, side, padded.shape[1] // side, side)
    return np.asarray(cells.sum(axis=(1, 3), dtype=np.int32))


def _is_tissue(strip: LabelArray, side: int, labels: Collection[int]) -> NDArray[np.bool_]:
    """Whether at least half of each cell is tissue, of what of it lies in the raster."""
    rows, columns = (np.diff([*range(0, length, side), length]) for length in strip.shape)
    return np.asarray(2 * _counts(np.isin(strip, [*labels]), side) >= np.outer(rows, columns))
