"""Outlines that cross, touch or overlap themselves cover what the non-zero rule says, as valid polygons."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from dmmn_qp.qupath.crossings import TangledError, count_crossings
from dmmn_qp.qupath.shapes import polygonal_part

Points = list[tuple[int, int]]

CORNERS = st.tuples(st.integers(0, 6), st.integers(0, 6))
TOUCHING_PARTS: Points = [(0, 5), (6, 6), (2, 2), (4, 3), (3, 3), (0, 0)]
"""Two triangles on one edge, which GEOS leaves side by side in one multipolygon."""


def winding_number(points: Points, x: float, y: float) -> int:
    """How often an outline goes around a point."""
    number = 0
    for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True):
        side = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
        if ay <= y < by and side > 0:
            number += 1
        elif by <= y < ay and side < 0:
            number -= 1
    return number


@given(st.lists(CORNERS, min_size=3, max_size=9))
@example(TOUCHING_PARTS)
@example([(0, 0), (2, 1), (0, 0), (1, 1), (2, 1)])  # a spike along an edge
def test_outlines_are_filled_by_the_non_zero_rule(points: Points) -> None:
    area = polygonal_part(shapely.Polygon(points))
    assert area is None or area.is_valid
    for x in range(6):
        for y in range(6):
            inside = shapely.Point(x + 0.3713, y + 0.2137)  # off every line between the corners
            covered = area is not None and area.contains(inside)
            assert covered == (winding_number(points, inside.x, inside.y) != 0)


def test_parts_that_share_an_edge_are_one() -> None:
    area = polygonal_part(shapely.Polygon(TOUCHING_PARTS))
    assert area is not None
    assert (area.geom_type, area.is_valid) == ("Polygon", True)
    assert area.area == pytest.approx(15.5)


@pytest.mark.parametrize("vertices", [100, 300])
def test_outlines_that_cross_themselves_often_take_no_time(vertices: int) -> None:
    """A check by the even-odd rule took 14 s for 300 vertices."""
    points = np.random.default_rng(0).integers(0, 20_000, (vertices, 2))
    started = time.process_time()
    area = polygonal_part(shapely.Polygon(points))
    assert time.process_time() - started < 2
    assert area is not None and area.is_valid
    for x, y in np.random.default_rng(1).integers(0, 20_000, (50, 2)) + np.array([0.3713, 0.2137]):
        corners = [(int(px), int(py)) for px, py in points]
        assert area.contains(shapely.Point(x, y)) == (winding_number(corners, x, y) != 0)


@pytest.mark.parametrize("vertices", [3000, 100_000])
def test_outlines_that_cross_themselves_too_often_are_refused_soon(vertices: int) -> None:
    points = np.random.default_rng(0).integers(0, 20_000, (vertices, 2))
    started = time.process_time()
    with pytest.raises(TangledError):
        polygonal_part(shapely.Polygon(points))
    assert time.process_time() - started < 5


@given(st.lists(CORNERS, min_size=3, max_size=9))
def test_pairs_of_edges(points: Points) -> None:
    """Crossings, and edges along each other, as shapely finds them one by one."""
    ring = [*points, points[0]]
    edges = [shapely.LineString(pair) for pair in pairwise(ring)]
    pairs = [(a, b) for i, a in enumerate(edges) for b in edges[:i]]
    crossings, overlap = count_crossings(np.array(ring, float))
    assert crossings == sum(a.crosses(b) for a, b in pairs)  # which touching is not
    assert overlap == any(a.intersection(b).length > 0 for a, b in pairs)
