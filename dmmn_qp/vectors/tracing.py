"""Arcs put together to outlines, strip by strip.

`cracks` draws what cracks, arcs, half-arcs and rings are. A strip of rows knows the arcs within it; what goes on below
waits at the *seam*, the line of corners under its last row::

        +-----N                 strip 1: the outline is open; both its half-arcs along the seam are pending,
        |     |                          for what follows them is not known yet
    ....N.....N.... seam
        |     |                 strip 2: the half-arcs go on there, the ring closes, and the region is complete
        +-----+

A region is complete as soon as none of its half-arcs is pending. Its polygon is then made (`Tracer.take_complete`),
and its arcs are forgotten once the regions on both sides are done. So memory holds one strip and the open outlines
above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dmmn_qp.specs import LabelArray
from dmmn_qp.vectors.cracks import DOWN, UP, WAY_ON, Arcs, Cracks
from dmmn_qp.vectors.outlines import Integers, Outlines, join, ranges, starts
from dmmn_qp.vectors.simplify import simplify_arcs

OUTSIDE = -1
"""Label of what lies outside the map."""

_PENDING, _DONE = -1, -2


@dataclass(frozen=True, slots=True)
class Border:
    """Borders between regions whose polygons are all complete.

    Attributes:
        regions: (arcs, 2) anchors of the regions on both sides; -1 outside the map.
        lengths_px: (arcs,) length along the pixels' edges.
    """

    regions: Integers
    lengths_px: Integers


@dataclass(frozen=True, slots=True)
class TracedStrip:
    """What some rows of a map say by themselves: their arcs, of which those at the seams go on elsewhere.

    Attributes:
        cracks: The vertices.
        arcs: The arcs between them.
        x: (points,) column of the points of all arcs that are left after simplifying, one arc after the other.
        y: (points,) row.
        offsets: (arcs + 1,) where each arc starts.
        firsts: (arcs,) y << 32 | x of the first vertex of the whole arc, row by row.
        lengths: (arcs,) before simplifying, px.
        labels: (2 * arcs,) label right of each half-arc.
        west: Half-arcs of this strip that tie a hole to what is around it, each the partner of one of ``east``.
        east: Half-arcs that face them.
    """

    cracks: Cracks
    arcs: Arcs
    x: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    offsets: Integers
    firsts: Integers
    lengths: Integers
    labels: npt.NDArray[np.int16]
    west: Integers
    east: Integers


def trace_strip(
    pixels: LabelArray,
    above: npt.NDArray[np.uint8] | None,
    top: int,
    shape: tuple[int, int],
    cell: int,
    tolerance_px: float,
) -> TracedStrip:
    """Traces the arcs of some rows; nothing but them and the row above them is needed.

    Args:
        pixels: Labels of the rows.
        above: Labels of the row above; None at the top of the map.
        top: First row.
        shape: (rows, columns) of the map.
        cell: Distance of the lines of the grid.
        tolerance_px: See `polygonize`.
    """
    rows, columns = shape
    cracks = Cracks(pixels, above, top, rows, cell)
    arcs = Arcs(cracks)
    keep = np.ones(len(arcs.vertices), bool)
    x, y = cracks.x[arcs.vertices], cracks.y[arcs.vertices]
    edges = np.abs(np.diff(x)) + np.abs(np.diff(y))
    edges = np.append(edges, 0)
    edges[arcs.offsets[1:] - 1] = 0
    lengths = np.add.reduceat(edges, arcs.offsets[:-1]) if len(arcs) else np.zeros(0, np.int64)
    firsts = np.minimum.reduceat(y << 32 | x, arcs.offsets[:-1]) if len(arcs) else np.zeros(0, np.int64)
    west, east = _facing(cracks, arcs, x, y, columns)
    if tolerance_px > 0 and len(arcs):
        stride, locked = columns + 1, _locked(x, y, arcs.offsets, shape)
        keys = cracks.y * stride + cracks.x
        keep = simplify_arcs(x, y, arcs.offsets, arcs.vertices, keys, stride, locked, tolerance_px)
    kept = np.add.reduceat(keep, arcs.offsets[:-1], dtype=np.int64) if len(arcs) else np.zeros(0, np.int64)
    return TracedStrip(
        cracks,
        arcs,
        x[keep].astype(np.int32),
        y[keep].astype(np.int32),
        starts(kept),
        firsts,
        lengths,
        _labels_right_of(cracks, arcs, pixels, above),
        west,
        east,
    )


def _locked(x: Integers, y: Integers, offsets: Integers, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Points next to the right and bottom border, which stay: the slide may cut the last pixels there."""
    locked = np.zeros(len(x), bool)
    at_border = (x == shape[1]) | (y == shape[0])
    for end, inner in ((offsets[:-1], offsets[:-1] + 1), (offsets[1:] - 1, offsets[1:] - 2)):
        locked[inner[at_border[end]]] = True
    return locked


def _facing(cracks: Cracks, arcs: Arcs, x: Integers, y: Integers, columns: int) -> tuple[Integers, Integers]:
    """Pairs of half-arcs of a strip that face each other across a row of one region, from its right end to its left
    end; one for the leftmost edge of each arc. They tie holes to what is around them.
    """
    vertical = np.flatnonzero((np.diff(x) == 0) & (np.diff(arcs.of_points) == 0))
    if not len(vertical):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = vertical[np.lexsort((x[vertical], arcs.of_points[vertical]))]
    edge = order[np.flatnonzero(np.diff(arcs.of_points[order], prepend=-1))]
    edge = edge[x[edge] > 0]
    row = np.minimum(y[edge], y[edge + 1])
    west = 2 * arcs.of_points[edge] + (y[edge + 1] < y[edge])
    width = columns + 1
    walls = cracks.walls
    left = walls[np.searchsorted(walls, (row - cracks.top) * width + x[edge]) - 1] % width
    at = cracks.by_column[np.searchsorted(cracks.column_keys, (left << 32) | row, side="right") - 1]
    return west, arcs.half_arc_of(4 * at + DOWN) ^ 1


class Tracer:
    """The arcs of regions that are not complete yet.

    Half-arc ``2 * arc + side`` has its region on the right: side 0 runs as the arc does, side 1 the other way.
    """

    def __init__(self, *, keep_grid: bool) -> None:
        self.keep_grid = keep_grid
        self.x = self.y = np.zeros(0, np.int32)
        self.offsets = np.zeros(1, np.int64)
        self.firsts = np.zeros(0, np.int64)  # (arcs,) y << 32 | x of the first vertex of the whole arc, row by row
        self.lengths = np.zeros(0, np.int64)  # (arcs,) before simplifying
        self.labels = np.zeros(0, np.int16)  # from here on (half-arcs,)
        self.next = np.zeros(0, np.int64)
        self.regions = np.zeros(0, np.int64)
        self.anchors = np.zeros(0, np.int64)
        self.meeting = np.zeros(0, bool)  # whether it starts where regions may meet themselves
        self.on_line = np.zeros(0, bool)  # whether it starts where nothing but a line of the grid makes a vertex
        self.seam_x = self.seam_leave = self.seam_arrive = np.zeros(0, np.int64)
        self.complete = np.zeros(0, bool)

    def add(self, strip: TracedStrip) -> None:
        """Joins the arcs of the next rows to those above."""
        n_old = len(self.firsts)
        self.x = np.concatenate([self.x, strip.x])
        self.y = np.concatenate([self.y, strip.y])
        self.offsets = np.concatenate([self.offsets, self.offsets[-1] + strip.offsets[1:]])
        self.firsts = np.concatenate([self.firsts, strip.firsts])
        self.lengths = np.concatenate([self.lengths, strip.lengths])
        self._join(strip, 2 * n_old)

    def _join(self, strip: TracedStrip, base: int) -> None:
        """Adds the half-arcs of a strip, finds which follows which, and which belong to one region."""
        cracks, arcs, west, east = strip.cracks, strip.arcs, strip.west, strip.east
        n_new = 2 * len(arcs)
        n = base + n_new
        leave = np.full(4 * len(cracks.x), -1)
        arrive = leave.copy()
        half = base + 2 * np.arange(len(arcs))
        leave[arcs.start_ports], arrive[arcs.end_ports] = half, half
        leave[arcs.end_ports], arrive[arcs.start_ports] = half + 1, half + 1
        if len(self.seam_x):
            on_seam = np.flatnonzero((cracks.y == cracks.top) & (cracks.bits >> UP & 1 == 1))
            leave[4 * on_seam + UP], arrive[4 * on_seam + UP] = self.seam_leave, self.seam_arrive
        after = np.concatenate([self.next, np.full(n_new, _PENDING)])
        settled = np.flatnonzero((arrive >= 0) & np.repeat(~cracks.below, 4))
        vertex, port = settled >> 2, settled & 3
        after[arrive[settled]] = leave[4 * vertex + WAY_ON[port, cracks.bits[vertex]]]

        start_vertex = np.stack([arcs.start_ports >> 2, arcs.end_ports >> 2], 1).ravel()
        bits = cracks.bits[start_vertex]
        self.meeting = np.concatenate([self.meeting, bits == 15])
        self.on_line = np.concatenate([self.on_line, (bits == 3) | (bits == 12)])
        # A half-arc that starts on the seam below: whether regions meet there is known with the next strip.
        if len(self.seam_x):
            known = cracks.bits[on_seam]
            self.meeting[self.seam_leave] = known == 15
            self.on_line[self.seam_leave] = known == 12
        self.labels = np.concatenate([self.labels, strip.labels])
        self.anchors = np.concatenate([self.anchors, np.full(n_new, -1)])
        self.next = after

        linked = np.flatnonzero(after >= 0)
        old = np.flatnonzero(self.next[:base] != _DONE)
        a = np.concatenate([linked, base + west, old])
        b = np.concatenate([after[linked], base + east, self.regions[old]])
        _, self.regions = connected_components(coo_array((np.ones(len(a), bool), (a, b)), shape=(n, n)), directed=False)
        open_regions = np.zeros(n, bool)
        open_regions[self.regions[after == _PENDING]] = True
        self.complete = ~open_regions[self.regions] & (after != _DONE)

        seam = np.flatnonzero(cracks.below)
        self.seam_x = cracks.x[seam]
        self.seam_leave, self.seam_arrive = leave[4 * seam + UP], arrive[4 * seam + UP]

    def take_complete(self, skip: frozenset[int]) -> Outlines:
        """Polygons of the complete regions, and the regions' anchors."""
        halves = np.flatnonzero(self.complete & (self.labels != OUTSIDE))
        if not len(halves):
            return join([])
        order, ring_starts = _rings(halves, self.next, self._meetings())
        region = self.regions[order[ring_starts[:-1]]]
        first = np.minimum.reduceat(self.firsts[order >> 1], ring_starts[:-1])
        anchor = np.full(len(self.next), np.iinfo(np.int64).max)
        np.minimum.at(anchor, region, first)
        self.anchors[halves] = anchor[self.regions[halves]]
        wanted = ~np.isin(self.labels[order[ring_starts[:-1]]], list(skip))
        ring = np.flatnonzero(wanted)
        if not len(ring):
            return join([])
        order = order[ranges(ring_starts[ring], ring_starts[ring + 1])]
        ring_starts = starts(np.diff(ring_starts)[ring])
        return self._outlines(order, ring_starts, anchor[region[ring]])

    def _outlines(self, order: Integers, ring_starts: Integers, anchors: Integers) -> Outlines:
        """Polygons of rings of half-arcs, each with the anchor of its region."""
        points, of_half = self._points(order)
        ring_of_point = np.repeat(np.arange(len(ring_starts) - 1), np.diff(ring_starts))[of_half]
        x, y = self.x[points].astype(np.int64), self.y[points].astype(np.int64)
        point_starts = starts(np.bincount(ring_of_point, minlength=len(ring_starts) - 1))
        # Each ring starts at its first point, row by row, however it was put together.
        key = y << 32 | x
        least = np.minimum.reduceat(key, point_starts[:-1])
        begin = np.flatnonzero(key == least[ring_of_point])
        length = np.diff(point_starts)
        closed = starts(length + 1)
        turn = (
            np.arange(closed[-1])
            - np.repeat(closed[:-1], length + 1)
            + np.repeat(begin - point_starts[:-1], length + 1)
        )
        turned = np.repeat(point_starts[:-1], length + 1) + turn % np.repeat(length, length + 1)
        x, y = x[turned], y[turned]
        twice = np.zeros(len(x), np.int64)
        twice[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        twice[closed[1:] - 1] = 0
        is_hole = np.add.reduceat(twice, closed[:-1]) < 0
        by_region = np.lexsort((least, is_hole, anchors))
        index = ranges(closed[by_region], closed[by_region + 1])
        shells = np.flatnonzero(~is_hole[by_region])
        return Outlines(
            np.stack([x[index], y[index]], 1).astype(np.int32),
            starts((length + 1)[by_region]),
            np.append(shells, len(by_region)),
            self.labels[order[ring_starts[:-1]]][by_region][shells].astype(np.uint8),
            anchors[by_region][shells],
            np.zeros(len(shells), np.int64),
        )

    def _meetings(self) -> Integers:
        """(half-arcs,) the corner at which each starts where regions may meet themselves, else -1."""
        ends = np.stack([self.offsets[:-1], self.offsets[1:] - 1], 1).ravel()
        corners = self.y[ends].astype(np.int64) << 32 | self.x[ends]
        return np.where(self.meeting, corners, -1)

    def _points(self, order: Integers) -> tuple[Integers, Integers]:
        """Indices of the half-arcs' points without their last ones, and which half-arc each is of."""
        arc, backwards = order >> 1, (order & 1) == 1
        length = self.offsets[arc + 1] - self.offsets[arc] - 1
        of_half = np.repeat(np.arange(len(order)), length)
        step = np.arange(len(of_half)) - starts(length)[of_half]
        points = np.where(
            backwards[of_half], self.offsets[arc + 1][of_half] - 1 - step, self.offsets[arc][of_half] + step
        )
        if not self.keep_grid:
            wanted = ~((step == 0) & self.on_line[order][of_half])
            points, of_half = points[wanted], of_half[wanted]
        return points, of_half

    def take_borders(self) -> Border:
        """Borders of which the second side is complete now."""
        known = self.anchors.reshape(-1, 2).copy()
        outside = self.labels.reshape(-1, 2) == OUTSIDE
        both = np.flatnonzero(((known >= 0) | outside).all(1))
        return Border(known[both], self.lengths[both])

    def forget_complete(self) -> None:
        """Drops arcs with both sides complete."""
        self.next[self.complete] = _DONE
        kept = np.flatnonzero((self.next.reshape(-1, 2) != _DONE).any(1))
        number = np.full(len(self.firsts), -1)
        number[kept] = np.arange(len(kept))
        halves = np.stack([2 * kept, 2 * kept + 1], 1).ravel()
        points = ranges(self.offsets[kept], self.offsets[kept + 1])
        self.x, self.y = self.x[points], self.y[points]
        self.offsets = starts(np.diff(self.offsets)[kept])
        self.firsts, self.lengths = self.firsts[kept], self.lengths[kept]
        self.labels, self.anchors = self.labels[halves], self.anchors[halves]
        self.meeting, self.on_line = self.meeting[halves], self.on_line[halves]
        after = self.next[halves]
        self.next = np.where(after >= 0, 2 * number[after >> 1] + (after & 1), after)
        _, first, inverse = np.unique(self.regions[halves], return_index=True, return_inverse=True)
        self.regions = first[inverse]
        self.seam_leave = 2 * number[self.seam_leave >> 1] + (self.seam_leave & 1)
        self.seam_arrive = 2 * number[self.seam_arrive >> 1] + (self.seam_arrive & 1)


def _labels_right_of(
    cracks: Cracks, arcs: Arcs, pixels: LabelArray, above: npt.NDArray[np.uint8] | None
) -> npt.NDArray[np.int16]:
    """Label right of each half-arc, from the first step of its arc."""
    height, width = pixels.shape
    vertex, way = arcs.start_ports >> 2, arcs.start_ports & 3
    x, y = cracks.x[vertex], cracks.y[vertex] - cracks.top
    labels = np.full((len(arcs), 2), OUTSIDE, np.int16)
    # Pixel right of a step as (rows, columns) from its vertex, by port: left, right, up, down; then left of it.
    sides = ((np.array([-1, 0, -1, 0]), np.array([-1, 0, 0, -1])), (np.array([0, -1, -1, 0]), np.array([-1, 0, -1, 0])))
    for side, (down, right) in enumerate(sides):
        row, column = y + down[way], x + right[way]
        inside = (column >= 0) & (column < width) & (row < height)
        here = np.flatnonzero(inside & (row >= 0))
        labels[here, side] = pixels[row[here], column[here]]
        if above is not None:
            over = np.flatnonzero(inside & (row < 0))
            labels[over, side] = above[column[over]]
    return labels.ravel()


def _rings(halves: Integers, after: Integers, corners: Integers) -> tuple[Integers, Integers]:
    """Half-arcs in the order of their rings, and where each ring starts.

    A ring that comes twice to a corner where four regions meet is cut in two there: the pixels of its region that touch
    at that corner part what is on both sides of them.

    Args:
        halves: The half-arcs of whole regions.
        after: (half-arcs,) which follows which.
        corners: (half-arcs,) the corner at which a half-arc starts where four regions meet, else -1.
    """
    follows, corner_of = after.tolist(), corners.tolist()
    seen = bytearray(len(follows))
    order: list[int] = []
    lengths: list[int] = []

    def add(ring: list[int]) -> None:
        order.extend(ring)
        lengths.append(len(ring))

    for first in halves.tolist():
        if seen[first]:
            continue
        half = first
        ring: list[int] = []
        place: dict[int, int] = {}
        while not seen[half]:
            seen[half] = 1
            corner = corner_of[half]
            if corner >= 0:
                at = place.get(corner)
                if at is not None:
                    for inner in ring[at:]:
                        place.pop(corner_of[inner], None)
                    add(ring[at:])
                    del ring[at:]
                place[corner] = len(ring)
            ring.append(half)
            half = follows[half]
        add(ring)
    return np.array(order, np.int64), starts(np.array(lengths))
