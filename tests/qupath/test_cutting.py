"""New predictions are cut by what stays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import pytest
import shapely
from shapely import box

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.pushing.plan import plan_of
from dmmn_qp.qupath.cutting import cut
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.geojson_writer import feature_of
from dmmn_qp.qupath.marks import (
    AREA_UM2,
    CLASS_CODE,
    ID_PREFIX,
    MEAN_PROBABILITY,
    PERIMETER,
    class_code,
    is_marked,
    is_outline_id,
    marked_id,
    outline_id,
)
from dmmn_qp.qupath.review import review
from tests.qupath.test_review import OTHER, UNCHANGED, predicted

NEW = predicted(box(0, 0, 100, 100), run="run-2")
NEW = replace(NEW, measurements={**NEW.measurements, MEAN_PROBABILITY: 0.9})


def features(*annotations: Annotation) -> list[dict[str, Any]]:
    return [feature for a in annotations if (feature := feature_of(a)) is not None]


def geometry_of(feature: Any) -> Any:
    return objects_of(feature, "x").annotations[0].geometry


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ([box(50, 0, 150, 100)], box(0, 0, 50, 100)),
        ([box(40, 40, 60, 60)], box(0, 0, 100, 100).difference(box(40, 40, 60, 60))),
        ([box(0, 0, 30, 100), box(70, 0, 100, 100)], box(30, 0, 70, 100)),
        ([box(40, 0, 60, 100)], shapely.MultiPolygon([box(0, 0, 40, 100), box(60, 0, 100, 100)])),
        ([box(-1, -1, 101, 101)], None),
        ([box(0.01, 0, 100, 100)], None),
    ],
)
def test_what_is_left(kept: list[Any], left: Any) -> None:
    found, n = cut(features(NEW), [Annotation(area, class_name="stroma") for area in kept])
    assert n == 1
    if left is None:
        assert found == []
        return
    (rest,) = (objects_of(dict(feature), "x").annotations[0] for feature in found)
    assert rest.geometry.equals(left)
    assert rest.measurements[AREA_UM2] == pytest.approx(left.area / 4)
    assert rest.measurements[PERIMETER] == pytest.approx(left.length / 2)
    assert rest.measurements[CLASS_CODE] == class_code("carcinoma")
    assert MEAN_PROBABILITY not in rest.measurements  # it was the mean over more than this
    assert (rest.class_name, rest.metadata) == (NEW.class_name, NEW.metadata)
    assert is_marked(rest.annotation_id) and rest.annotation_id != NEW.annotation_id
    assert cut(features(NEW), [Annotation(area, class_name="stroma") for area in kept])[0] == found
    (verdict,) = review([rest])
    assert verdict.origin == "unchecked" and verdict.predicted_as == "carcinoma"


@pytest.mark.parametrize(
    "kept",
    [
        Annotation(box(100, 0, 200, 100)),
        Annotation(box(99.95, 0, 200, 100)),
        Annotation(box(200, 0, 300, 100)),
        Annotation(box(0, 0, 50, 50), plane=Plane(z=1)),
        Annotation(shapely.LineString([(0, 0), (100, 100)])),
    ],
)
def test_what_only_touches_is_left_as_it_is(kept: Annotation) -> None:
    assert cut(features(NEW), [kept]) == (features(NEW), 0)


def test_small_objects_do_not_lie_doubled() -> None:
    small = predicted(shapely.Polygon([(0, 0), (2, 0), (0, 1)]))
    assert cut(features(small), [Annotation(small.geometry)]) == ([], 1)


def test_small_parts_that_nobody_touched_stay() -> None:
    apart = shapely.MultiPolygon([box(0, 0, 100, 100), box(200, 0, 201, 1), box(300, 0, 300.05, 80)])
    (rest,), n = cut(features(predicted(apart)), [Annotation(box(50, 0, 150, 100))])
    assert n == 1
    assert geometry_of(rest).equals(shapely.MultiPolygon([box(0, 0, 50, 100), *list(apart.geoms)[1:]]))


@pytest.mark.parametrize("area", [float("nan"), float("inf"), -1.0, 0.0])
def test_areas_that_are_none_are_not_measured_anew(area: float) -> None:
    feature = features(NEW)[0]
    written = area if math.isfinite(area) else {"nan": "NaN", "inf": "Infinity"}[str(area)]
    feature["properties"]["measurements"] = {AREA_UM2: written}
    assert cut([feature], [Annotation(box(50, 0, 150, 100))])[1] == 1


CORRECTED = replace(UNCHANGED, class_name="stroma")
RESHAPED = replace(UNCHANGED, geometry=box(10, 10, 115, 60), measurements={})
DUPLICATE = replace(RESHAPED, annotation_id=uuid4())


@pytest.mark.parametrize(
    ("before", "stays", "cuts"),
    [
        (UNCHANGED, False, False),
        (replace(UNCHANGED, locked=True), True, True),
        (replace(UNCHANGED, locked=True, measurements={**UNCHANGED.measurements, "DAB": 1.0}), True, True),
        (CORRECTED, True, True),
        (replace(CORRECTED, metadata={}), True, True),
        (replace(UNCHANGED, class_name=None), True, True),
        (RESHAPED, True, True),
        (replace(RESHAPED, metadata={}), True, True),
        (DUPLICATE, True, True),
        (replace(DUPLICATE, measurements=UNCHANGED.measurements, geometry=UNCHANGED.geometry), False, False),
        (Annotation(box(10, 10, 110, 60), class_name="stroma", annotation_id=uuid4()), True, False),
    ],
)
def test_what_import_would_take_stays_and_cuts(before: Annotation, stays: bool, cuts: bool) -> None:
    plan = plan_of(features(before, OTHER), features(NEW))
    assert plan.drops(plan.before[0]) != stays
    assert plan.drops(plan.before[1])
    assert plan.cut == cuts
    lying_there = [geometry_of(f) for f in (*plan.kept, *plan.added)]
    if cuts:
        assert lying_there[0].intersection(lying_there[1]).area < 1
    again = plan_of([*plan.kept, *plan.added], features(NEW))
    assert [f["id"] for f in again.added] == [f["id"] for f in plan.added]
    assert len(again.kept) == len(plan.kept)


def test_two_objects_of_one_id_are_told_apart() -> None:
    plan = plan_of(features(UNCHANGED, RESHAPED), [])
    assert [plan.drops(feature) for feature in plan.before] == [True, False]


def test_ids_of_ours_are_told_from_others() -> None:
    """By prefix and version; no prediction has the digits of a tissue's outline, not even by chance."""
    by_chance = "content 31179"  # whose digest has them
    ours, outline = marked_id("a"), outline_id("a")
    assert is_marked(ours) and not is_outline_id(ours)
    assert is_marked(outline) and is_outline_id(outline)
    assert is_marked(marked_id(by_chance)) and not is_outline_id(marked_id(by_chance))
    assert not is_marked(UUID(ID_PREFIX + "-0000-4000-8000-000000000000"))  # version 4, as QuPath's own are
    assert not is_marked(uuid5(NAMESPACE_URL, "a")) and not is_marked(None)
