"""Label maps -> polygons along the pixels' edges, strip by strip.

Between pixels of different labels runs a *crack*. Corners of pixels where cracks turn are vertices; where three or four
meet are *nodes*. What runs from node to node is an *arc*, with one region on its right and one on its left. A strip of
rows gives arcs; a region is complete when every arc around it is, and is then put together from them. Because both
regions beside an arc are made of the same arc, polygons fit together by construction: no gap, no overlap, no vertex
that only one of two neighbours has. The outside of the map is a region like others, so its border has nodes too.

Arcs also end where they meet the lines of a grid of `CELL_PX`: there seams between strips run, there large regions may
be split, and no arc leaves its cell, which bounds the work on it. These vertices lie on the border anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dmmn_qp.labels.painter import LabelArray
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED
from dmmn_qp.vectors.outlines import Integers, Outlines, join, ranges, starts
from dmmn_qp.vectors.simplify import simplify_arcs

CELL_PX = 1024
"""Distance of the grid lines at which arcs end, and the least height of a strip."""

OUTSIDE = -1
"""Label of what lies outside the map."""

_LEFT, _RIGHT, _UP, _DOWN = range(4)
_OPPOSITE = np.array([_RIGHT, _LEFT, _DOWN, _UP])
_RIGHT_TURN = np.array([_UP, _DOWN, _RIGHT, _LEFT])
_PENDING, _DONE = -1, -2


def _ways_on() -> npt.NDArray[np.int64]:
    """[port of arrival, cracks at the vertex as bits] -> port to leave by, keeping to the region on the right."""
    table = np.zeros((4, 16), np.int64)
    for port in range(4):
        heading = _OPPOSITE[port]
        for cracks in range(16):
            ways = (_RIGHT_TURN[heading], heading, _OPPOSITE[_RIGHT_TURN[heading]])
            table[port, cracks] = next((way for way in ways if cracks >> way & 1), port)
    return table


_WAY_ON = _ways_on()


class LabelSource(Protocol):
    """A label map that is read in windows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def read(self, window: Region) -> LabelArray:
        """Labels of a window: (window.height, window.width) uint8."""


@dataclass(frozen=True, slots=True)
class ArrayLabels:
    """A label map in memory as a source.

    Attributes:
        labels: (rows, columns) uint8.
    """

    labels: LabelArray

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.labels.shape[0], self.labels.shape[1]

    def read(self, window: Region) -> LabelArray:
        """Labels of a window inside the map."""
        return self.labels[window.y : window.bottom, window.x : window.right]


@dataclass(frozen=True, slots=True)
class Border:
    """Borders between regions whose polygons are all complete.

    Attributes:
        regions: (arcs, 2) anchors of the regions on both sides; -1 outside the map.
        lengths_px: (arcs,) length along the pixels' edges.
    """

    regions: Integers
    lengths_px: Integers


def polygonize(
    source: LabelSource,
    *,
    skip: frozenset[int] = frozenset({UNLABELLED}),
    simplify_px: float = 0.0,
    max_vertices: int | None = None,
    strip_px: int = CELL_PX,
    cell_px: int = CELL_PX,
    borders: list[Border] | None = None,
) -> Iterator[Outlines]:
    """Traces the connected regions of a label map.

    Pixels that meet only at a corner are not connected (connectivity 4), which keeps every polygon valid. The polygons
    of all labels together are a valid coverage. Where nothing is simplified they follow the pixels' edges, so their
    area is the number of their pixels. Memory is bounded by the strip and the outlines of regions that go on below it.

    Args:
        source: The label map.
        skip: Labels that give no polygons.
        simplify_px: Tolerance in pixels, the square root of the largest triangle that simplifying cuts off a border;
            0 keeps every pixel's edge. The result does not depend on ``strip_px``.
        max_vertices: Polygons of more points are split along the lines of the grid; None splits none.
        strip_px: Rows that are read at a time, a multiple of ``cell_px``.
        cell_px: Distance of the lines of the grid.
        borders: Where given, lengths of the borders between regions are added to it.

    Yields:
        The regions that became complete with a strip, ordered by their first pixel; x and y are whole pixels, the
        top-left pixel's corner is (0, 0).
    """
    if strip_px % cell_px:
        raise ValueError(f"strip_px {strip_px} is no multiple of cell_px {cell_px}")
    rows, columns = source.shape
    tracer = _Tracer(rows, columns, cell_px, simplify_px, keep_grid=max_vertices is not None or simplify_px > 0)
    for y in range(0, rows, strip_px):
        pixels = source.read(Region(0, y, columns, min(strip_px, rows - y)))
        tracer.add_strip(pixels, y)
        found = tracer.take_complete(skip)
        if borders is not None:
            borders.append(tracer.take_borders())
        tracer.forget_complete()
        if len(found):
            yield found if max_vertices is None else split(found, max_vertices, cell_px)


class _Tracer:
    """The arcs of regions that are not complete yet. A half-arc ``2 * arc + side`` is an arc with the region on its
    right: side 0 as the arc runs, side 1 the other way.
    """

    def __init__(self, rows: int, columns: int, cell: int, tolerance: float, *, keep_grid: bool) -> None:
        self.rows, self.columns, self.cell = rows, columns, cell
        self.tolerance, self.keep_grid = tolerance, keep_grid
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
        self.above: npt.NDArray[np.uint8] | None = None
        self.seam_x = self.seam_leave = self.seam_arrive = np.zeros(0, np.int64)
        self.complete = np.zeros(0, bool)

    def add_strip(self, pixels: LabelArray, top: int) -> None:
        """Traces the arcs of some rows and joins them to those above."""
        cracks = _Cracks(pixels, self.above, top, self.rows, self.cell)
        arcs = _Arcs(cracks)
        n_old = len(self.firsts)
        keep = np.ones(len(arcs.vertices), bool)
        x, y = cracks.x[arcs.vertices], cracks.y[arcs.vertices]
        edges = np.abs(np.diff(x)) + np.abs(np.diff(y))
        edges = np.append(edges, 0)
        edges[arcs.offsets[1:] - 1] = 0
        lengths = np.add.reduceat(edges, arcs.offsets[:-1]) if len(arcs) else np.zeros(0, np.int64)
        firsts = np.minimum.reduceat(y << 32 | x, arcs.offsets[:-1]) if len(arcs) else np.zeros(0, np.int64)
        west, east = self._facing(cracks, arcs, x, y)
        if self.tolerance > 0 and len(arcs):
            keep = simplify_arcs(
                x,
                y,
                arcs.offsets,
                arcs.vertices,
                cracks.y * (self.columns + 1) + cracks.x,
                self.columns + 1,
                self._locked(x, y, arcs.offsets),
                self.tolerance,
            )
        kept = np.add.reduceat(keep, arcs.offsets[:-1], dtype=np.int64) if len(arcs) else np.zeros(0, np.int64)
        self.x = np.concatenate([self.x, x[keep].astype(np.int32)])
        self.y = np.concatenate([self.y, y[keep].astype(np.int32)])
        self.offsets = np.concatenate([self.offsets, self.offsets[-1] + starts(kept)[1:]])
        self.firsts = np.concatenate([self.firsts, firsts])
        self.lengths = np.concatenate([self.lengths, lengths])
        self._join(cracks, arcs, pixels, 2 * n_old, west, east)
        self.above = pixels[-1].copy()

    def _locked(self, x: Integers, y: Integers, offsets: Integers) -> npt.NDArray[np.bool_]:
        """Points next to the right and bottom border, which stay: the slide may cut the last pixels there."""
        locked = np.zeros(len(x), bool)
        at_border = (x == self.columns) | (y == self.rows)
        for end, inner in ((offsets[:-1], offsets[:-1] + 1), (offsets[1:] - 1, offsets[1:] - 2)):
            locked[inner[at_border[end]]] = True
        return locked

    def _facing(self, cracks: _Cracks, arcs: _Arcs, x: Integers, y: Integers) -> tuple[Integers, Integers]:
        """Pairs of half-arcs of this strip that face each other across a row of one region, from its right end to its
        left end; one for the leftmost edge of each arc. They tie holes to what is around them.
        """
        vertical = np.flatnonzero((np.diff(x) == 0) & (np.diff(arcs.of_points) == 0))
        if not len(vertical):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        order = vertical[np.lexsort((x[vertical], arcs.of_points[vertical]))]
        edge = order[np.flatnonzero(np.diff(arcs.of_points[order], prepend=-1))]
        edge = edge[x[edge] > 0]
        row = np.minimum(y[edge], y[edge + 1])
        west = 2 * arcs.of_points[edge] + (y[edge + 1] < y[edge])
        width = self.columns + 1
        walls = cracks.walls
        left = walls[np.searchsorted(walls, (row - cracks.top) * width + x[edge]) - 1] % width
        at = cracks.by_column[np.searchsorted(cracks.column_keys, (left << 32) | row, side="right") - 1]
        return west, arcs.half_arc_of(4 * at + _DOWN) ^ 1

    def _join(
        self, cracks: _Cracks, arcs: _Arcs, pixels: LabelArray, base: int, west: Integers, east: Integers
    ) -> None:
        """Adds the half-arcs of a strip, finds which follows which, and which belong to one region."""
        n_new = 2 * len(arcs)
        n = base + n_new
        leave = np.full(4 * len(cracks.x), -1)
        arrive = leave.copy()
        half = base + 2 * np.arange(len(arcs))
        leave[arcs.start_ports], arrive[arcs.end_ports] = half, half
        leave[arcs.end_ports], arrive[arcs.start_ports] = half + 1, half + 1
        if len(self.seam_x):
            on_seam = np.flatnonzero((cracks.y == cracks.top) & (cracks.bits >> _UP & 1 == 1))
            leave[4 * on_seam + _UP], arrive[4 * on_seam + _UP] = self.seam_leave, self.seam_arrive
        after = np.concatenate([self.next, np.full(n_new, _PENDING)])
        settled = np.flatnonzero((arrive >= 0) & np.repeat(~cracks.below, 4))
        vertex, port = settled >> 2, settled & 3
        after[arrive[settled]] = leave[4 * vertex + _WAY_ON[port, cracks.bits[vertex]]]

        start_vertex = np.stack([arcs.start_ports >> 2, arcs.end_ports >> 2], 1).ravel()
        bits = cracks.bits[start_vertex]
        self.meeting = np.concatenate([self.meeting, bits == 15])
        self.on_line = np.concatenate([self.on_line, (bits == 3) | (bits == 12)])
        # A half-arc that starts on the seam below: whether regions meet there is known with the next strip.
        if len(self.seam_x):
            known = cracks.bits[on_seam]
            self.meeting[self.seam_leave] = known == 15
            self.on_line[self.seam_leave] = known == 12
        self.labels = np.concatenate([self.labels, _labels_right_of(cracks, arcs, pixels, self.above)])
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
        self.seam_leave, self.seam_arrive = leave[4 * seam + _UP], arrive[4 * seam + _UP]

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


class _Cracks:
    """The vertices of a strip of rows: corners where cracks turn, meet, or cross a line of the grid.

    Attributes:
        top: First row.
        x: (vertices,) column, row by row.
        y: (vertices,) row.
        bits: (vertices,) ports that have a crack, as bits.
        node: (vertices,) whether arcs end there.
        below: (vertices,) whether the vertex stands for a crack that goes on below the strip.
        partner: (4 * vertices,) port -> port at the other end of its straight line of cracks, -1 where there is none.
        walls: Cracks between neighbours in a row: ascending ``(row - top) * (columns + 1) + x``.
        by_column: (vertices,) vertices ordered by column, then row.
        column_keys: (vertices,) their ``x << 32 | y``.
    """

    def __init__(self, pixels: LabelArray, above: npt.NDArray[np.uint8] | None, top: int, rows: int, cell: int) -> None:
        height, width = pixels.shape
        self.top = top
        last = top + height == rows
        n = height + last  # rows of corners
        across = np.zeros((n, width + 2), bool)  # cracks above pixels; one column more on either side
        across[0, 1:-1] = True if above is None else above != pixels[0]
        np.not_equal(pixels[1:], pixels[:-1], out=across[1:height, 1:-1])
        across[height:, 1:-1] = True
        upright = np.zeros((n + 1, width + 1), bool)  # cracks left of pixels; one row more above, and below the last
        if above is not None:
            upright[0, 1:-1] = above[1:] != above[:-1]
            upright[0, [0, -1]] = True
        np.not_equal(pixels[:, 1:], pixels[:, :-1], out=upright[1 : height + 1, 1:-1])
        upright[1 : height + 1, [0, -1]] = True

        left, right, up, down = across[:, :-1], across[:, 1:], upright[:-1], upright[1:]
        found = left ^ right
        found |= up ^ down
        found |= left & up
        lines_y = np.flatnonzero(((top + np.arange(n)) % cell == 0) | (top + np.arange(n) == rows))
        lines_x = np.append(np.arange(0, width, cell), width)
        found[lines_y] |= up[lines_y] & down[lines_y]
        found[:, lines_x] |= left[:, lines_x] & right[:, lines_x]
        y, x = np.divmod(np.flatnonzero(found), width + 1)
        del found
        flat_across, flat_upright = across.ravel(), upright.ravel()
        at = y * (width + 2) + x
        ports = [flat_across[at], flat_across[at + 1]]
        at = y * (width + 1) + x
        ports += [flat_upright[at], flat_upright[at + width + 1]]
        n_below = 0
        if not last:
            below = np.flatnonzero(upright[n])
            n_below = len(below)
            x, y = np.append(x, below), np.append(y, np.full(n_below, n))
            ports = [np.append(port, np.full(n_below, i == _UP)) for i, port in enumerate(ports)]
        y += top
        self.x, self.y = x, y
        self.below = np.zeros(len(x), bool)
        self.below[len(x) - n_below :] = True
        self.bits = ports[0] | ports[1] << 1 | ports[2].astype(np.uint8) << 2 | ports[3].astype(np.uint8) << 3
        degree = ports[0].astype(np.uint8) + ports[1] + ports[2] + ports[3]
        on_line = (x % cell == 0) | (x == width) | (y % cell == 0) | (y == rows)
        self.node = (degree > 2) | on_line | self.below
        self.walls = np.flatnonzero(flat_upright[width + 1 : (height + 1) * (width + 1)])

        self.by_column = np.argsort(x.astype(np.uint16) if width < 2**16 else x, kind="stable")
        self.column_keys = (x << 32 | y)[self.by_column]
        self.partner = np.full(4 * len(x), -1, np.int32)
        start = np.flatnonzero(ports[_RIGHT])
        self._pair(4 * start + _RIGHT, 4 * (start + 1) + _LEFT)
        start = np.flatnonzero(ports[_DOWN][self.by_column])
        self._pair(4 * self.by_column[start] + _DOWN, 4 * self.by_column[start + 1] + _UP)

    def _pair(self, a: Integers, b: Integers) -> None:
        self.partner[a], self.partner[b] = b, a


class _Arcs:
    """The arcs of a strip.

    A port of a vertex is also the step that leaves by it. Steps are followed from vertex to vertex by doubling: after k
    rounds each knows where ``2**k`` steps lead.

    Attributes:
        start_ports: (arcs,) port by which each arc leaves its first vertex.
        end_ports: (arcs,) port by which it arrives at its last one.
        vertices: (points,) vertices of all arcs, one arc after the other, ends included.
        offsets: (arcs + 1,) where each arc starts in ``vertices``.
        of_points: (points,) the arc of each point.
    """

    def __init__(self, cracks: _Cracks) -> None:
        node, partner = cracks.node.copy(), cracks.partner
        node[_one_of_each_loop(node, partner)] = True
        steps = np.flatnonzero(partner >= 0)
        leads_to = partner[steps]
        ends = node[leads_to >> 2]
        bits = cracks.bits[leads_to >> 2]
        jump = np.full(len(partner), -1, np.int32)
        # A vertex between two steps has one crack along the row and one along the column.
        turned = np.where((leads_to & 2) == 0, np.where(bits & 4, _UP, _DOWN), np.where(bits & 1, _LEFT, _RIGHT))
        jump[steps] = np.where(ends, steps, (leads_to & ~3) | turned)
        ahead = np.zeros(len(partner), np.int32)
        ahead[steps] = ~ends
        final = np.zeros(len(partner), bool)
        final[steps] = ends
        active = steps[~ends]
        while len(active):
            through = jump[active]
            more, further = ahead[through], jump[through]
            ahead[active] += more
            jump[active] = further
            active = active[~final[further]]
        end = np.full(len(partner), -1, np.int32)
        end[steps] = partner[jump[steps]]
        start = np.full(len(partner), -1, np.int32)
        start[steps] = end[leads_to]
        self._start, self._end = start, end
        forward = steps[start[steps] < end[steps]]
        self.start_ports = forward[start[forward] == forward]
        self.end_ports = end[self.start_ports]
        self._number = np.full(len(partner), -1, np.int32)
        self._number[self.start_ports] = np.arange(len(self.start_ports))
        lengths = ahead[self.start_ports].astype(np.int64) + 2
        self.offsets = starts(lengths)
        self.of_points = np.repeat(np.arange(len(lengths)), lengths)
        self.vertices = np.empty(self.offsets[-1], np.int64)
        arc = self._number[start[forward]]
        self.vertices[self.offsets[arc + 1] - 2 - ahead[forward]] = forward >> 2
        self.vertices[self.offsets[1:] - 1] = self.end_ports >> 2

    def __len__(self) -> int:
        return len(self.start_ports)

    def half_arc_of(self, steps: Integers) -> Integers:
        """The half-arc that takes a step."""
        backwards = self._start[steps] > self._end[steps]
        arc = self._number[np.where(backwards, self._end[steps], self._start[steps])]
        return 2 * arc.astype(np.int64) + backwards


def _one_of_each_loop(node: npt.NDArray[np.bool_], partner: npt.NDArray[np.int32]) -> Integers:
    """The first vertex, row by row, of every closed line that meets no node."""
    a = np.flatnonzero(partner >= 0)
    b = partner[a] >> 2
    a >>= 2
    touches = a[~node[a] & node[b]]
    inner = ~node[a] & ~node[b] & (a < b)
    n = len(node)
    count, line = connected_components(
        coo_array((np.ones(int(inner.sum()), bool), (a[inner], b[inner])), shape=(n, n)), directed=False
    )
    first = np.full(count, -1)
    first[line[::-1]] = np.arange(n)[::-1]
    closed = np.ones(count, bool)
    closed[line[node]] = False
    closed[line[touches]] = False
    return first[closed]


def _labels_right_of(
    cracks: _Cracks, arcs: _Arcs, pixels: LabelArray, above: npt.NDArray[np.uint8] | None
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


def split(outlines: Outlines, max_vertices: int, cell_px: int = CELL_PX) -> Outlines:
    """Splits polygons of too many points along lines of the grid, the one nearest to the middle first.

    Outlines have a vertex wherever they meet such a line, so their neighbours need no new ones.

    Args:
        outlines: Polygons as `polygonize` makes them.
        max_vertices: Polygons of more points are split; what lies in one cell of the grid is not.
        cell_px: Distance of the lines of the grid.
    """
    large = outlines.vertices > max_vertices
    if not large.any():
        return outlines
    batches = [outlines.take(~large)] if not large.all() else []
    for i in np.flatnonzero(large):
        one = outlines.take(np.array([i]))
        pieces = _pieces(one.geometries()[0], max_vertices, cell_px)
        n = len(pieces)
        batches.append(
            Outlines.of_geometries(
                pieces,
                np.repeat(one.labels, n),
                np.repeat(one.anchors, n),
                np.arange(1, n + 1) if n > 1 else np.zeros(1, np.int64),
            )
        )
    return join(batches)


def _pieces(polygon: shapely.Polygon, max_vertices: int, cell_px: int) -> list[shapely.Polygon]:
    done: list[shapely.Polygon] = []
    waiting = [polygon]
    while waiting:
        piece = waiting.pop()
        cut = _middle_line(piece.bounds, cell_px) if shapely.get_num_coordinates(piece) > max_vertices else None
        if cut is None:
            done.append(piece)
            continue
        axis, line = cut
        bounds = piece.bounds
        for side in (1, 0):
            corners = list(bounds)
            corners[axis + 2 * (1 - side)] = line
            part = shapely.intersection(piece, _box_with_grid(corners, cell_px))
            waiting += [p for p in reversed(shapely.get_parts(part)) if p.geom_type == "Polygon"]
    return done


def _box_with_grid(corners: list[float], cell_px: int) -> shapely.Polygon:
    """A box with a vertex wherever a line of the grid meets its sides, so that pieces cut later on have them all."""
    x0, y0, x1, y1 = corners

    def side(low: float, high: float) -> npt.NDArray[np.float64]:
        inner = np.arange(low // cell_px + 1, -(-high // cell_px)) * cell_px
        return np.concatenate([[low], inner])

    x, y = side(x0, x1), side(y0, y1)
    back_x, back_y = np.append(x[1:], x1)[::-1], np.append(y[1:], y1)[::-1]
    ring = [
        *((a, y0) for a in x),
        *((x1, b) for b in y),
        *((a, y1) for a in back_x),
        *((x0, b) for b in back_y),
    ]
    return shapely.Polygon(ring)


def _middle_line(bounds: tuple[float, ...], cell_px: int) -> tuple[int, int] | None:
    """(0 for x or 1 for y, the line of the grid) that halves a box best across its longer side, if any runs through."""
    x0, y0, x1, y1 = bounds
    for axis in (0, 1) if x1 - x0 >= y1 - y0 else (1, 0):
        low, high = bounds[axis], bounds[axis + 2]
        line = round((low + high) / 2 / cell_px) * cell_px
        for candidate in (line, line - cell_px, line + cell_px):
            if low < candidate < high:
                return axis, candidate
    return None
