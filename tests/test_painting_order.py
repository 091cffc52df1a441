"""Which area wins where classes overlap, in tables that a reader can check by hand."""

import time

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.features import rasterize as burn
from shapely.geometry import MultiPolygon, box

from dmmn_qp.annotations import Annotation
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.class_rules import PaintRules
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.painting_order import PaintedArea, in_painting_order, inner_last, pairs_inside
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap
from tests.conftest import fails, invoke, rectangle, slides_with, write_features

CLASSES = ClassMap.from_colors([(name, (20 * i, 0, 0)) for i, name in enumerate("abcd", start=1)])


def painted(drawn, overlap="inner", columns=20):
    """Labels of one row of pixels."""
    annotations = [Annotation(geometry, class_name=name) for name, geometry in drawn]
    (row,) = LabelPainter(annotations, CLASSES, 1.0, PaintRules(overlap)).paint(Region(0, 0, columns, 1))
    return "".join(map(str, row))


def row(*spans):
    """One outline of columns, as (first, behind the last) of each of its parts."""
    parts = [box(first, 0, behind, 1) for first, behind in spans]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


RING = box(0, -9, 20, 10).difference(box(5, -3, 15, 4))

TABLE = {
    "nested": ([("a", row((0, 20))), ("b", row((5, 15)))], "11111222222222211111"),
    "nested, drawn the other way round": ([("b", row((5, 15))), ("a", row((0, 20)))], "11111222222222211111"),
    "nested twice": ([("a", row((0, 20))), ("b", row((2, 18))), ("c", row((5, 15)))], "11222333333333322211"),
    "nested twice, against the class order": (
        [("c", row((0, 20))), ("b", row((2, 18))), ("a", row((5, 15)))],
        "33222111111111122233",
    ),
    "nested twice, the middle one last": (
        [("b", row((0, 20))), ("c", row((2, 18))), ("a", row((5, 15)))],
        "22333111111111133322",
    ),
    "a class within itself within another": (
        [("a", row((0, 20))), ("b", row((2, 18))), ("a", row((5, 15)))],
        "11222111111111122211",
    ),
    "95 % inside": ([("a", row((-20, 20))), ("b", box(1, 0, 21, 1))], "12222222222222222222"),
    "94 % inside": ([("a", row((-20, 20))), ("b", box(1.2, 0, 21.2, 1))], "11111111111111111111"),
    "beside each other": ([("a", row((0, 12))), ("b", row((8, 20)))], "11111111111122222222"),
    "equal outlines": ([("b", row((3, 9))), ("a", row((3, 9)))], "00011111100000000000"),
    "nearly equal outlines": ([("b", box(3, 0, 9, 1)), ("a", box(3, 0, 9.1, 1))], "00011111100000000000"),
    "same class": ([("b", row((0, 20))), ("b", row((5, 15)))], "2" * 20),
    "in the hole": ([("a", RING), ("b", row((6, 14)))], "11111022222222011111"),
    "filling the hole and more": ([("a", RING), ("b", box(4.5, -3.2, 15.5, 4.2))], "11111222222222211111"),
    "across the edge of the hole": ([("a", RING), ("b", row((3, 9)))], "11111222200000011111"),
    "between the parts": ([("a", row((0, 5), (15, 20))), ("b", row((6, 14)))], "11111022222222011111"),
    "in one of the parts": ([("a", row((0, 9), (11, 20))), ("b", row((13, 18)))], "11111111100112222211"),
    "half of it in each part": ([("a", row((0, 9), (9, 20))), ("b", row((5, 13)))], "1" * 20),
    "one part inside, one beside": ([("a", row((0, 9))), ("b", row((2, 4), (12, 14)))], "11221111100022000000"),
    "parts inside parts": (
        [("a", row((0, 9), (11, 20))), ("b", row((2, 4), (13, 18)))],
        "11221111100112222211",
    ),
    "what lies in the first class wins over the second": (
        [("a", row((0, 12))), ("c", row((2, 11))), ("b", row((8, 20)))],
        "11333333333122222222",
    ),
    "what lies in the second class does not win over the first": (
        [("b", row((0, 12))), ("c", row((2, 11))), ("a", row((8, 20)))],
        "22333333111111111111",
    ),
    "the first class keeps its rank inside the second": (
        [("c", row((0, 12))), ("a", row((2, 10))), ("b", row((8, 20)))],
        "33111111112222222222",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_inner_areas_win(name):
    drawn, labels = TABLE[name]
    assert painted(drawn) == labels
    assert painted(drawn[::-1]) == labels  # the order of drawing plays no part


@pytest.mark.parametrize(
    ("overlap", "labels"),
    [
        ("inner", "11111222222222211111"),
        ("class-order", "11111111111111111111"),
        ("smallest", "11111222222222211111"),
        ("drawing", "11111111111111111111"),
        ("unlabelled", "11111000000000011111"),
    ],
)
def test_a_chosen_rule_means_what_it_says(overlap, labels):
    assert painted([("b", row((5, 15))), ("a", row((0, 20)))], overlap) == labels


spans = st.tuples(st.integers(0, 19), st.integers(1, 8)).map(lambda s: (s[0], min(20, s[0] + s[1])))


@given(st.lists(st.tuples(st.sampled_from("abcd"), spans), max_size=7))
def test_nothing_changes_where_nothing_lies_inside(drawn):
    drawn = [(name, row(span)) for name, span in drawn]
    outlines = np.array([outline for _, outline in drawn], dtype=object)
    labels = np.array([CLASSES.label_of(name) for name, _ in drawn], np.int64)
    pairs = list(pairs_inside(outlines, labels)) if drawn else []
    by_hand = {
        (i, j)
        for i, (name, inner) in enumerate(drawn)
        for j, (other, outer) in enumerate(drawn)
        if name != other
        and inner.intersection(outer).area >= 0.95 * inner.area
        and inner.intersection(outer).area < 0.95 * outer.area
    }
    assert set(pairs) == by_hand and len(pairs) == len(by_hand)
    if drawn:
        order = inner_last(outlines, labels).tolist()
        assert all(order.index(outer) < order.index(inner) for inner, outer in pairs)
    if not pairs:
        assert painted(drawn) == painted(drawn, "class-order")


@pytest.mark.parametrize("overlap", ["inner", "class-order", "smallest", "drawing", "unlabelled"])
def test_painting_part_by_part_changes_no_pixel(overlap):
    """The pixels of one area of 60 parts, whose borders lie on, between and beside the centres of pixels."""
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 400, (60, 2)) / 4
    area = shapely.union_all(shapely.box(*corners.T, *(corners + rng.integers(1, 60, (60, 2)) / 4).T))
    assert len(area.geoms) > 10
    painter = LabelPainter([Annotation(area, class_name="b")], CLASSES, 1.0, PaintRules(overlap))
    whole = burn([(area, 2)], (120, 120), fill=0, dtype=np.uint8)
    assert np.array_equal(painter.paint(Region(0, 0, 120, 120)), whole)


def test_parts_of_one_area_keep_what_is_known_of_it():
    area = PaintedArea(row((0, 2), (4, 6)), 2, position=3, depth=1, origin=4)
    parts = in_painting_order([area], "inner")
    assert [part.geometry for part in parts] == [box(0, 0, 2, 1), box(4, 0, 6, 1)]
    assert {(part.label, part.position, part.depth, part.origin) for part in parts} == {(2, 3, 1, 4)}
    assert in_painting_order([], "inner") == []


def test_many_areas_in_a_detailed_one_take_no_time():
    """20,000 areas in an outline of 100,000 vertices; measured one by one they would take minutes."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    radius = 9000 + 60 * np.sin(900 * angle)
    outer = shapely.Polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1))
    inner = shapely.buffer(
        shapely.points(rng.uniform(-6000, 6000, (20_000, 2))), rng.uniform(1, 9, 20_000), quad_segs=4
    )
    outlines = np.append(inner, outer)
    labels = np.append(np.full(20_000, 2), 1)
    started = time.process_time()
    order = inner_last(outlines, labels)
    assert time.process_time() - started < 5
    assert order[0] == 20_000 and sorted(order) == list(range(20_001))


NESTED = [rectangle(0, 0, 200, 200, "a"), rectangle(50, 50, 100, 100, "b")]


def test_import_lets_the_inner_area_win(here):
    result = invoke(*slides_with(here, NESTED))
    assert result.exit_code == 0, result.output
    assert sum(patch.label_counts[2] for patch in Dataset(here / "dataset").patches()) == 100 * 100


def test_the_class_that_hides_another_is_named(here):
    command = (*slides_with(here, [*NESTED, rectangle(300, 0, 9, 9, "c")]), "--overlap", "class-order")
    said = fails(*command)
    assert 'class "b" has no pixel in the training split, because areas of "a" cover it' in said
    assert "--overlap inner" in said and 'class "c"' not in said
    said = invoke(*command, "--check").stdout
    assert '"b" has no pixel in the training split, because areas of "a" cover it' in said
    assert '"c" has no pixel in the training split; annotate' in said  # it lies beyond the slide


@pytest.mark.parametrize(("inside", "names", "has_rule"), [(200, '"Ignore*"', False), (100, '"a" and "Ignore*"', True)])
def test_ignored_areas_hide_too(here, inside, names, has_rule):
    """No rule for overlaps helps where `Ignore*` alone takes the labels; none that is in force is advised."""
    areas = [rectangle(0, 0, 200, 255, "a"), rectangle(0, 0, 200, 200, "b")]
    command = slides_with(here, [*areas, rectangle(0, 0, 200, inside, "Ignore*")])
    said = fails(*command, "--overlap", "class-order")
    assert f'class "b" has no pixel in the training split, because areas of {names} cover it; ' in said
    assert ("(--overlap inner or smallest)" in said) == has_rule and "pull the outlines apart" in said
    if has_rule:
        (here / "geojson" / "s0.geojson").unlink()
        write_features(here / "geojson" / "s0.geojson", [rectangle(0, 0, 200, 200, name) for name in "ab"])
        assert "(--overlap smallest)" in fails(*command)


def test_labels_within_an_outline():
    drawn = [("a", box(0, 0, 3000, 3000)), ("b", box(1000, 1000, 2000, 4000))]
    annotations = [Annotation(geometry, class_name=name) for name, geometry in drawn]
    painter = LabelPainter(annotations, CLASSES, 1.0, PaintRules("class-order"))
    assert painter.labels_within(box(1, 1, 3, 4)).tolist() == [0, 6, 0, 0, 0]
    assert painter.labels_within(box(0.1, 0.1, 0.2, 0.2)).tolist() == [0] * 5
    share = painter.labels_within(drawn[1][1]) / painter.labels_within(drawn[1][1]).sum()
    assert share[1:3] == pytest.approx([2 / 3, 1 / 3], abs=0.02)  # seen coarser, as it is large
