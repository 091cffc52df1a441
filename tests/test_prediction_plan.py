"""What is planned for each slide, and what is made of the outcomes: both without predicting anything."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, OutputExistsError, PartlyPredictedError, PixelSizeError, SlideError
from dmmn_qp.files.failures import line_of
from dmmn_qp.folders.predictions import read_predictions
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import lazy_model
from dmmn_qp.predicting import run as stage_run
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inference import BlockPrediction
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.plan import Failed, Predict, RemakePolygons, Skip, make_plans
from dmmn_qp.predicting.run import run_plans
from dmmn_qp.predicting.slide import WAITING_STRIPS, _GrowingStrips
from dmmn_qp.predicting.strips import StripStore
from dmmn_qp.predicting.summary import Outcome, Summary, conclude, left_out
from dmmn_qp.regions import Region
from dmmn_qp.slides.view import SlideView
from tests.conftest import invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_record import content
from tests.test_prediction_resume import command, make_model, texture

SIDES = (80, 90)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A model, slides s and new, and a prediction of s in ``p``."""
    folder = tmp_path_factory.mktemp("material")
    make_model(folder / "m")
    for seed, name in enumerate(("s", "new")):
        write_tiff(folder / f"{name}.tif", texture(*SIDES, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
        assert invoke(*command(folder), "--out", folder / "p").exit_code == 0
    return folder


@pytest.fixture
def place(here, material):
    shutil.copytree(material, here, dirs_exist_ok=True)
    return here


def call(place, *names, out="p", overwrite=False, **options):
    """A call for slides by name, without a word."""
    slides = [SlideToPredict(name, SlideView(place / f"{name}.tif")) for name in names]
    chosen = PredictOptions(device="cpu", precision="fp32", **options)
    run = describe_run("predict", {}, now())
    reporter = Reporter(Console(quiet=True))
    return Call(LazyModel(place / "m", chosen), slides, place / out, chosen, run, reporter, overwrite=overwrite)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, [Skip, Predict, Failed]),
        ({"simplify_um": 3.0}, [RemakePolygons, Predict, Failed]),
        ({"tta": True}, [Failed, Predict, Failed]),
        ({"overwrite": True}, [Predict, Predict, Failed]),
        ({"out": "elsewhere"}, [Predict, Predict, Failed]),
    ],
)
def test_plans(place, monkeypatch, options, kinds):
    """Neither is the network made, nor anything changed on disk."""
    monkeypatch.setattr(lazy_model, "load_predictors", None)
    before = content(place)
    plans = make_plans(call(place, "s", "new", "missing", **options))
    assert [type(plan) for plan in plans] == kinds
    assert [plan.slide.slide_id for plan in plans] == ["s", "new", "missing"]
    assert content(place) == before


def test_plan_of_polygons_has_the_record_that_is_wanted(place):
    before = read_predictions(place / "p")["s"]
    wanted = call(place, "s", simplify_um=3.0)
    (plan,) = make_plans(wanted)
    assert plan.before == before and plan.record.polygons == {**before.polygons, "simplify_um": 3.0}
    assert plan.record.run_id == wanted.run_id and plan.record.labels_run == before.run_id
    assert plan.record.request == before.request and plan.record.files == before.files


def test_plan_says_why(place):
    labels = place / "p/s.labels.ome.tif"
    labels.write_bytes(labels.read_bytes() + b"\0")
    (plan,) = make_plans(call(place, "s"))
    assert plan == Predict(plan.slide, "s.labels.ome.tif", seen=read_predictions(place / "p")["s"].run_id)
    (place / "p/run.json").unlink()
    (plan,) = make_plans(call(place, "s"))
    assert plan == Skip(plan.slide, place / "p/s.geojson", is_comparable=False)


def test_a_slide_that_does_not_fit_is_known_before_anything_is_predicted(place):
    write_tiff(place / "coarse.tif", texture(*SIDES), mpp=40.0)
    plans = make_plans(call(place, "new", "coarse"))
    assert isinstance(plans[0], Predict) and isinstance(plans[1].error, PixelSizeError)


def test_leftovers_of_finished_slides_go_when_the_plan_is_run(place):
    leftover = place / "p/.s.part"
    leftover.mkdir()
    (leftover / "00000.labels.zst").write_bytes(b"x")
    wanted = call(place, "s")
    plans = make_plans(wanted)
    assert leftover.is_dir()
    assert run_plans(wanted, plans).skipped == ["s"] and not leftover.exists()


def test_run_without_news_writes_nothing(place):
    before = content(place)
    wanted = call(place, "s")
    assert run_plans(wanted, make_plans(wanted)) == Summary((Outcome("s", place / "p/s.geojson", skipped=True),))
    assert content(place) == before


def test_failures_are_returned_and_recorded(place):
    wanted = call(place, "s", "missing", "gone")
    summary = run_plans(wanted, make_plans(wanted))
    assert list(summary.failures) == ["missing", "gone"] and summary.skipped == ["s"]
    assert json.loads((place / "p/run.json").read_text())["failed"] == summary.failures


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("names", "error", "goes_on"),
    [
        (("s", "new"), SlideError("broken"), True),
        (("s", "new"), OSError(errno.EACCES, "Permission denied"), True),
        (("s",), SlideError("broken"), False),
        (("s", "new"), FULL, False),
        (("s", "new"), OutputExistsError("other options"), False),
    ],
)
def test_what_stops_one_slide_and_what_stops_all(place, names, error, goes_on):
    if goes_on:
        assert left_out(call(place, *names), "s", error) == Outcome("s", failure=line_of(error))
        return
    with pytest.raises(type(error)) as raised:
        left_out(call(place, *names), "s", error)
    assert raised.value is error


A, B = Path("a.geojson"), Path("b.geojson")


def test_conclusion_is_made_of_the_outcomes(place):
    wrote = "Wrote p/; README.txt there names every file"
    cases = [
        ([Outcome("a", A, skipped=True), Outcome("b", B, skipped=True)], []),
        ([Outcome("a", A), Outcome("b", B)], [wrote]),
        ([Outcome("a", A, dropped=1), Outcome("b", B, dropped=2)],
         ["Removed the 3 oldest of the replaced polygons in p/earlier/", wrote]),
    ]  # fmt: skip
    for outcomes, lines in cases:
        wanted, said = call(place, "b", "a"), []
        wanted.reporter.say = said.append
        assert list(conclude(wanted, Summary(tuple(outcomes))).items()) == [("b", B), ("a", A)]
        assert [line.replace(f"{place}/", "") for line in said] == lines


def test_conclusion_with_failures_has_what_was_written(place):
    names = [*"abcdefg"]
    failed = [Outcome(name, failure=f"no {name}") for name in names[1:]]
    with pytest.raises(PartlyPredictedError) as raised:
        conclude(call(place, *names), Summary((*failed, Outcome("a", A))))
    shown = "; ".join(f"{name}: no {name}" for name in "bcdef")
    assert str(raised.value) == f"6 of 7 slides could not be predicted: {shown}" and raised.value.written == {"a": A}


def test_network_is_made_once_and_named_in_run_json(place):
    model = call(place, "s").model
    assert model.description() == {"context": "shared"}
    assert model.predictor is model.predictors[0] and model.predictors is model.predictors
    assert model.description() == {"context": "shared", "device": "cpu"}


def test_an_error_while_files_are_made_is_an_outcome(place, monkeypatch):
    """It fails beside the prediction of the next slide, which goes on."""

    plain = WRITERS["geojson"].write

    def fail(path, predicted):
        if predicted.slide_id == "s":
            raise DatasetError("no ink")
        plain(path, predicted)

    monkeypatch.setitem(WRITERS, "geojson", writing("geojson", fail))
    wanted = call(place, "s", "new", out="q")
    summary = run_plans(wanted, make_plans(wanted))
    assert summary.failures == {"s": "no ink"} and summary.finished == {"new": place / "q/new.geojson"}
    assert [outcome.slide_id for outcome in summary.outcomes] == ["s", "new"]


def test_an_error_while_strips_are_predicted_is_an_outcome(place, monkeypatch):
    plain = stage_run.predict_strips

    def fail(job, *rest):
        if job.target.slide_id == "s":
            raise SlideError("unplugged")
        plain(job, *rest)

    monkeypatch.setattr(stage_run, "predict_strips", fail)
    wanted = call(place, "s", "new", out="q")
    summary = run_plans(wanted, make_plans(wanted))
    assert summary.failures == {"s": "unplugged"} and list(summary.finished) == ["new"]
    run = json.loads((place / "q/run.json").read_text())
    assert run["failed"] == {"s": "unplugged"} and run["slides"] == ["new"]


def test_finished_strips_do_not_pile_up_before_a_slow_disk(tmp_path):
    """Five strips of two blocks, on a disk that writes only when it is waited for."""

    class SlowDisk:
        def __init__(self):
            self.waiting, self.most = [], 0

        def submit(self, write, job, strip, pixels):
            self.waiting.append(strip)
            self.most = max(self.most, len(self.waiting))
            return SimpleNamespace(result=lambda: self.waiting.remove(strip))

    disk, store = SlowDisk(), StripStore(tmp_path, (20, 8), 4, {"labels": 0})
    growing = _GrowingStrips(SimpleNamespace(strips=store), dict.fromkeys(range(5), 2), disk)
    for strip in range(5):
        for x in (0, 4):
            growing.place(Region(x, strip * 4, 4, 4), BlockPrediction(np.ones((4, 4), np.uint8)))
        assert strip not in growing._pixels
    assert disk.most == WAITING_STRIPS + 1 and len(disk.waiting) == WAITING_STRIPS
    growing.wait()
    assert disk.waiting == []
