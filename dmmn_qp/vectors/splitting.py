"""Outlines of many points cut along a grid."""

from __future__ import annotations

import numpy as np
import shapely
from numpy import typing as npt

from dmmn_qp.vectors.cracks import CELL_PX
from dmmn_qp.vectors.outlines import Outlines, join


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
