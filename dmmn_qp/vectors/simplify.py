"""Fewer vertices on the borders between regions, without gaps or overlaps.

A border is an arc between two fixed points. Vertices of arcs are removed as by Visvalingam: first those that span the
smallest triangle with their neighbours, as long as its area is at most the tolerance squared. No vertex is removed
whose triangle holds another vertex, so that arcs never cross or touch. Of other arcs all the vertices count that they
ever had, whether they are still there or not. So an arc's result depends on nothing but the label map around it, not on
the order of work, and both regions beside it get the same border.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dmmn_qp.vectors.outlines import Integers, ranges

LONGEST_PX = 64
"""Longest edge that removing a vertex may make, in pixels. Points of the pixel grid lie at least 1/64 px beside such an
edge, if not on it, so rounding coordinates to 0.01 px can turn no vertex to its other side."""

_NEVER = np.int64(2**62)
_SAFE_TWICE_AREA = 1
"""Twice the area of triangles that hold no other point of the pixel grid, by Pick's theorem."""


def simplify_arcs(
    x: Integers,
    y: Integers,
    offsets: Integers,
    vertices: Integers,
    keys: Integers,
    stride: int,
    locked: npt.NDArray[np.bool_],
    tolerance_px: float,
) -> npt.NDArray[np.bool_]:
    """Chooses the points of arcs that stay.

    Args:
        x: (points,) column of the points of all arcs, one arc after the other, ends included.
        y: (points,) row.
        offsets: (arcs + 1,) where each arc starts.
        vertices: (points,) number of the points in ``keys``; ends of arcs may be shared.
        keys: (vertices,) ascending ``y * stride + x`` of all vertices around, also those of other arcs.
        stride: More than any x.
        locked: (points,) points that stay in any case; ends of arcs always do.
        tolerance_px: Square root of the largest triangle to cut off, px.

    Returns:
        (points,) whether the point stays.
    """
    arcs = _Arcs(x, y, offsets, vertices, keys, stride, locked, 2 * tolerance_px**2)
    waiting = arcs.removable
    listed, place = np.zeros(len(x), bool), np.empty(len(x), np.int64)
    listed[waiting] = True
    while len(waiting):
        fresh = arcs.remove(arcs.smallest(waiting))
        fresh = fresh[~listed[fresh]]
        place[fresh] = np.arange(len(fresh))
        fresh = fresh[place[fresh] == np.arange(len(fresh))]  # each once
        listed[fresh] = True
        waiting = np.concatenate([waiting, fresh])
        stays = arcs.may_still_go(waiting)
        listed[waiting[~stays]] = False
        waiting = waiting[stays]
    return arcs.alive


class _Arcs:
    """Arcs while points are removed from them.

    Args:
        x: See `simplify_arcs`, as the next ones.
        y: Rows.
        offsets: Where each arc starts.
        vertices: Numbers of the points in ``keys``.
        keys: All vertices around.
        stride: More than any x.
        locked: Points that stay.
        largest: Twice the area of the largest triangle to cut off, px2.

    Attributes:
        alive: (points,) whether the point is there.
    """

    def __init__(
        self,
        x: Integers,
        y: Integers,
        offsets: Integers,
        vertices: Integers,
        keys: Integers,
        stride: int,
        locked: npt.NDArray[np.bool_],
        largest: float,
    ) -> None:
        n = len(x)
        lengths = np.diff(offsets)
        self.alive = np.ones(n, bool)
        self._x, self._y, self._vertices, self._keys, self._stride = x, y, vertices, keys, stride
        self._largest = largest
        self._arc = np.repeat(np.arange(len(lengths)), lengths)
        self._movable = ~locked
        self._movable[offsets[:-1]] = self._movable[offsets[1:] - 1] = False
        self._before, self._after = np.arange(n) - 1, np.arange(n) + 1
        self._owner = np.full(len(keys), -1)
        self._owner[vertices[self._movable]] = self._arc[self._movable]
        self._here = np.zeros(len(keys), bool)
        self._here[vertices] = True
        first, last = vertices[offsets[:-1]], vertices[offsets[1:] - 1]
        # Vertices that an arc can lose. A closed one keeps four corners, or a pixel would become a triangle; others
        # keep one between their ends, or two arcs between the same ends could fall together.
        self._spare = lengths - 2 - np.where(first == last, 3, 1)
        # Triangles of equal size go in no order along the arc.
        self._noise = ((x * 73856093) ^ (y * 19349663)) * 2654435761 >> 7 & 0x7FFFFFFF
        self._priority = np.full(n, _NEVER)
        self._rank(np.flatnonzero(self._movable))

    def _rank(self, points: Integers) -> None:
        """Orders points by the area of the triangle with their neighbours; those of too large a one never go."""
        x, y, a, b = self._x, self._y, self._before[points], self._after[points]
        twice = np.abs((x[points] - x[a]) * (y[b] - y[a]) - (y[points] - y[a]) * (x[b] - x[a]))
        self._priority[points] = np.where(twice <= self._largest, twice << 31 | self._noise[points], _NEVER)

    @property
    def removable(self) -> Integers:
        """Points whose triangle is small enough."""
        return np.flatnonzero(self._priority < _NEVER)

    def may_still_go(self, points: Integers) -> npt.NDArray[np.bool_]:
        """Whether points have a triangle that is small enough, on an arc that has points to lose."""
        may: npt.NDArray[np.bool_] = (self._priority[points] < _NEVER) & (self._spare[self._arc[points]] > 0)
        return may

    def smallest(self, points: Integers) -> Integers:
        """Those of the points with a smaller triangle than both neighbours, as many as their arcs can lose."""
        own = self._priority[points]
        least = (own <= self._priority[self._before[points]]) & (own < self._priority[self._after[points]])
        return _within_spare(points[least], self._arc, self._priority, self._spare)

    def remove(self, points: Integers) -> Integers:
        """Removes those of the points that may go; the others stay for good.

        Args:
            points: No two of them neighbours.

        Returns:
            The neighbours of what is gone that may be removed now, some of them twice.
        """
        free = self._are_free(points)
        self._priority[points] = _NEVER
        gone = points[free]
        self.alive[gone] = False
        self._here[self._vertices[gone]] = False
        a, b = self._before[gone], self._after[gone]
        self._after[a], self._before[b] = b, a
        np.subtract.at(self._spare, self._arc[gone], 1)
        both = np.concatenate([a, b])
        changed: Integers = both[self._movable[both]]
        self._rank(changed)
        return changed

    def _are_free(self, points: Integers) -> npt.NDArray[np.bool_]:
        """Whether the edge that would be made is short enough, and the triangle cut off holds no vertex."""
        x, y, a, b = self._x, self._y, self._before[points], self._after[points]
        free: npt.NDArray[np.bool_] = (x[b] - x[a]) ** 2 + (y[b] - y[a]) ** 2 <= LONGEST_PX**2
        tight = np.flatnonzero(free & (self._priority[points] >> 31 > _SAFE_TWICE_AREA))
        if len(tight):
            at = points[tight]
            corners = np.stack([self._before[at], at, self._after[at]])
            free[tight] = ~_holds_vertex(
                x[corners], y[corners], self._arc[at], self._vertices[corners], self._keys, self._stride, self._owner,
                self._here,
            )  # fmt: skip
        return free


def _within_spare(chosen: Integers, arc: Integers, priority: Integers, spare: Integers) -> Integers:
    """Those of the vertices that their arcs can lose at once: all, or the first where that were too many."""
    arcs = arc[chosen]
    too_many = (np.bincount(arcs, minlength=len(spare)) > spare)[arcs]
    if not too_many.any():
        return chosen
    few = chosen[too_many]
    few = few[np.argsort(priority[few], kind="stable")]
    _, first = np.unique(arc[few], return_index=True)
    few = few[first]
    return np.concatenate([chosen[~too_many], few[spare[arc[few]] > 0]])


def _holds_vertex(
    x: Integers,
    y: Integers,
    arc: Integers,
    corners: Integers,
    keys: Integers,
    stride: int,
    owner: Integers,
    here: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Whether triangles, borders included, hold a vertex of another arc, or a present one of their own.

    Args:
        x: (3, triangles) columns of the corners.
        y: (3, triangles) rows.
        arc: (triangles,) the arc of each.
        corners: (3, triangles) numbers of the corners in ``keys``.
        keys: See `simplify_arcs`.
        stride: See `simplify_arcs`.
        owner: (vertices,) arc that may lose the vertex, -1 where none may.
        here: (vertices,) whether the vertex is there.
    """
    top, bottom = y.min(0), y.max(0)
    of = np.repeat(np.arange(x.shape[1]), bottom - top + 1)
    row = ranges(top, bottom + 1)
    left, right = np.full(len(of), stride), np.full(len(of), -1)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        swap = y[i] > y[j]
        x1, x2 = np.where(swap, x[j], x[i])[of], np.where(swap, x[i], x[j])[of]
        y1, y2 = np.where(swap, y[j], y[i])[of], np.where(swap, y[i], y[j])[of]
        rise = y2 - y1
        crossing = (y1 <= row) & (row <= y2) & (rise > 0)
        rise = np.maximum(rise, 1)
        way = (x2 - x1) * (row - y1)
        left = np.where(crossing, np.minimum(left, x1 - (-way // rise)), left)
        right = np.where(crossing, np.maximum(right, x1 + way // rise), right)
    counts = np.maximum(right - left + 1, 0)
    of, points = np.repeat(of, counts), np.repeat(row * stride, counts) + ranges(left, left + counts)
    found = np.minimum(np.searchsorted(keys, points), len(keys) - 1)
    hit = (keys[found] == points) & (found != corners[:, of]).all(0)
    of, found = of[hit], found[hit]
    in_the_way = (owner[found] != arc[of]) | here[found]
    held = np.zeros(x.shape[1], bool)
    held[of[in_the_way]] = True
    return held
