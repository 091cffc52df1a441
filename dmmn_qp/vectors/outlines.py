"""Polygons of many label regions in a few arrays, as the tracer makes them and the GeoJSON writer takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import shapely

from dmmn_qp.annotations import Color, ObjectKind

Integers = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]

_SALTS = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))  # digits of pi
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio's, which has no pattern either
_STIRS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons with their labels.

    Attributes:
        xy: (points, 2) x and y of all rings one after the other, each closed (its first point is its last one too):
            int32 in pixels of the raster, or what `moved` made of them.
        rings: (rings + 1,) where each ring starts in ``xy``.
        polygons: (polygons + 1,) where each polygon starts in ``rings``; its shell comes first, then its holes.
        labels: (polygons,) uint8.
        anchors: (polygons,) first pixel of each region, row by row: ``y << 32 | x`` in pixels of the raster. It tells
            regions of one raster apart, however they are simplified.
        parts: (polygons,) number of the piece of a region that was split; 0 of one that was not.
    """

    xy: npt.NDArray[Any]
    rings: Integers
    polygons: Integers
    labels: npt.NDArray[np.uint8]
    anchors: Integers
    parts: Integers

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def vertices(self) -> Integers:
        """(polygons,) number of points of each polygon."""
        ends = self.rings[self.polygons]
        return np.diff(ends)

    def geometries(self) -> npt.NDArray[np.object_]:
        """(polygons,) shapely polygons."""
        if not len(self):
            return np.empty(0, object)
        found: npt.NDArray[np.object_] = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, self.xy.astype(float), (self.rings, self.polygons)
        )
        return found

    def moved(self, xy: npt.NDArray[Any]) -> Outlines:
        """The same polygons with other coordinates for their points."""
        return replace(self, xy=xy)

    def take(self, chosen: npt.NDArray[Any]) -> Outlines:
        """Some of the polygons, by mask or index."""
        index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        ring_index = ranges(self.polygons[index], self.polygons[index + 1])
        point_index = ranges(self.rings[ring_index], self.rings[ring_index + 1])
        return Outlines(
            self.xy[point_index],
            starts(np.diff(self.rings)[ring_index]),
            starts(np.diff(self.polygons)[index]),
            self.labels[index],
            self.anchors[index],
            self.parts[index],
        )

    def areas(self) -> npt.NDArray[np.float64]:
        """(polygons,) area of each polygon without its holes, in squares of the unit of ``xy``."""
        x, y = self.xy[:, 0].astype(float), self.xy[:, 1].astype(float)
        twice = np.zeros(len(x))
        twice[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        twice[self.rings[1:] - 1] = 0  # from the end of one ring to the start of the next
        of_rings = np.abs(np.add.reduceat(twice, self.rings[:-1])) / 2 if len(x) else np.zeros(0)
        of_rings = -of_rings
        of_rings[self.polygons[:-1]] *= -1
        return np.add.reduceat(of_rings, self.polygons[:-1]) if len(self) else np.zeros(0)

    def digests(self, first: Integers) -> list[str]:
        """What tells the outline of each object from any other: 32 hexadecimal digits of its edges.

        Where a ring starts, its direction and the order of rings and polygons count for nothing.

        Args:
            first: (objects,) where the polygons of each object start; each object goes on to the next one's start.

        Returns:
            (objects,) texts; coordinates that are equal to 0.01 of their unit give equal ones.
        """
        if not len(first):
            return []
        points = _mixed(*np.rint(self.xy.T.astype(np.float64) * 100).astype(np.int64).view(np.uint64))
        one, other = np.minimum(points[:-1], points[1:]), np.maximum(points[:-1], points[1:])
        between = self.rings[1:-1] - 1  # from the end of one ring to the start of the next there is no edge
        starts_of_objects = self.rings[self.polygons[first]]
        sums = []
        for salt in _SALTS:
            edges = np.zeros(len(points), np.uint64)
            edges[:-1] = _mixed(one + salt, other)
            edges[between] = 0
            sums.append(np.add.reduceat(edges, starts_of_objects).tolist())
        return [f"{a:016x}{b:016x}" for a, b in zip(*sums, strict=True)]

    def perimeters(self) -> npt.NDArray[np.float64]:
        """(polygons,) length of the outline and of the holes' outlines, in the unit of ``xy``."""
        steps = np.zeros(len(self.xy))
        steps[:-1] = np.hypot(*np.diff(self.xy.astype(float), axis=0).T)
        steps[self.rings[1:] - 1] = 0
        return np.add.reduceat(steps, self.rings[self.polygons[:-1]]) if len(self) else np.zeros(0)

    @classmethod
    def of_geometries(
        cls,
        geometries: Sequence[shapely.Polygon],
        labels: npt.NDArray[np.uint8],
        anchors: Integers,
        parts: Integers,
    ) -> Outlines:
        """Outlines of shapely polygons whose points are whole pixels."""
        _, xy, (rings, polygons) = shapely.to_ragged_array(geometries)
        whole = np.rint(xy).astype(np.int32)
        return cls(whole, rings.astype(np.int64), polygons.astype(np.int64), labels, anchors, parts)


def _mixed(a: _Words, b: _Words) -> _Words:
    """A number for each pair of numbers in which every bit of both counts (SplitMix64, twice); sums wrap."""
    return _stirred(_stirred(a + _SPREAD) + b)


def _stirred(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * _STIRS[0]
    words = (words ^ (words >> np.uint64(27))) * _STIRS[1]
    return words ^ (words >> np.uint64(31))


def join(batches: Sequence[Outlines]) -> Outlines:
    """All polygons of some batches in one."""
    if not batches:
        none = np.zeros(0, np.int64)
        zero = np.zeros(1, np.int64)
        return Outlines(np.zeros((0, 2), np.int32), zero, zero, np.zeros(0, np.uint8), none, none)
    return Outlines(
        np.concatenate([b.xy for b in batches]),
        starts(np.concatenate([np.diff(b.rings) for b in batches])),
        starts(np.concatenate([np.diff(b.polygons) for b in batches])),
        np.concatenate([b.labels for b in batches]),
        np.concatenate([b.anchors for b in batches]),
        np.concatenate([b.parts for b in batches]),
    )


def starts(lengths: npt.NDArray[Any]) -> Integers:
    """Where pieces of such lengths start, one after the other; (n + 1,), the last is the end of all."""
    found = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=found[1:])
    return found


def ranges(first: npt.NDArray[Any], behind: npt.NDArray[Any]) -> Integers:
    """``first[0] .. behind[0] - 1``, then ``first[1] .. behind[1] - 1``, and so on."""
    lengths = np.asarray(behind, np.int64) - first
    offsets = starts(lengths)
    return np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)


@dataclass(frozen=True, slots=True)
class OutlineFeatures:
    """Objects for QuPath made of outlines: what `Annotation` says of one, for many at once.

    Attributes:
        outlines: Their polygons in level-0 px of QuPath's frame. They must be valid, also after rounding to 0.01 px.
        features: (objects + 1,) where the polygons of each object start.
        ids: (objects,) QuPath's ids.
        classes: Label -> full class name and colour.
        kind: QuPath's kind of object.
        measurements: Named numbers, each (objects,); where one is not finite, that object goes without.
        metadata: Named texts that all have.
        class_metadata: Label -> named texts that its objects have besides.
    """

    outlines: Outlines
    features: Integers
    ids: Sequence[UUID]
    classes: Mapping[int, tuple[str, Color]]
    kind: ObjectKind = "annotation"
    measurements: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    class_metadata: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
