"""How well borders of classes fit, tile by tile: strips along them, and distances between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dmmn_qp.labels.tallies import quotient
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray

DISTANCE_BINS: Final = 1000
"""Steps in which distances are kept for their percentiles."""

_TILE_PX: Final = 1024

_FEW: Final = 40_000
"""Border pixels up to which it is faster to look for the nearest than to know the distance of all pixels."""

_BOTH, _EITHER, _SUM, _NUMBER = range(4)

BoundarySums = NDArray[np.float64]
"""(..., C, 4 + DISTANCE_BINS): of each class the pixels of both strips and of either strip, the sum of the distances in
um, their number, and how many of them are in each step.
"""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BoundaryRules:
    """What counts along borders.

    Attributes:
        width_um: Width of the strips, inside the border.
        limit_um: Distances beyond count as this, which is also what a border counts that the other side lacks.
        mpp: um/px of the labels.
    """

    width_um: float
    limit_um: float
    mpp: float

    @property
    def width_px(self) -> float:
        """Width of the strips in px, at least 1."""
        return max(1.0, self.width_um / self.mpp)

    @property
    def halo_px(self) -> int:
        """How far around a pixel labels must be known."""
        return ceil(max(self.width_px, self.limit_um / self.mpp)) + 1


@dataclass(slots=True)
class BoundaryCounter:
    """Adds up strips and distances of one slide.

    The border of a class are those of its pixels that have a neighbour, above, below, left or right, of another class.
    Where nothing counts, or the slide ends, is no border. The strip of a class are those of its pixels that are at most
    its width, less one pixel, from a border: the border itself is one pixel wide.

    Attributes:
        classes: Number of classes.
        rules: What counts.
        sums: What has been added up.
    """

    classes: int
    rules: BoundaryRules
    sums: BoundarySums = field(init=False)

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.classes, 4 + DISTANCE_BINS))

    def add(self, true: LabelArray, found: LabelArray, core: Region) -> None:
        """Adds what lies in the core of a window.

        Args:
            true: (rows, columns) true classes from 1 on, 0 where nothing counts.
            found: Predicted ones: 0 at the same pixels, and more than ``classes`` for what is no true class.
            core: The part that is counted, in px of the window; `BoundaryRules.halo_px` around it must be there.
        """
        rows, columns = true.shape
        whole = Region(0, 0, columns, rows)
        for tile in core.tiles(core.height, _TILE_PX):
            window = tile.grown(self.rules.halo_px).intersection(whole)
            assert window is not None
            here = Region(tile.x - window.x, tile.y - window.y, tile.width, tile.height)
            self._add_tile(true[_slices(window)], found[_slices(window)], here)

    def _add_tile(self, true: LabelArray, found: LabelArray, core: Region) -> None:
        borders = _borders(true), _borders(found)
        if not (borders[0].any() or borders[1].any()):
            return
        here = _slices(core)
        strips = [np.where(_near(b, self.rules.width_px - 1)[here], labels[here], np.uint8(0))
                  for labels, b in zip((true, found), borders, strict=True)]  # fmt: skip
        for label in range(1, self.classes + 1):
            sides = [(labels == label) & border for labels, border in zip((true, found), borders, strict=True)]
            one, other = (strip == label for strip in strips)
            self.sums[label - 1, _BOTH] += np.count_nonzero(one & other)
            self.sums[label - 1, _EITHER] += np.count_nonzero(one | other)
            self._add_distances(label - 1, sides[0], sides[1], core)
            self._add_distances(label - 1, sides[1], sides[0], core)

    def _add_distances(self, i: int, border: Mask, other: Mask, core: Region) -> None:
        """Adds the distance from each border pixel in the core to the other border."""
        rules = self.rules
        wanted = np.zeros_like(border)
        wanted[_slices(core)] = border[_slices(core)]
        if not wanted.any():
            return
        distances = _distances(wanted, other, rules.halo_px) * rules.mpp
        distances = np.minimum(distances, rules.limit_um)
        steps = np.minimum(distances / rules.limit_um * DISTANCE_BINS, DISTANCE_BINS - 1).astype(np.int64)
        self.sums[i, _SUM] += distances.sum(dtype=np.float64)
        self.sums[i, _NUMBER] += len(distances)
        self.sums[i, 4:] += np.bincount(steps, minlength=DISTANCE_BINS)


def in_one_um(sums: BoundarySums, relative_um: NDArray[np.float64]) -> BoundarySums:
    """Sums of slides of different um/px, so that one does not weigh more because its pixels are smaller.

    Args:
        sums: (slides, 4 + DISTANCE_BINS) of one class.
        relative_um: (slides,) um/px of each slide in those of one of them.

    Returns:
        The same in pixels of that one: strips are areas, and the pixels of a border its length.
    """
    powers = np.ones(sums.shape[-1])
    powers[[_BOTH, _EITHER]] = 2
    weighted: BoundarySums = sums * relative_um[:, None] ** powers
    return weighted


def boundary_iou(sums: NDArray[Any]) -> NDArray[np.float64]:
    """(..., C) IoU of the strips; NaN for a class without any."""
    return quotient(sums[..., _BOTH], sums[..., _EITHER])


def mean_distance_um(sums: NDArray[Any]) -> NDArray[np.float64]:
    """(..., C) mean distance between the borders; NaN for a class without any."""
    return quotient(sums[..., _SUM], sums[..., _NUMBER])


def distance_percentile_um(sums: NDArray[Any], limit_um: float, part: float = 0.95) -> NDArray[np.float64]:
    """(..., C) the distance below which a part of the distances are, to a step; NaN for a class without any.

    Args:
        sums: `BoundarySums`.
        limit_um: `BoundaryRules.limit_um`.
        part: The part.
    """
    below = np.cumsum(sums[..., 4:], axis=-1)
    total = below[..., -1]
    step = (below < part * total[..., None]).sum(axis=-1)
    return np.where(total > 0, np.minimum((step + 0.5) / DISTANCE_BINS, 1.0) * limit_um, np.nan)


def _borders(labels: LabelArray) -> Mask:
    """Pixels with a neighbour of another class; what does not count is neither."""
    borders = np.zeros(labels.shape, np.bool_)
    for one, other in _neighbours():
        differ = (labels[one] != labels[other]) & (labels[one] != UNLABELLED) & (labels[other] != UNLABELLED)
        borders[one] |= differ
        borders[other] |= differ
    return borders


def _neighbours() -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    yield (slice(None, -1), slice(None)), (slice(1, None), slice(None))
    yield (slice(None), slice(None, -1)), (slice(None), slice(1, None))


def _near(border: Mask, reach_px: float) -> Mask:
    """Pixels that are at most so far from a border."""
    near = np.zeros_like(border)
    window = _box(border, ceil(reach_px) + 1)
    if window is not None:
        near[_slices(window)] = _distance_to(border[_slices(window)]) <= reach_px
    return near


def _distance_to(target: Mask) -> NDArray[np.float32]:
    """Distance of each pixel's centre to the nearest of the target, in px."""
    return np.asarray(cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


def _distances(wanted: Mask, target: Mask, limit_px: int) -> NDArray[np.float64]:
    """Distance of each wanted pixel's centre to the nearest of the target, in px; infinite beyond the limit."""
    if np.count_nonzero(target) <= _FEW and np.count_nonzero(wanted) <= _FEW:
        points = _points(target)
        if not len(points):
            return np.full(np.count_nonzero(wanted), np.inf)
        found, _ = cKDTree(points).query(_points(wanted), distance_upper_bound=limit_px + 1)
        return np.asarray(found)
    window = _box(wanted, limit_px)
    assert window is not None
    part = _slices(window)
    if not target[part].any():
        return np.full(np.count_nonzero(wanted), np.inf)
    return _distance_to(target[part])[wanted[part]].astype(np.float64)


def _points(mask: Mask) -> NDArray[np.int64]:
    """(n, 2) row and column of what is set."""
    return np.stack(np.divmod(np.flatnonzero(mask), mask.shape[1]), axis=1)


def _box(mask: Mask, margin: int) -> Region | None:
    """The rectangle around what is set, with a margin, inside the mask; None where nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    width, height = int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
    tight = Region(int(columns[0]), int(rows[0]), width, height)
    return tight.grown(margin).intersection(Region(0, 0, mask.shape[1], mask.shape[0]))


def _slices(region: Region) -> tuple[slice, slice]:
    return slice(region.y, region.bottom), slice(region.x, region.right)
