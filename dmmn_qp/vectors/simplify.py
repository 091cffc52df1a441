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
    n = len(x)
    alive = np.ones(n, bool)
    lengths = np.diff(offsets)
    arc = np.repeat(np.arange(len(lengths)), lengths)
    movable = ~locked
    movable[offsets[:-1]] = movable[offsets[1:] - 1] = False
    before, after = np.arange(n) - 1, np.arange(n) + 1
    owner = np.full(len(keys), -1)
    owner[vertices[movable]] = arc[movable]
    here = np.zeros(len(keys), bool)
    here[vertices] = True
    first, last = vertices[offsets[:-1]], vertices[offsets[1:] - 1]
    # Vertices that an arc can lose. A closed one keeps four corners, or a pixel would become a triangle; others keep
    # one between their ends, or two arcs between the same ends could fall together.
    spare = lengths - 2 - np.where(first == last, 3, 1)
    noise = ((x * 73856093) ^ (y * 19349663)) * 2654435761 >> 7 & 0x7FFFFFFF  # equal triangles: no order along the arc
    largest = 2 * tolerance_px**2

    def priorities(i: Integers) -> Integers:
        a, b = before[i], after[i]
        twice = np.abs((x[i] - x[a]) * (y[b] - y[a]) - (y[i] - y[a]) * (x[b] - x[a]))
        return np.where(twice <= largest, twice << 31 | noise[i], _NEVER)

    priority = np.full(n, _NEVER)
    inner = np.flatnonzero(movable)
    priority[inner] = priorities(inner)
    candidates = inner[priority[inner] < _NEVER]
    listed, place = np.zeros(n, bool), np.empty(n, np.int64)
    listed[candidates] = True
    while len(candidates):
        own = priority[candidates]
        least = (own <= priority[before[candidates]]) & (own < priority[after[candidates]])
        chosen = _within_spare(candidates[least], arc, priority, spare)
        if len(chosen):
            a, b = before[chosen], after[chosen]
            free = (x[b] - x[a]) ** 2 + (y[b] - y[a]) ** 2 <= LONGEST_PX**2
            tight = np.flatnonzero(free & (priority[chosen] >> 31 > _SAFE_TWICE_AREA))
            if len(tight):
                t = chosen[tight]
                corners = np.stack([before[t], t, after[t]])
                free[tight] = ~_holds_vertex(
                    x[corners], y[corners], arc[t], vertices[corners], keys, stride, owner, here
                )
            priority[chosen[~free]] = _NEVER
            gone = chosen[free]
            alive[gone] = False
            here[vertices[gone]] = False
            a, b = before[gone], after[gone]
            after[a], before[b] = b, a
            np.subtract.at(spare, arc[gone], 1)
            priority[gone] = _NEVER
            changed = np.concatenate([a, b])
            changed = changed[movable[changed]]
            priority[changed] = priorities(changed)
            fresh = changed[~listed[changed]]
            place[fresh] = np.arange(len(fresh))
            fresh = fresh[place[fresh] == np.arange(len(fresh))]  # each once
            listed[fresh] = True
            candidates = np.concatenate([candidates, fresh])
        stays = (priority[candidates] < _NEVER) & (spare[arc[candidates]] > 0)
        listed[candidates[~stays]] = False
        candidates = candidates[stays]
    return alive


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
