"""Several processes predict into one folder: each slide is predicted once, and nobody loses what another wrote."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest

from dmmn_qp.files.locks import Holder, locked
from dmmn_qp.folders.predictions import read_inputs, read_predictions
from dmmn_qp.outputs.writers import WRITERS
from tests.conftest import REPOSITORY, fails, invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_resume import hidden, make_model, texture

PROCESSES, SLIDES_EACH, CLASSES = 4, 5, 3

MANY = """
import sys
from pathlib import Path
from dmmn_qp.console import Reporter
from dmmn_qp.folders.predictions import PredictedInput, Prediction
from dmmn_qp.outputs.area_table import SlideAreas
from dmmn_qp.outputs.made_objects import MadeObjects
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.publishing import ReadySlide, publish
from dmmn_qp.predicting.summary import Summary
from dmmn_qp.folders.provenance import describe_run, now

model, out, number, slides = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
lazy = LazyModel(model, PredictOptions())
call = Call(lazy, [], out, PredictOptions(), describe_run("predict", {}, now()), Reporter())
summary = Summary()
for slide in range(slides):
    name = f"s{number}-{slide}"
    folder = out / f".{name}.part"
    folder.mkdir(parents=True)
    for suffix in ("geojson", "labels.ome.tif"):
        (folder / f"{name}.{suffix}").write_text("{}")
    record = Prediction(run_id=call.run_id, model="m", model_run="r")
    areas = SlideAreas(name, lazy.card.class_map, 1.0, (0, 1, 2, 3))
    image = PredictedInput(path=name, fingerprint=name)
    summary = summary.after(publish(call, ReadySlide(name, folder, record, image, MadeObjects(), areas), summary))
    folder.rmdir()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "m")


def environment():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.mark.engine
def test_many_processes_lose_nothing(here, model):
    """As of a cluster array, each with slides of its own; 4 x 5 slides of 3 classes are 60 rows, and the unlabelled."""
    command = [sys.executable, "-c", MANY, model, here / "p"]
    running = [
        subprocess.Popen([*command, str(number), str(SLIDES_EACH)], env=environment()) for number in range(PROCESSES)
    ]
    assert [process.wait() for process in running] == [0] * PROCESSES
    names = {f"s{number}-{slide}" for number in range(PROCESSES) for slide in range(SLIDES_EACH)}
    with (here / "p/areas.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labelled = [(row["slide"], row["class"]) for row in rows if row["class"] != "(unlabelled)"]
    assert len(labelled) == len(set(labelled)) == 60 and {slide for slide, _ in labelled} == names
    assert set(read_predictions(here / "p")) == set(read_inputs(here / "p")) == names
    assert {path.name.removesuffix(".geojson") for path in (here / "p").glob("*.geojson")} == names
    assert "<slide>.geojson" in (here / "p/README.txt").read_text() and not hidden(here / "p")


@pytest.mark.engine
def test_two_predictions_of_the_same_slides(here, model):
    """Each slide is predicted once; the other process says who has what, and ends well if anything was left to it."""
    for seed, name in enumerate("ab"):
        write_tiff(here / f"{name}.tif", texture(1500, 256, seed))
    words = ["predict", "a.tif", "b.tif", "--model", model, "--precision", "fp32", "--device", "cpu", "--out", "p"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    running = [subprocess.Popen([sys.executable, "-m", "dmmn_qp", *words], **pipes) for _ in range(2)]
    said = [process.communicate() for process in running]
    assert 0 in [process.returncode for process in running], said
    for process, (_, errors) in zip(running, said, strict=True):
        told = " ".join(errors.split())  # of the second one with the first, or as one more like it
        left = [f"{name} is left to another process" in told or f"): {name}" in told for name in "ab"]
        assert process.returncode == 0 or all(left), said
    outputs = "".join(output for output, _ in said)
    for name in "ab":
        assert (here / f"p/{name}.geojson").is_file() and outputs.count(f"  {name}: 1500 x 256") <= 1
    rows = (here / "p/areas.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 and set(read_predictions(here / "p")) == {"a", "b"} and not hidden(here / "p")


HOLD = """
import sys, time
from pathlib import Path
from dmmn_qp.files.locks import locked
with locked(Path(sys.argv[1]), 'a prediction of slide "a"', "wait", where=Path("p")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(here, model, monkeypatch):
    """Slides a and b, of which another process predicts the first."""
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    for seed, name in enumerate("ab"):
        write_tiff(here / f"{name}.tif", texture(200, 200, seed))
    (here / "p").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, here / "p/a"], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def command(model, *names):
    slides = [f"{name}.tif" for name in names]
    return ("predict", *slides, "--model", model, "--precision", "fp32", "--device", "cpu", "--out", "p")


def test_a_slide_that_another_process_predicts_is_left_to_it(here, model, held):
    result = invoke(*command(model, "a", "b"))
    assert result.exit_code == 0, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        'warning: a is left to another process: a prediction of slide "a" is running in "p" (process'
    )
    assert f"process {held.pid} on {Holder.here('').host}, since 20" in line and "wait until it has ended" in line
    assert "Left to other processes that predict into p/ now: a\n" in result.output
    assert (here / "p/b.geojson").is_file() and not (here / "p/a.geojson").exists()
    run = json.loads((here / "p/run.json").read_text())
    assert run["slides"] == ["b"] and run["failed"] == {}
    assert f"process {held.pid}" in fails(*command(model, "a"))
    held.kill()
    held.wait()
    result = invoke(*command(model, "a", "b"))
    assert result.exit_code == 0 and (here / "p/a.geojson").is_file() and not hidden(here / "p")
    assert not result.stderr


def test_all_left_to_others_is_an_error(here, model, held):
    with locked(here / "p/b", "a prediction", "wait"):
        result = invoke(*command(model, "a", "b"))
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: Left to other processes that predict into p/ now: a, b; wait until they have ended")
    assert not (here / "p/run.json").exists()


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_what_another_process_has_done_meanwhile_is_not_done_again(here, model, monkeypatch, options):
    """It finishes the second slide while this one predicts the first."""
    from dmmn_qp.predicting import run as stage_run

    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    for seed, name in enumerate("ab"):
        write_tiff(here / f"{name}.tif", texture(200, 200, seed))
    if options:
        assert invoke(*command(model, "b")).exit_code == 0
    plain, predicted = stage_run.predict_strips, []

    def meanwhile(job, *rest):
        predicted.append(job.target.slide_id)
        if predicted == ["a"]:
            assert invoke(*command(model, "b"), *options).exit_code == 0
        plain(job, *rest)

    monkeypatch.setattr(stage_run, "predict_strips", meanwhile)
    result = invoke(*command(model, "a", "b"), *options)
    assert result.exit_code == 0 and predicted == ["a", "b"], result.output  # b by the other one
    run = json.loads((here / "p/run.json").read_text())
    assert run["skipped"] == ["b"] and set(run["predictions"]) == {"a", "b"}
    assert not hidden(here / "p")


def test_a_host_that_has_stopped_is_taken_over_from(here, model, monkeypatch):
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    write_tiff(here / "a.tif", texture(200, 200))
    (here / "p").mkdir()
    note = {"doing": "a prediction", "pid": 7, "host": "node7", "since": "2026-01-01T00:00:00+00:00", "key": "k"}
    (here / "p/.a.holder.json").write_text(json.dumps(note))
    os.utime(here / "p/.a.holder.json", (time.time() - 60,) * 2)
    assert "process 7 on node7" in (line := fails(*command(model, "a"))) and "--take-over" in line
    assert invoke(*command(model, "a"), "--take-over").exit_code == 0
    assert (here / "p/a.geojson").is_file() and not hidden(here / "p")
