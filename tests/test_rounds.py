"""The ledger of the loop: what was corrected counts once, for the model whose prediction was seen."""

from __future__ import annotations

import csv
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from shapely import box
from typer.testing import CliRunner

from dmmn_qp.annotations import Annotation
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.round_figures import RoundFigures, figures_of, is_flat
from dmmn_qp.folders.rounds import Drawn, Judged, Ledger, Round, SlideReview, loop_folder, read_ledger, update_ledger
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, marked_id
from dmmn_qp.reports.loop_report import render_loop_page
from dmmn_qp.reports.loop_words import curve_sentence, curve_word, errors_sentence
from dmmn_qp.specs import ClassMap
from tests.conftest import invoke, two_tissues, write_tiff
from tests.qupath.test_review import as_of_qupath_04, predicted

MM2 = 0.25e-6  # of a px at 0.5 um/px
DRAWN = [
    Annotation(box(0, 0, 60, 256), class_name="dark", class_color=(90, 20, 110)),
    Annotation(box(200, 0, 256, 256), class_name="light", class_color=(230, 200, 225)),
]


def by_model(annotation: Annotation, run: str) -> Annotation:
    """The object as the model of a training had predicted it."""
    metadata = {**annotation.metadata, MODEL_RUN_KEY: run, METADATA_KEY: f"model {run}"}
    return replace(annotation, metadata=metadata, annotation_id=marked_id(f"{run}/{annotation.geometry.wkt}"))


LIGHT = by_model(predicted(box(60, 0, 120, 100), "light"), "r1")
DARK = by_model(predicted(box(120, 0, 200, 100), "dark"), "r1")
LATER = by_model(predicted(box(60, 100, 200, 256), "dark"), "r2")
LOCKED = replace(LIGHT, locked=True)
SAID_LIGHT = replace(DARK, class_name="light")
MOVED = replace(LIGHT, geometry=box(80, 0, 160, 100), measurements={})
"""40 x 100 px of "dark" become "light", and 20 x 100 of "light" are erased at its other end."""


@pytest.fixture
def loop(here):
    """Imports a slide with some objects, beside predictions; gives the ledger."""
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", two_tissues(256, 256))
    put(here / "predictions" / "s.geojson", [LIGHT, DARK])

    def run(annotations, *options, code=0):
        put(here / "geojson" / "s.geojson", annotations)
        result = invoke("import", "slides", "--annotations", "geojson", "--overwrite", *options)
        assert result.exit_code == code, result.output
        run.output = " ".join(result.output.split())
        return read_ledger(here / "loop")

    return run


def put(path: Path, annotations) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_geojson(path, annotations)


def pixels(one: Round) -> dict[tuple[str, str | None], int]:
    """What was predicted and said, in px."""
    return {(e.predicted, e.said): round(e.mm2 / MM2) for slide in one.slides for e in slide.judged}


def rows(here: Path) -> list[dict[str, str]]:
    with (here / "loop" / "rounds.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_round_in_figures(loop, here):
    ledger = loop([*DRAWN, LOCKED, SAID_LIGHT])
    (one,) = ledger.rounds
    assert (one.kind, one.model_run, one.model) == ("model", "r1", "model r1")
    assert pixels(one) == {("light", "light"): 6000, ("dark", "light"): 8000}
    (row,) = rows(here)
    assert float(row["checked_mm2"]) == pytest.approx(14000 * MM2)
    assert (row["round"], row["share_right"], row["share light"], row["share dark"]) == ("1", "0.4286", "0.4286", "0.0")
    assert (row["confirmed"], row["corrected"], row["drawn_areas"]) == ("1", "1", "2")
    # 2 looked at, 1 of another class, 2 areas drawn with (632 + 624) px of outline at 0.5 um/px
    assert float(row["person_minutes_estimated"]) == pytest.approx((2 * 3 + 4 + 2 * 5 + 5 * 0.628) / 60, abs=0.01)
    assert "of what was checked, 43 % had been right in round 1 (model r1); see loop/loop.html" in loop.output


def test_outlines_are_compared_with_those_that_were_seen(loop):
    (one,) = loop([*DRAWN, MOVED, DARK]).rounds
    assert pixels(one) == {("light", "light"): 4000, ("dark", "light"): 4000, ("light", None): 2000}
    assert (one.slides[0].reshaped, one.slides[0].reclassified, one.slides[0].unchecked) == (1, 0, 1)


def test_a_model_is_never_measured_by_what_it_has_learned_from(loop, here):
    first = loop([*DRAWN, LOCKED, SAID_LIGHT]).rounds[0]
    # The second model has learned it: it predicts as "light" what was said to be so, just there.
    (here / "predictions" / "earlier" / "r").mkdir(parents=True)
    shutil.move(here / "predictions" / "s.geojson", here / "predictions" / "earlier" / "r" / "s.geojson")
    put(here / "predictions" / "s.geojson", [by_model(predicted(DARK.geometry, "light"), "r2"), LATER])
    again, second = loop([*DRAWN, LOCKED, SAID_LIGHT, replace(LATER, locked=True)]).rounds
    assert pixels(again) == pixels(first) == {("light", "light"): 6000, ("dark", "light"): 8000}
    assert pixels(second) == {("dark", "dark"): 140 * 156}
    assert "100 % had been right in round 2 (model r2), 43 % in round 1 (model r1)" in loop.output


def test_later_corrections_change_no_earlier_round(loop, here):
    erased = replace(LIGHT, geometry=box(60, 0, 100, 100), measurements={})  # 20 x 100 px are taken away
    before = loop([*DRAWN, erased, DARK]).rounds[0]
    assert pixels(before) == {("light", "light"): 4000, ("light", None): 2000}
    filled = by_model(predicted(box(100, 0, 120, 100), "light"), "r2")
    drawn = Annotation(box(110, 0, 120, 100), class_name="light", class_color=(230, 200, 225))
    after, later = loop([*DRAWN, erased, DARK, drawn, replace(filled, locked=True)]).rounds
    assert pixels(after) == pixels(before)
    assert pixels(later) == {("light", "light"): 2000}


@pytest.mark.parametrize("what", ["again", "without earlier files", "without the slide's objects"])
def test_what_was_recorded_stays(loop, here, what):
    before = loop([*DRAWN, MOVED, DARK])
    if what == "without earlier files":
        shutil.rmtree(here / "predictions")
    after = loop([*DRAWN, MOVED, DARK] if what != "without the slide's objects" else DRAWN)
    assert after == before
    assert after.rounds[0].slides[0].is_compared


def test_importing_again_writes_the_same(loop, here):
    loop([*DRAWN, LOCKED])
    before = {path.name: path.read_bytes() for path in (here / "loop").iterdir()}
    assert {"ledger.json", "rounds.csv", "loop.html"} == before.keys()
    loop([*DRAWN, LOCKED])
    assert {path.name: path.read_bytes() for path in (here / "loop").iterdir()} == before


def test_what_does_not_tell_its_model_has_a_row_of_its_own(loop, here):
    shutil.rmtree(here / "predictions")
    ledger = loop([*DRAWN, as_of_qupath_04(LOCKED), replace(DARK, locked=True)])
    assert [(r.kind, r.model) for r in ledger.rounds] == [("model", "model r1"), ("unknown", None)]
    assert pixels(ledger.rounds[1]) == {("light", "light"): 6000}
    assert [row["round"] for row in rows(here)] == ["1", ""]
    assert "QuPath 0.4 loses" in (here / "loop" / "loop.html").read_text("utf-8")
    # With the files of the prediction, the same object is known again.
    put(here / "predictions" / "s.geojson", [LIGHT, DARK])
    (here / "loop" / "ledger.json").unlink()
    (one,) = loop([*DRAWN, as_of_qupath_04(LOCKED), replace(DARK, locked=True)]).rounds
    assert (one.model, one.slides[0].confirmed) == ("model r1", 2)


def test_drawn_areas_belong_to_the_round_in_which_they_were_drawn(loop, here):
    loop(DRAWN)
    more = Annotation(box(120, 120, 160, 160), class_name="dark", class_color=(90, 20, 110))
    loop([*DRAWN, LOCKED, more])
    loop([*DRAWN, LOCKED, more, LATER])  # the second model is seen, nothing of it is checked
    start, first, second = rows(here)
    assert [r["drawn_areas"] for r in (start, first, second)] == ["2", "1", "0"]
    assert float(first["drawn_mm2"]) == pytest.approx(1600 * MM2)
    assert (start["round"], start["share_right"], second["share_right"]) == ("0", "", "")


def test_classes_have_the_names_that_are_trained(loop, here):
    (here / "rename.toml").write_text('[import.classes]\nlight = "pale"\n')
    (one,) = loop([*DRAWN, LOCKED, SAID_LIGHT], "--config", "rename.toml").rounds
    assert pixels(one) == {("pale", "pale"): 6000, ("dark", "pale"): 8000}


def test_marks_without_measure_are_bounded(loop):
    """Whatever an exported file says of a model, the ledger stays small."""
    endless = by_model(LIGHT, "r" * 100_000)
    named = replace(DARK, locked=True, metadata={**DARK.metadata, METADATA_KEY: "n\n" * 100_000})
    model, unknown = loop([*DRAWN, replace(endless, locked=True), named]).rounds
    assert (unknown.kind, unknown.model_run) == ("unknown", None)
    assert model.model_run == "r1" and len(model.model or "") <= 100


def test_what_is_said_to_be_no_tissue_is_taken_away(loop, here):
    (one,) = loop([*DRAWN, LOCKED, replace(DARK, class_name="Ignore*")]).rounds
    assert pixels(one) == {("light", "light"): 6000, ("dark", None): 8000}
    (one,) = loop([*DRAWN, LOCKED, replace(DARK, class_name="fat")], "--drop", "fat").rounds
    assert pixels(one) == {("light", "light"): 6000, ("dark", None): 8000}


def test_a_person_may_be_faster(loop, here):
    (here / "fast.toml").write_text("[import.person_seconds]\nlooked_at = 60\ndrawn_object = 0\ndrawn_mm = 0\n")
    loop([*DRAWN, LOCKED], "--config", "fast.toml")
    assert rows(here)[0]["person_minutes_estimated"] == "1.0"
    assert "60 s to look at an area" in (here / "loop" / "loop.html").read_text("utf-8")


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 2}', '{"rounds": [{"kind": "x"}]}'])
def test_a_damaged_ledger_is_left_as_it_is(loop, here, content):
    (here / "loop").mkdir()
    (here / "loop" / "ledger.json").write_text(content)
    put(here / "geojson" / "s.geojson", [*DRAWN, LOCKED])
    result = CliRunner().invoke(*import_call())
    assert result.exit_code == 0, result.output
    assert "the round is not recorded" in result.stderr and "move it away" in result.stderr
    assert (here / "loop" / "ledger.json").read_text() == content


REVIEW = {"slide": "t", "confirmed": 1, "corrected": 0, "reclassified": 0, "reshaped": 0, "is_compared": True}
HUGE = [
    {**REVIEW, "judged": [{"predicted": "a", "said": "a", "mm2": 1e308}], "squares_mm4": [1, 1, 1]},
    {**REVIEW, "judged": [], "squares_mm4": [1, 1, 1], "confirmed": 10**400},
    {**REVIEW, "judged": [], "squares_mm4": [1e308] * 3},
]


@pytest.mark.parametrize("review", HUGE)
def test_figures_that_nobody_can_have_are_damage(loop, here, review):
    (here / "loop").mkdir()
    rounds = [{"kind": "model", "model_run": "r0", "slides": [review, review]}]
    (here / "loop" / "ledger.json").write_text(json.dumps({"rounds": rounds}))
    put(here / "geojson" / "s.geojson", [*DRAWN, LOCKED])
    for result in (CliRunner().invoke(*import_call()), invoke("status")):
        assert result.exit_code == 0, result.output
        assert "damaged or of another version" in " ".join(result.output.split())


def import_call():
    from dmmn_qp.cli.app import app

    return app, ["import", "slides", "--annotations", "geojson"]


def test_many_at_once_lose_nothing(tmp_path):
    def add(i: int) -> None:
        one = Round(kind="model", model_run=str(i), since=f"{i:02d}")
        change = lambda ledger: ledger.with_rounds({r.key: r for r in (*ledger.rounds, one)})  # noqa: E731
        update_ledger(tmp_path / "loop", change, lambda ledger: None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    assert [r.model_run for r in read_ledger(tmp_path / "loop").rounds] == [str(i) for i in range(16)]


@pytest.mark.parametrize(("dataset", "folder"), [("dataset", "loop"), ("a/dataset", "a/loop"), ("x", "x-loop")])
def test_where_the_ledger_lies(dataset, folder):
    assert loop_folder(Path(dataset)) == Path(folder)


def test_the_ledger_lies_beside_a_dataset_that_is_not_named(tmp_path, monkeypatch):
    (tmp_path / "dataset" / "masks").mkdir(parents=True)
    for inside, named in (("dataset", "."), ("dataset/masks", "..")):
        monkeypatch.chdir(tmp_path / inside)
        assert loop_folder(Path(named)) == tmp_path / "loop"


# ---- figures


def round_of(share: float, objects: int = 10_000, kind: str = "model", run: str = "r") -> Round:
    """A round of which 10 mm2 were checked, in so many objects of equal size."""
    judged = (Judged(predicted="a", said="a", mm2=10 * share), Judged(predicted="a", said="b", mm2=10 * (1 - share)))
    slide = SlideReview(
        slide="s", confirmed=objects, corrected=0, reclassified=0, reshaped=0, judged=judged,
        squares_mm4=tuple(100 / objects * part for part in (1, share, share)), is_compared=True,
    )  # fmt: skip
    return Round(kind=kind, model_run=run, slides=(slide,))


def figures(*shares: float, objects: int = 10_000) -> list[RoundFigures]:
    rounds = tuple(round_of(share, objects, run=str(i)) for i, share in enumerate(shares))
    return figures_of(Ledger(rounds=rounds), PersonSeconds())


@pytest.mark.parametrize(
    ("shares", "objects", "flat", "word"),
    [
        ((0.8,), 10_000, None, "too early"),
        ((0.5, 0.8), 10_000, None, "too early"),
        ((0.5, 0.8, 0.9), 10_000, False, "rising"),
        ((0.5, 0.8, 0.9, 0.92), 10_000, False, "rising"),
        ((0.5, 0.9, 0.905, 0.908), 10_000, True, "flat"),
        ((0.9, 0.905, 0.93), 10_000, False, "rising"),
        ((0.9, 0.92, 0.85), 10_000, True, "falling"),
        ((0.90, 0.91, 0.93), 100, True, "flat"),  # chance gives 4 points
        ((0.80, 0.81, 0.84), 20, None, "too little"),  # chance gives 12
        ((0.1, 0.5, 0.9), 20, False, "rising"),
        ((1.0, 1.0, 1.0), 3, None, "too little"),  # three right ones of three are no certainty
    ],
)
def test_when_a_curve_is_flat(shares, objects, flat, word):
    rounds = figures(*shares, objects=objects)
    assert is_flat(rounds) is flat
    assert word in curve_word(rounds)
    assert curve_sentence(rounds).endswith(".")


def test_shares_by_hand():
    judged = [("a", "a", 6.0), ("a", "b", 2.0), ("b", "b", 1.0), ("b", None, 1.0), ("c", "c", 0.05)]
    slide = (
        round_of(1)
        .slides[0]
        .model_copy(update={"judged": tuple(Judged(predicted=p, said=s, mm2=mm2) for p, s, mm2 in judged)})
    )
    (r,) = figures_of(Ledger(rounds=(Round(kind="model", model_run="r", slides=(slide,)),)), PersonSeconds())
    assert r.share == pytest.approx(7.05 / 10.05)
    assert {c.name: round(c.share, 4) for c in r.classes} == {"a": 0.75, "b": 0.25, "c": 1.0}
    assert r.mean_share == pytest.approx(0.5)  # "c" is less than 1 % of what was checked
    assert [(e.predicted, e.said) for e in r.errors] == [("a", "b"), ("b", None)]
    assert errors_sentence([r]) == (
        "What is wrong in round 1, of the area that was checked: 20 % (2.00 mm²) predicted as a is b; "
        "10.0 % (1.00 mm²) predicted as b was taken away. The weakest class is b, with 25 % of it right."
    )


def test_uncertainty_by_hand():
    # Two objects, of 3 and 1 mm2, of which 2 and 1 are right; one right and one wrong of 2 mm2 are added.
    judged = (Judged(predicted="a", said="a", mm2=3), Judged(predicted="a", said="b", mm2=1))
    slide = (
        round_of(1)
        .slides[0]
        .model_copy(
            update={"judged": judged, "confirmed": 1, "corrected": 1, "squares_mm4": (3 * 3 + 1, 3 * 2 + 1, 2 * 2 + 1)}
        )
    )
    (r,) = figures_of(Ledger(rounds=(Round(kind="model", model_run="r", slides=(slide,)),)), PersonSeconds())
    p = 5 / 8
    squared = (2 - 3 * p) ** 2 + (1 - p) ** 2 + (2 - 2 * p) ** 2 + (2 * p) ** 2
    assert r.uncertainty == pytest.approx(squared**0.5 / 8)


def test_few_objects_are_uncertain():
    many, few = figures(0.5, objects=100)[0], figures(0.5, objects=4)[0]
    assert many.uncertainty == pytest.approx((0.25 / 102) ** 0.5)
    assert few.uncertainty == pytest.approx((0.25 / 6) ** 0.5)


def test_drawn_is_what_is_new():
    drawn = [Drawn(areas=2, mm2=1, outline_mm=3), None, Drawn(areas=5, mm2=1.5, outline_mm=4), Drawn(areas=4)]
    rounds = [round_of(0.5, run=str(i)).model_copy(update={"drawn": d}) for i, d in enumerate(drawn)]
    assert [r.drawn.areas for r in figures_of(Ledger(rounds=tuple(rounds)), PersonSeconds())] == [2, 0, 3, 0]


def test_the_page_is_safe_whatever_is_in_it():
    evil = "<script>alert(1)</script>\"'\u202e\n=1+1"
    one = round_of(0.5).model_copy(update={"model": evil})
    judged = (Judged(predicted=evil, said="b", mm2=1), Judged(predicted=evil, said=evil, mm2=1))
    one = one.model_copy(update={"slides": (one.slides[0].model_copy(update={"judged": judged}),)})
    ledger = Ledger(rounds=(one, round_of(0.6, run="2"), Round(kind="unknown"), Round(kind="start")))
    page = render_loop_page(
        figures_of(ledger, PersonSeconds()), ClassMap.from_colors([("b", (1, 2, 3))]), PersonSeconds()
    )
    assert "<script" not in page and "\u202e" not in page and page.count("<svg") == 2
    assert "default-src 'none'" in page and not re.search(r'(src|href)="(?!data:)', page)


def test_a_page_of_so_many_classes_that_none_counts():
    judged = tuple(Judged(predicted=str(i), said=str(i), mm2=1) for i in range(200))
    one = round_of(1).model_copy(update={"slides": (round_of(1).slides[0].model_copy(update={"judged": judged}),)})
    assert "100.0 %" in render_loop_page(
        figures_of(Ledger(rounds=(one,)), PersonSeconds()), ClassMap.from_colors([("0", (1, 2, 3))]), PersonSeconds()
    )


def test_a_page_of_nothing():
    assert "nothing is checked so far" in render_loop_page(
        [], ClassMap.from_colors([("b", (1, 2, 3))]), PersonSeconds()
    )


def test_the_ledger_is_read_back_as_it_was(tmp_path):
    ledger = Ledger(rounds=(round_of(0.5), Round(kind="unknown")))
    update_ledger(tmp_path, lambda before: ledger, lambda written: None)
    assert read_ledger(tmp_path) == ledger
    assert json.loads((tmp_path / "ledger.json").read_text())["format_version"] == 1
