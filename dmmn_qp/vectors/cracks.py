"""Cracks and arcs: the borders between labels, before they are outlines.

A map of 2 rows and 3 columns with the labels a and b. A *crack* is a side of a pixel where labels differ or the map
ends::

        x 0    1    2    3             0    1    2    3
    y
    0     .---------.----.             N---------N----N        N  a node: three or four cracks meet there, or it lies
          | a    a  | b  |             |         |    |           on a line of the grid or on the map's border
    1     .    .----.    .             |    +----+    |
          | a  | b    b  |             |    |         |        +  another vertex: cracks turn there
    2     .----.---------.             N----N---------N

          pixels and cracks            vertices, and arcs from node to node

Corners where cracks only go straight on, such as (1, 0) and (0, 1), are no vertices and are not kept. A vertex has
four *ports*; those that have a crack are bits of its ``bits``::

                     up 4
                      |                 N at (2, 0):  left, right, down      1 + 2 + 8 = 11
          left 1 -----+----- right 2    + at (2, 1):  left, up               1 + 4     = 5
                      |                 straight on:  3 or 12, a vertex on a line of the grid only
                    down 8              15:           pixels of one label may touch at this corner and nowhere else

Port ``p`` of vertex ``v`` has the number ``4 * v + p`` (p from 0 to 3). ``partner`` goes along a straight line of
cracks from the port at one end to the port at the other: from the right port of (0, 0) to the left port of (2, 0).

A *step* leaves a vertex by a port and arrives at its partner. An *arc* is the steps from one node to the next; it has
one region on its right and one on its left all the way. The arc between a and b is (2, 0) (2, 1) (1, 1) (1, 2). Taken
in one of its two directions it is a *half-arc*, and belongs to the region on its right. A border that meets no node,
as that of an island, gets its first vertex as one.

A *ring* is half-arcs of one region, each followed by the one that turns furthest to the right at their node, until the
first comes again (`tracing`). Clockwise, with y down; rings of holes run the other way::

    ring of a:   (0, 0) -> (2, 0)   (2, 0) -> (2, 1) -> (1, 1) -> (1, 2)   (1, 2) -> (0, 2)   (0, 2) -> (0, 0)
    ring of b:   (2, 0) -> (3, 0)   (3, 0) -> (3, 2)   (3, 2) -> (1, 2)   (1, 2) -> (1, 1) -> (2, 1) -> (2, 0)

Both hold the arc between a and b, once in each direction. So the polygons of neighbours have the same vertices.
"""

from __future__ import annotations

import numpy as np
from numpy import typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dmmn_qp.specs import LabelArray
from dmmn_qp.vectors.outlines import Integers, starts

CELL_PX = 1024
"""Distance of the grid lines at which arcs end, and the least height of a strip."""

_LEFT, _RIGHT, UP, DOWN = range(4)

_OPPOSITE = np.array([_RIGHT, _LEFT, DOWN, UP])

_RIGHT_TURN = np.array([UP, DOWN, _RIGHT, _LEFT])


def _ways_on() -> npt.NDArray[np.int64]:
    """[port of arrival, cracks at the vertex as bits] -> port to leave by, keeping to the region on the right."""
    table = np.zeros((4, 16), np.int64)
    for port in range(4):
        heading = _OPPOSITE[port]
        for cracks in range(16):
            ways = (_RIGHT_TURN[heading], heading, _OPPOSITE[_RIGHT_TURN[heading]])
            table[port, cracks] = next((way for way in ways if cracks >> way & 1), port)
    return table


WAY_ON = _ways_on()


class Cracks:
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
            ports = [np.append(port, np.full(n_below, i == UP)) for i, port in enumerate(ports)]
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
        start = np.flatnonzero(ports[DOWN][self.by_column])
        self._pair(4 * self.by_column[start] + DOWN, 4 * self.by_column[start + 1] + UP)

    def _pair(self, a: Integers, b: Integers) -> None:
        self.partner[a], self.partner[b] = b, a


class Arcs:
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

    def __init__(self, cracks: Cracks) -> None:
        node, partner = cracks.node.copy(), cracks.partner
        node[_one_of_each_loop(node, partner)] = True
        steps = np.flatnonzero(partner >= 0)
        leads_to = partner[steps]
        ends = node[leads_to >> 2]
        bits = cracks.bits[leads_to >> 2]
        jump = np.full(len(partner), -1, np.int32)
        # A vertex between two steps has one crack along the row and one along the column.
        turned = np.where((leads_to & 2) == 0, np.where(bits & 4, UP, DOWN), np.where(bits & 1, _LEFT, _RIGHT))
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
