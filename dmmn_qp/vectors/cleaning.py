"""Small regions and holes taken out of a label map before it is traced, so that no gap can arise.

The map is traced once to learn the areas and borders of its regions. What is too small is then painted over, in the
label of its neighbour, whenever the map is read. The map itself is not changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.features import rasterize as burn

from dmmn_qp.regions import Region
from dmmn_qp.specs import LabelArray
from dmmn_qp.vectors.cracks import CELL_PX
from dmmn_qp.vectors.outlines import Integers, Outlines, join
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import LabelSource
from dmmn_qp.vectors.tracing import Border


@dataclass(frozen=True, slots=True)
class Found:
    """What a map held of a label.

    Attributes:
        regions: Number of its regions.
        dissolved: How many of them were too small, and have another label now; holes that were filled do not count.
        dissolved_px: Area of these.
    """

    regions: int
    dissolved: int
    dissolved_px: float


@dataclass(frozen=True, slots=True)
class Repainted:
    """A label map with some areas painted over.

    Attributes:
        source: The map.
        areas: What is painted over, in the order of painting, in pixels of the map.
        labels: (areas,) with what.
        fixed: Labels of pixels that stay as they are all the same.
        found: What the map held before, by label.
        tops: (areas,) first row of each.
        bottoms: (areas,) row behind the last.
    """

    source: LabelSource
    areas: Outlines
    labels: npt.NDArray[np.uint8]
    tops: Integers
    bottoms: Integers
    fixed: frozenset[int] = frozenset()
    found: Mapping[int, Found] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.source.shape

    def read(self, window: Region) -> LabelArray:
        """Labels of a window inside the map: (height, width) uint8."""
        labels = np.array(self.source.read(window))
        touched = np.flatnonzero((self.tops < window.bottom) & (self.bottoms > window.y))
        if len(touched):
            shapes = zip(self.areas.take(touched).geometries(), self.labels[touched].tolist(), strict=True)
            kept = np.isin(labels, list(self.fixed))
            before = labels[kept]
            burn(shapes, out=labels, transform=Affine.translation(window.x, window.y))
            labels[kept] = before
        return labels


def clean(
    source: LabelSource,
    min_area_px: float,
    min_hole_px: float,
    *,
    fixed: frozenset[int] = frozenset(),
    strip_px: int = CELL_PX,
    cell_px: int = CELL_PX,
) -> Repainted:
    """Dissolves small regions into their neighbours and fills small holes.

    A region goes to the neighbour with which it shares the longest border, the smallest region first; what it joins
    counts as larger from then on. One that has no neighbour to go to stays. A hole is all that one region
    encloses, be it one region or several; it is filled with what is around it.

    Args:
        source: The label map.
        min_area_px: Regions of fewer pixels are dissolved.
        min_hole_px: Holes of fewer pixels are filled.
        fixed: Labels whose pixels neither go to others nor take others in.
        strip_px: Rows that are read at a time.
        cell_px: See `polygonize`.

    Returns:
        The map as it reads after that.
    """
    borders: list[Border] = []
    small: list[Outlines] = []
    holes: list[Outlines] = []
    known: list[tuple[Integers, npt.NDArray[np.uint8], npt.NDArray[np.float64]]] = []
    for found in polygonize(source, skip=frozenset(), strip_px=strip_px, cell_px=cell_px, borders=borders):
        areas = found.areas()
        known.append((found.anchors, found.labels, areas))
        small.append(found.take(areas < min_area_px))
        holes.append(_holes_below(found, min_hole_px, fixed))
    anchors, labels, areas = (np.concatenate(parts) for parts in zip(*known, strict=True))
    order = np.argsort(anchors)
    anchors, labels, areas = anchors[order], labels[order], areas[order]
    final = labels[_dissolved(anchors, labels, areas, borders, min_area_px, fixed)]
    painted = join(small + holes)
    painted = painted.take(np.argsort(painted.areas(), kind="stable"))
    becomes = final[np.searchsorted(anchors, painted.anchors)]
    y = painted.xy[:, 1].astype(np.int64)
    first = painted.rings[painted.polygons[:-1]]
    tops = np.minimum.reduceat(y, first) if len(first) else first
    bottoms = np.maximum.reduceat(y, first) if len(first) else first
    return Repainted(source, painted, becomes, tops, bottoms, fixed, _found(labels, areas, final != labels))


def _found(
    labels: npt.NDArray[np.uint8], areas: npt.NDArray[np.float64], is_gone: npt.NDArray[np.bool_]
) -> dict[int, Found]:
    """What a map holds of each label, and how much of it is dissolved."""
    return {
        label: Found(
            regions=int((of_label := labels == label).sum()),
            dissolved=int((of_label & is_gone).sum()),
            dissolved_px=float(areas[of_label & is_gone].sum()),
        )
        for label in np.unique(labels).tolist()
    }


def _holes_below(found: Outlines, min_hole_px: float, fixed: frozenset[int]) -> Outlines:
    """The small holes of polygons as polygons of their own, with the anchors of what is around them."""
    n_rings = np.diff(found.polygons)
    rings = Outlines(
        found.xy,
        found.rings,
        np.arange(len(found.rings)),
        np.repeat(found.labels, n_rings),
        np.repeat(found.anchors, n_rings),
        np.repeat(found.parts, n_rings),
    )
    is_hole = np.ones(len(rings), bool)
    is_hole[found.polygons[:-1]] = False
    is_hole &= ~np.isin(rings.labels, list(fixed))
    return rings.take(is_hole & (rings.areas() < min_hole_px))


def _dissolved(
    anchors: Integers,
    labels: npt.NDArray[np.uint8],
    areas: npt.NDArray[np.float64],
    borders: list[Border],
    min_area_px: float,
    fixed: frozenset[int],
) -> Integers:
    """(regions,) the region into which each goes in the end; itself where it stays."""
    pairs = np.concatenate([border.regions for border in borders])
    lengths = np.concatenate([border.lengths_px for border in borders])
    inside = (pairs >= 0).all(1)
    index = np.searchsorted(anchors, pairs[inside])
    is_fixed = np.isin(labels, list(fixed))
    is_small = (areas < min_area_px) & ~is_fixed
    beside: dict[int, dict[int, int]] = {i: {} for i in np.flatnonzero(is_small).tolist()}
    concerned = is_small[index].any(1)
    for (a, b), length in zip(index[concerned].tolist(), lengths[inside][concerned].tolist(), strict=True):
        for one, other in ((a, b), (b, a)):
            if one in beside:
                beside[one][other] = beside[one].get(other, 0) + length
    goes_to = list(range(len(anchors)))
    total = areas.tolist()

    def root(i: int) -> int:
        while goes_to[i] != i:
            goes_to[i] = goes_to[goes_to[i]]
            i = goes_to[i]
        return i

    def merge(one: int, into: int) -> None:
        goes_to[one] = into
        total[into] += total[one]
        given, kept = beside.pop(one, {}), beside.get(into)
        if kept is not None:
            for other, length in given.items():
                kept[other] = kept.get(other, 0) + length
            heapq.heappush(waiting, (total[into], into))

    waiting = [(total[i], i) for i in beside]
    heapq.heapify(waiting)
    while waiting:
        area, one = heapq.heappop(waiting)
        if goes_to[one] != one or area != total[one] or area >= min_area_px:
            continue
        shared: dict[int, int] = {}
        for other, length in beside[one].items():
            if (neighbour := root(other)) != one and not is_fixed[neighbour]:
                shared[neighbour] = shared.get(neighbour, 0) + length
        if not shared:
            continue
        target = max(shared, key=lambda i: (shared[i], total[i], -i))
        merge(one, target)
        for neighbour in shared:  # what has the same label is connected through it now
            if neighbour != target and labels[neighbour] == labels[target]:
                merge(neighbour, target)
    return np.array([root(i) for i in range(len(goes_to))], np.int64)
