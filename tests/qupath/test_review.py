"""Who vouched for a prediction: files edited in real QuPath, and tables by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import shapely
from shapely import box
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import (
    AREA_MM2,
    AREA_UM2,
    CLASS_CODE,
    CLASS_KEY,
    METADATA_KEY,
    PERIMETER,
    RUN_KEY,
    class_code,
    marked_id,
    outline_id,
)
from dmmn_qp.qupath.originals import Originals, read_originals
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.qupath.review import ids_of, is_same_outline, possible_copies, review

DATA = Path(__file__).parents[1] / "data" / "qupath" / "reviewed"
MPP = 0.5


def read(path: Path) -> tuple[Annotation, ...]:
    return (read_qpdata(path) if path.suffix == ".qpdata" else read_geojson(path)).annotations


def originals_for(annotations: tuple[Annotation, ...], *files: Path) -> Originals:
    found, problems = read_originals(files, ids_of(annotations), possible_copies(annotations))
    assert problems == []
    return found


def disagreements(
    annotations: tuple[Annotation, ...], expected: dict[str, list[str]], originals: Originals
) -> list[Any]:
    """Objects of which something else is said than is known of their history."""
    wrong = []
    judged = 0
    for annotation, verdict in zip(annotations, review(annotations, originals), strict=True):
        take, done = expected.get(str(annotation.annotation_id), ("unknown", ""))
        if annotation.kind != "annotation" or take in ("open", "unknown"):
            continue
        judged += 1
        said = "no class" if annotation.class_name is None else "no" if verdict.origin == "unchecked" else "yes"
        if said != take:
            wrong.append((done, take, said, verdict))
    assert judged > 0
    return wrong


def expected_of(version: str, image: str) -> dict[str, list[str]]:
    expected: dict[str, list[str]] = json.loads((DATA / "expected.json").read_text())[version][image]
    return expected


EDITED = sorted(p.name for p in DATA.iterdir() if "_v" in p.name and "untouched" not in p.name)


@pytest.mark.parametrize("name", EDITED)
def test_every_edit_in_qupath_is_found_and_nothing_else(name: str) -> None:
    annotations = read(DATA / name)
    version = name.split("_v")[1][:5]
    expected = expected_of(version, name.split("_")[0] + ".tif")
    assert disagreements(annotations, expected, originals_for(annotations, DATA / "test-1.geojson.gz")) == []


def test_all_files_edited_in_qupath(shared: Path) -> None:
    folder = shared / "reviewed"
    files = [*folder.glob("geojson/*.geojson*"), *folder.glob("*.qpdata"), *folder.glob("*/data/1/data.qpdata")]
    assert len(files) == 25
    for path in files:
        annotations = read(path)
        originals = originals_for(annotations, folder / "predictions" / "test-1.geojson")
        if "untouched" in str(path):
            assert {v.origin for v in review(annotations, originals)} == {"unchecked"}
            continue
        text = str(path.relative_to(folder))
        version = next(v for v in ("0.4.4", "0.5.1", "0.6.0", "0.7.0") if v in text)
        assert disagreements(annotations, expected_of(version, "test-1.tif"), originals) == [], path


def test_without_the_files_of_the_prediction_measurements_decide() -> None:
    annotations = read(DATA / "test-1_v0.7.0.qpdata")
    wrong = disagreements(annotations, expected_of("0.7.0", "test-1.tif"), Originals())
    # The classes of these files are marked nowhere, and what was moved there and back has lost its measurements.
    assert sorted(done for done, *_ in wrong) == [
        "moved by 1 px; moved back",
        "reclassified",
        "reclassified to a class that the model has not",
        "simplified (Simplify shape, 1.0)",
    ]


def test_an_export_without_measurements_leaves_doubts() -> None:
    annotations = read(DATA / "test-1_v0.7.0_nomeas.geojson.gz")
    verdicts = review(annotations)
    doubts = [v for v in verdicts if v.doubt == "no measurements"]
    assert len(doubts) > 40 and {v.origin for v in doubts} == {"unchecked"}
    locked = [v for a, v in zip(annotations, verdicts, strict=True) if a.locked and v.doubt is None]
    assert {v.origin for v in locked} == {"confirmed"}


# ---- by hand

AREA = box(10, 10, 110, 60)


def predicted(geometry: BaseGeometry = AREA, name: str = "carcinoma", run: str = "run-1", **more: Any) -> Annotation:
    values: dict[str, Any] = {
        "geometry": geometry,
        "class_name": name,
        "class_color": (1, 2, 3),
        "annotation_id": marked_id(f"{name}/{geometry.wkt}"),
        "metadata": {METADATA_KEY: "demo", RUN_KEY: run, CLASS_KEY: name},
        "measurements": {
            AREA_UM2: geometry.area * MPP**2,
            AREA_MM2: geometry.area * MPP**2 * 1e-6,
            PERIMETER: geometry.length * MPP,
            CLASS_CODE: class_code(name),
        },
    }
    return Annotation(**{**values, **more})


def as_of_qupath_04(annotation: Annotation) -> Annotation:
    return replace(annotation, metadata={})


UNCHANGED = predicted()
OTHER = predicted(box(200, 0, 300, 100), "stroma")
RESHAPED = replace(UNCHANGED, geometry=box(10, 10, 112, 60), measurements={})
DUPLICATE = replace(UNCHANGED, annotation_id=uuid4())

TABLE = [
    (UNCHANGED, "unchecked", None),
    (replace(UNCHANGED, name="seen"), "unchecked", None),
    (replace(UNCHANGED, measurements={**UNCHANGED.measurements, "Circularity": 0.5}), "unchecked", None),
    (replace(UNCHANGED, locked=True), "confirmed", None),
    (replace(UNCHANGED, locked=True, measurements={**UNCHANGED.measurements, "Solidity": 0.5}), "confirmed", None),
    (replace(UNCHANGED, locked=True, measurements={**UNCHANGED.measurements, "DAB: Mean": 1.0}), "unchecked", "locked"),
    (replace(UNCHANGED, class_name="stroma"), "corrected", None),
    (replace(UNCHANGED, class_name=None), "corrected", None),
    (replace(UNCHANGED, class_name="Ignore*", locked=True), "corrected", None),
    (RESHAPED, "corrected", None),
    (replace(RESHAPED, locked=True), "corrected", None),
    (DUPLICATE, "unchecked", None),
    (replace(DUPLICATE, metadata={}), "unchecked", None),
    (replace(DUPLICATE, class_name="stroma"), "corrected", None),
    (replace(DUPLICATE, geometry=box(10, 10, 112, 60), measurements={}), "corrected", None),
    (replace(DUPLICATE, locked=True), "confirmed", None),
    (Annotation(box(0, 0, 50, 50), class_name="carcinoma", annotation_id=uuid4()), "drawn", None),
    (Annotation(box(0, 0, 50, 50), class_name="carcinoma", locked=True), "drawn", None),
]


@pytest.mark.parametrize("known", [False, True], ids=["marks alone", "with the file"])
@pytest.mark.parametrize("marks", [lambda a: a, as_of_qupath_04], ids=["all marks", "without metadata"])
@pytest.mark.parametrize(("annotation", "origin", "doubt"), TABLE)
def test_table(
    annotation: Annotation,
    origin: str,
    doubt: str | None,
    marks: Callable[[Annotation], Annotation],
    known: bool,
    tmp_path: Path,
) -> None:
    write_geojson(tmp_path / "a.geojson", [UNCHANGED, OTHER])
    annotations = (marks(annotation), marks(OTHER))
    marked = annotations[0].metadata or annotation.measurements or annotation.annotation_id == UNCHANGED.annotation_id
    if not marked:
        origin = "drawn"  # nothing is left that tells this copy from what a person drew
    originals = originals_for(annotations, tmp_path / "a.geojson") if known else Originals()
    verdict, other = review(annotations, originals)
    assert (verdict.origin, (verdict.doubt or "")[:6] or None) == (origin, doubt)
    assert other.origin == "unchecked"
    if origin in ("confirmed", "corrected") and not annotation.measurements.keys() - {CLASS_CODE}:
        assert verdict.predicted_as in ("carcinoma", None)


def test_copies_are_known_by_their_outlines(tmp_path: Path) -> None:
    left, right = predicted(box(0, 0, 50, 50)), predicted(box(50, 0, 100, 50))
    write_geojson(tmp_path / "a.geojson", [left, right, OTHER])
    plain = {"metadata": {}, "measurements": {}}
    merged = replace(left, geometry=box(0, 0, 100, 50), annotation_id=uuid4(), **plain)
    part = replace(left, annotation_id=uuid4(), **plain)
    nearly = replace(left, geometry=box(0.05, 0, 50, 50), annotation_id=uuid4(), **plain)
    drawn = replace(left, geometry=box(0, 0, 100, 51), annotation_id=uuid4(), **plain)
    other_class = replace(part, class_name="stroma", annotation_id=uuid4())
    locked = replace(part, locked=True, annotation_id=uuid4())
    annotations = (merged, part, nearly, drawn, other_class, locked)
    verdicts = review(annotations, originals_for(annotations, tmp_path / "a.geojson"))
    assert [v.origin for v in verdicts] == ["unchecked", "unchecked", "unchecked", "drawn", "drawn", "confirmed"]


def test_a_detection_inside_tells_whose_lock_it_is() -> None:
    locked = replace(UNCHANGED, locked=True)
    inside = Annotation(box(20, 20, 24, 24), kind="detection", annotation_id=uuid4())
    child = replace(inside, geometry=box(900, 900, 904, 904), parent_id=locked.annotation_id)
    assert [v.doubt for v in review([locked, inside])] == ["locked by QuPath", None]
    assert [v.doubt for v in review([locked, child])] == ["locked by QuPath", None]
    assert review([locked, replace(inside, kind="annotation")])[0].origin == "confirmed"
    assert review([replace(RESHAPED, locked=True), OTHER, inside])[0].origin == "corrected"


def test_what_was_done_to_unlocked_ones_too_locks_nothing() -> None:
    """Cells that were sought in the whole slide lie in all predictions; only QuPath's own locks would be on all."""
    locked, third = replace(UNCHANGED, locked=True), predicted(box(400, 0, 500, 100), "fat")
    cells = [Annotation(box(x, 20, x + 4, 24), kind="cell", annotation_id=uuid4()) for x in (20, 220, 420)]
    assert review([locked, OTHER, third, *cells])[0].origin == "confirmed"
    assert review([locked, replace(OTHER, locked=True), third, *cells])[0].doubt == "locked by QuPath"  # unlocked again
    assert review([locked, replace(OTHER, class_name="DCIS"), *cells])[0].doubt == "locked by QuPath"
    measured = [replace(a, measurements={**a.measurements, "DAB: Mean": 1.0}) for a in (locked, OTHER, third)]
    assert review(measured)[0].origin == "confirmed"


def test_all_outlines_changed() -> None:
    changed = [replace(a, geometry=a.geometry.buffer(3), measurements={}) for a in (UNCHANGED, OTHER)]
    assert {v.origin for v in review(changed)} == {"corrected"}  # an export would have left out the metadata as well
    through_04 = [as_of_qupath_04(a) for a in changed]
    assert {(v.origin, v.doubt) for v in review(through_04)} == {("unchecked", "no measurements")}
    # Another run's object with metadata says nothing of those without.
    assert [v.doubt for v in review([*through_04, predicted(box(900, 0, 950, 50))])] == ["no measurements"] * 2 + [None]
    measured_04 = as_of_qupath_04(predicted(box(900, 0, 950, 50)))
    assert [v.origin for v in review([*through_04, measured_04])] == ["corrected", "corrected", "unchecked"]


@pytest.mark.parametrize("factor", [0.99, 1.001, 4.0])
def test_shape_features_with_another_pixel_size_change_nothing(factor: float) -> None:
    measured = {**UNCHANGED.measurements, AREA_UM2: factor * UNCHANGED.measurements[AREA_UM2]}
    assert review([replace(UNCHANGED, measurements=measured), OTHER])[0].origin == "unchecked"


@pytest.mark.parametrize("area", [float("nan"), float("inf"), -1.0, 0.0, 1e-320, 1e300])
def test_measurements_that_are_none(area: float) -> None:
    measured = {**UNCHANGED.measurements, AREA_UM2: area, AREA_MM2: area}
    assert review([replace(UNCHANGED, measurements=measured), OTHER])[0].origin == "unchecked"


def test_a_copy_is_known_by_the_code_of_its_class_alone() -> None:
    bare = replace(UNCHANGED, annotation_id=None, metadata={})
    assert review([bare])[0].origin == "unchecked"
    assert review([replace(bare, class_name="stroma")])[0].origin == "corrected"


@pytest.mark.parametrize("locked", [False, True])
def test_outlines_of_the_tissue_are_no_labels(locked: bool) -> None:
    outline = Annotation(
        box(0, 0, 900, 900), class_name="Tissue", annotation_id=outline_id("x"), metadata={METADATA_KEY: "tissue"},
        locked=locked,
    )  # fmt: skip
    for there in (outline, replace(outline, metadata={}), replace(outline, geometry=box(0, 0, 800, 900))):
        (verdict,) = review([there])
        assert verdict.is_outline and verdict.origin == "unchecked"
    renamed = review([replace(outline, class_name="stroma", metadata={})])
    assert not renamed[0].is_outline


def test_ids_that_repeat_belong_to_the_run_that_made_them(tmp_path: Path) -> None:
    """Earlier versions gave an object of the next prediction the same id, whatever its outline."""
    old = replace(UNCHANGED, measurements={AREA_UM2: 1250.0, PERIMETER: 150.0})
    new = replace(
        old,
        geometry=box(10, 10, 130, 60),
        metadata={**old.metadata, RUN_KEY: "run-2"},
        measurements={AREA_UM2: 1500.0, PERIMETER: 170.0},
    )
    write_geojson(tmp_path / "new.geojson", [new])
    write_geojson(tmp_path / "old.geojson.gz", [old])
    for annotation in (old, as_of_qupath_04(old), new):
        both = originals_for((annotation,), tmp_path / "new.geojson", tmp_path / "old.geojson.gz")
        assert review([annotation], both)[0].origin == "unchecked"
    only_new = originals_for((old,), tmp_path / "new.geojson")
    assert review([old], only_new)[0].origin == "unchecked"


def test_files_that_were_edited_are_no_originals(tmp_path: Path) -> None:
    locked, renamed = replace(UNCHANGED, locked=True), replace(OTHER, class_name="carcinoma")
    write_geojson(tmp_path / "a.geojson", [RESHAPED, renamed, locked])
    originals = originals_for((RESHAPED, renamed), tmp_path / "a.geojson")
    assert not originals.by_id and not originals.others


def test_other_layouts_and_damage(tmp_path: Path) -> None:
    write_geojson(tmp_path / "a.geojson", [UNCHANGED, OTHER])
    content = json.loads((tmp_path / "a.geojson").read_bytes())
    (tmp_path / "pretty.geojson").write_text(json.dumps(content, indent=1))
    found, problems = read_originals(
        [tmp_path / "pretty.geojson", tmp_path / "missing.geojson"], ids_of([UNCHANGED, OTHER])
    )
    assert len(found.by_id) == 2 and len(problems) == 1 and "missing.geojson" in problems[0]
    (tmp_path / "bad.geojson").write_bytes((tmp_path / "a.geojson").read_bytes()[:-40])
    _, problems = read_originals([tmp_path / "bad.geojson"], ids_of([UNCHANGED]))
    assert len(problems) == 1 and "\n" not in problems[0]
    for coordinates in ([[[None, None]]], [[["1", {}]]], [[[]]], {}, None):
        feature = {"type": "Feature", "id": "x", "geometry": {"type": "Polygon", "coordinates": coordinates}}
        (tmp_path / "bad.geojson").write_text(
            '{"type":"FeatureCollection","features":[\n' + json.dumps(feature, separators=(",", ":")) + "\n]}\n"
        )
        assert not read_originals([tmp_path / "bad.geojson"], frozenset(), {None: [AREA]})[0].others


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (AREA, True),
        (shapely.affinity.translate(AREA, 0.02, 0.05), True),
        (shapely.affinity.translate(AREA, 0.2, 0), False),
        (AREA.difference(box(50, 30, 52, 32)), False),
        (shapely.Polygon([(10, 10), (60, 10), (110, 10), (110, 60), (10, 60)]), True),
        (AREA.union(box(109, 59, 110.5, 60)), False),
    ],
)
def test_same_outlines(other: BaseGeometry, same: bool) -> None:
    assert is_same_outline(AREA, other) == is_same_outline(other, AREA) == same


@pytest.mark.parametrize("name", ["Tumor: Positive", "Drüse", "腫瘍", "a" * 300, ""])
def test_class_codes_are_exact_in_32_bits(name: str) -> None:
    code = class_code(name)
    assert 0 <= code < 2**24
    assert class_code(name) == code != class_code(name + "x")
