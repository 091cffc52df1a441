"""A slide that would end the process is found out in another one, and the others are predicted."""

import os
import time
from pathlib import Path

import pytest

from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import stage
from dmmn_qp.slides import probing
from dmmn_qp.slides.probing import find_fatal
from tests.conftest import CMU_1, fails, invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_resume import make_model, texture

FATAL = """
import json, os, sys, time
for number, path in enumerate(json.load(sys.stdin)):
    print(number, flush=True)
    if "fatal" in path:
        os.abort()
    if "endless" in path:
        time.sleep(600)
print("end", flush=True)
"""


@pytest.fixture
def files(tmp_path):
    names = ["a", "fatal-1", os.fsdecode(b"\xb5"), "fatal-2", "z"]
    for name in names:
        (tmp_path / name).touch()
    return [*(tmp_path / name for name in names), tmp_path / "missing", tmp_path]


def test_those_that_end_the_process(files):
    found = find_fatal(files, FATAL)
    assert list(found) == [files[1], files[3]]
    assert all(f'slide "{path}" ends the program when it is opened' in why for path, why in found.items())
    assert find_fatal(files) == find_fatal([], FATAL) == find_fatal(files, "import nothing_of_that_name") == {}


def test_one_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "START_S", 2.0)
    monkeypatch.setattr(probing, "SLIDE_S", 0.1)
    for name in ("endless", "fatal"):
        (tmp_path / name).touch()
    found = find_fatal([tmp_path / "endless", tmp_path / "fatal"], FATAL)
    assert "takes too long" in found[tmp_path / "endless"] and "ends the program" in found[tmp_path / "fatal"]


def test_no_memory_is_taken_without_bound(tmp_path, monkeypatch):
    pytest.importorskip("resource")
    monkeypatch.setattr(probing, "MAX_BYTES", 2**28)
    taking = probing.OPENING.replace("    with contextlib.suppress(Exception):  #", "    bytes(2**29)\n    if True:  #")
    assert taking != probing.OPENING
    (tmp_path / "a").touch()
    assert list(find_fatal([tmp_path / "a"], taking)) == [tmp_path / "a"]


def test_it_costs_little():
    """Of ordinary slides; most of it is the other process's beginning."""
    began = time.monotonic()
    assert find_fatal([CMU_1] * 20) == {}
    assert time.monotonic() - began < 10  # about 0.3 s where nothing else runs


def test_the_other_slides_are_predicted(here, monkeypatch):
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    monkeypatch.setattr(stage, "find_fatal", lambda paths: find_fatal(paths, FATAL))
    make_model(here / "m")
    for name in ("a", "fatal"):
        write_tiff(here / f"{name}.tif", texture(100, 100))
    command = ("--model", "m", "--device", "cpu")
    result = invoke("predict", "fatal.tif", "a.tif", *command)
    assert result.exit_code == 1 and "warning: fatal is left out: slide " in result.stderr
    assert Path("predictions/a.geojson").is_file()
    assert "ends the program when it is opened" in fails("predict", "fatal.tif", *command)


def test_whatever_a_library_raises_for_a_slide_the_others_go_on(here, monkeypatch, tmp_path):
    """While it is planned, taken up, read or written: with its name, and no traceback."""
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make_model(here / "m")
    for name in ("a", "bad"):
        write_tiff(here / f"{name}.tif", texture(100, 100))

    def failing(plain, of):
        def call(*arguments, **options):
            if of(*arguments) == "bad":
                raise IndexError("tuple index out of range")
            return plain(*arguments, **options)

        return call

    places = {
        "plan.input_of": lambda slide, *_: slide.slide_id,
        "run.take_up": lambda call, slide: slide.slide_id,
        "run.predict_strips": lambda job, *_: job.target.slide_id,
        "finishing.write_files": lambda folder, predicted, *_: predicted.slide_id,
        "finishing.publish": lambda call, ready, *_: ready.slide_id,
    }
    for number, (place, of) in enumerate(places.items()):
        module, name = place.split(".")
        target = __import__(f"dmmn_qp.predicting.{module}", fromlist=[name])
        out = here / f"p{number}"
        words = ("predict", "bad.tif", "a.tif", "--model", "m", "--device", "cpu", "--out", out)
        if module == "plan":
            assert invoke(*words).exit_code == 0
        with monkeypatch.context() as patch:
            patch.setattr(target, name, failing(getattr(target, name), of))
            result = invoke(*words)
        assert result.exit_code == 1 and (out / "a.geojson").is_file(), place
        lines = result.stderr.splitlines()
        assert len(lines) == 2 and all("bad" in line and "IndexError" in line for line in lines), result.stderr
