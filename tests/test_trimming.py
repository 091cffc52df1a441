"""Outlines shortened to a window give the very pixels that they give as a whole."""

import math

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from dmmn_qp.labels import painter
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.labels.trimming import trimmed
from dmmn_qp.regions import Region

SIDE = 48

HALVES = st.integers(-8, 2 * SIDE + 8).map(lambda n: n / 2)  # pixel centres, pixel borders, and window borders


def whole(area, window, scale):
    """What painting the outline as it is gives."""
    return rasterize(
        [(area, 1)],
        (window.height, window.width),
        transform=Affine(scale, 0, window.x * scale, 0, scale, window.y * scale),
        dtype=np.uint8,
    )


@st.composite
def stars(draw, centre=(SIDE / 2, SIDE / 2), longest=0.9 * SIDE, least=3):
    """Points around a centre, at any distance, on halves of pixels."""
    n = draw(st.integers(least, 40))
    radii = draw(st.lists(st.floats(0.2, 1), min_size=n, max_size=n))
    points = [
        (centre[0] + longest * r * math.cos(math.tau * i / n), centre[1] + longest * r * math.sin(math.tau * i / n))
        for i, r in enumerate(radii)
    ]
    return [(round(2 * x) / 2, round(2 * y) / 2) for x, y in points] if draw(st.booleans()) else points


@st.composite
def areas(draw):
    """Areas of one or more parts, with holes."""
    area = shapely.Polygon(draw(stars()))
    for _ in range(draw(st.integers(0, 3))):
        hole = shapely.Polygon(draw(stars((draw(HALVES), draw(HALVES)), 12)))
        area = shapely.make_valid(area).difference(shapely.make_valid(hole))
    if draw(st.booleans()):
        area = shapely.make_valid(area).union(shapely.make_valid(shapely.Polygon(draw(stars((draw(HALVES), 3), 9)))))
    parts = [part for part in shapely.get_parts(shapely.make_valid(area)) if part.geom_type == "Polygon"]
    return shapely.MultiPolygon(parts)


WINDOWS = st.builds(Region, st.integers(-9, SIDE), st.integers(-9, SIDE), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=150)
@given(areas(), st.lists(WINDOWS, min_size=1, max_size=6), st.sampled_from([1.0, 2.0, 0.5, 1.37]))
def test_not_one_pixel_changes(area, windows, scale):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painter, "_FEW_VERTICES", 0)
        layer = AreaLayer([PaintedArea(area, 1)])
    for window in (*windows, Region(0, 0, SIDE, SIDE)):
        expected = np.zeros((window.height, window.width), np.uint8)
        for part in area.geoms:
            expected |= whole(part, window, scale)
        assert np.array_equal(layer.burn(window, scale), expected)


def test_edges_through_centres_of_pixels():
    """A diagonal from far away through the centres of a window's pixels: cut at its border, it would be rounded."""
    layer = AreaLayer([PaintedArea(zigzag(), 1)])
    for x in range(0, 3000, 16):
        window = Region(x, x // 3, 16, 16)
        assert np.array_equal(layer.burn(window, 1.0), whole(zigzag(), window, 1.0))


def zigzag():
    """Long slanted teeth with more vertices far away."""
    far = [(0.5 + i, -900.5 - 37 * (i % 7)) for i in range(3000, -1, -3)]
    teeth = [(0.5 + 10 * i, 0.5 + (1000 if i % 2 else 3)) for i in range(300)]
    return shapely.Polygon([*teeth, *far])


def test_what_stays_by_hand():
    """Of a run beyond a limit the first and last vertex stay; a ring beyond it goes; one that is seen stays."""
    ring = np.array([(0, 0), (9, 0), (9, 9), (5, 20), (4, 30), (3, 25), (2, 20), (0, 9), (0, 0)], float)
    (found,) = trimmed([ring], 1, -1, 10)
    assert found.tolist() == [[0, 0], [9, 0], [9, 9], [5, 20], [2, 20], [0, 9], [0, 0]]
    assert trimmed([ring], 0, 10, 12) == trimmed([ring], 1, -9, -1) == []
    (found,) = trimmed([ring], 0, -1, 99)
    assert found is ring


def test_long_outlines_are_shortened(monkeypatch):
    """The rasteriser gets what a window sees, not the whole."""
    given_vertices = []

    def counting(shapes, *args, **options):
        given_vertices.append(sum(len(ring) for outline, _ in shapes for ring in outline["coordinates"]))
        return rasterize(shapes, *args, **options)

    monkeypatch.setattr(painter, "burn", counting)
    turns = np.linspace(0, math.tau, 100_000, endpoint=False)
    circle = shapely.Polygon(np.column_stack([np.cos(turns), np.sin(turns)]) * 5000 + 5000)
    layer = AreaLayer([PaintedArea(circle, 1)])
    for window in Region(0, 0, 10_240, 10_240).tiles(2048):
        layer.burn(window, 1.0)
    assert max(given_vertices) < 20_000
