"""In which order areas are painted: what is painted later wins. The one place that decides where classes overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.choices import OverlapRule

INSIDE: Final = 0.95
"""An area lies inside another where at least this part of it does: people draw borders that do not quite meet."""

_CHUNK = 128  # areas whose neighbours are looked at together, which bounds the memory

Outlines = NDArray[np.object_]
"""(areas,) shapely geometries in level-0 px."""


@dataclass(frozen=True, slots=True)
class PaintedArea:
    """An area and the label that it gives to its pixels.

    Attributes:
        geometry: Its outline in level-0 px.
        label: The label.
        position: Its place in the order in which the areas of its slide were drawn.
        depth: How many objects it lies in, in the source's hierarchy.
        origin: Whose word it is, as `ORIGINS`.
    """

    geometry: BaseGeometry
    label: int
    position: int = 0
    depth: int = 0
    origin: int = ORIGINS["drawn"]


_KEYS: Final[dict[OverlapRule, Callable[[PaintedArea], tuple[float, ...]]]] = {
    "class-order": lambda area: (-area.label,),
    "smallest": lambda area: (-area.geometry.area, -area.label),
    "drawing": lambda area: (area.position,),
    "depth": lambda area: (area.depth, -area.label),
    "unlabelled": lambda area: (-area.label,),
}
"""Rules by which each area has its place for itself."""


def in_painting_order(areas: Sequence[PaintedArea], rule: OverlapRule) -> list[PaintedArea]:
    """The parts of areas in the order of painting.

    An area of several parts counts as a whole, but by the rule ``inner`` each part has its own place. Painting part by
    part changes no pixel, and spares a window the parts elsewhere.

    Args:
        areas: Areas in any order.
        rule: Which of several areas of different classes labels a pixel.
    """
    ordered = list(areas) if rule == "inner" else sorted(areas, key=_KEYS[rule])
    outlines = np.array([area.geometry for area in ordered], dtype=object)
    parts, owners = shapely.get_parts(outlines, return_index=True)
    order: Iterable[int] = range(len(parts))
    if rule == "inner":
        order = inner_last(parts, np.array([ordered[i].label for i in owners], np.int64)).tolist()
    return [replace(ordered[owners[i]], geometry=parts[i]) for i in order]


def inner_last(outlines: Outlines, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order of painting in which an area comes after what it lies in, and else the class order decides.

    An area has the rank of its class, the first class the highest, or that of what it lies in where that is higher: it
    counts as a part of what it lies in, which wins over whatever that wins over. Areas of one rank come in the order of
    how deep they lie, and then of their classes.

    Args:
        outlines: The areas; valid, and each of one part.
        labels: (areas,) their labels.

    Returns:
        (areas,) indices of the areas, the first to be painted first.
    """
    rank, depth = -labels, np.zeros(len(labels), np.int64)
    for inner, outer in pairs_inside(outlines, labels):
        rank[inner] = max(rank[inner], rank[outer])
        depth[inner] = max(depth[inner], depth[outer] + 1)
    return np.lexsort((-labels, depth, rank))


def pairs_inside(outlines: Outlines, labels: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Which area lies inside which other one of another class, by `INSIDE`.

    An area in the hole of another does not lie inside it. Of two that lie in each other, neither does.

    Args:
        outlines: The areas, valid.
        labels: (areas,) their labels.

    Yields:
        (inner, outer) indices, the largest inner area first, so that what the outer one itself lies in comes before.
    """
    tree, bounds, areas = shapely.STRtree(outlines), shapely.bounds(outlines), shapely.area(outlines)
    shapely.prepare(outlines)
    largest_first = np.argsort(-areas, kind="stable")
    for start in range(0, len(outlines), _CHUNK):
        chunk = largest_first[start : start + _CHUNK]
        place, outer = tree.query(outlines[chunk])
        inner = chunk[place]
        # Where boxes share too little, or the other area is not larger, nothing needs to be measured.
        low = np.maximum(bounds[inner, :2], bounds[outer, :2])
        high = np.minimum(bounds[inner, 2:], bounds[outer, 2:])
        shared_px2 = np.prod(np.maximum(high - low, 0), axis=1)
        likely = (labels[inner] != labels[outer]) & (areas[inner] > 0) & (areas[inner] < areas[outer])
        likely &= shared_px2 >= INSIDE * areas[inner]
        place, inner, outer = place[likely], inner[likely], outer[likely]
        covered = shapely.covers(outlines[outer], outlines[inner])
        shared_px2 = np.where(covered, areas[inner], 0.0)
        across = np.flatnonzero(~covered & shapely.intersects(outlines[outer], outlines[inner]))
        shared_px2[across] = [_shared_px2(outlines[inner[i]], outlines[outer[i]]) for i in across]
        inside = np.flatnonzero((shared_px2 >= INSIDE * areas[inner]) & (shared_px2 < INSIDE * areas[outer]))
        inside = inside[np.lexsort((outer[inside], place[inside]))]
        yield from zip(inner[inside].tolist(), outer[inside].tolist(), strict=True)


def _shared_px2(inner: BaseGeometry, outer: BaseGeometry) -> float:
    """Area in px2 that two areas share; of the outer one, which may be detailed, only what is near is looked at."""
    near = shapely.clip_by_rect(outer, *inner.bounds)
    return float(shapely.intersection(inner, near if near.is_valid else outer).area)
