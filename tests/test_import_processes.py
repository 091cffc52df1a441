"""Slides are painted in several processes as in one, to the last byte; what goes wrong with one costs that one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.importing import painting
from dmmn_qp.importing.prepared import Prepared
from dmmn_qp.importing.source import SourceSlide
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.qupath.notes import ReadResult
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap, PatchSpec
from tests import painting_tasks
from tests.conftest import REPOSITORY, fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.test_engines import assert_gone

AREAS = [
    rectangle(20, 20, 230, 400, "dark"),
    rectangle(260, 20, 240, 400, "light"),
    rectangle(30, 30, 90, 100, "Ignore*"),
]
posix = pytest.mark.skipif(os.name != "posix", reason="this system has no such signals")


def slides_of(here, *names):
    """Slides with two classes; what is not called ``good`` has a third."""
    (here / "slides").mkdir()
    for seed, name in enumerate(names):
        write_tiff(here / "slides" / f"{name}.tif", two_tissues(512, 512, seed))
        more = [] if name.startswith("good") else [rectangle(40, 430, 300, 80, "rare")]
        write_features(here / "geojson" / f"{name}.geojson", [*AREAS, *more])
    return ("import", "slides", "--annotations", "geojson")


def files_of(folder):
    """Content of all files but the time and the options of ``run.json``."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    run = json.loads(found.pop("run.json"))
    return found, {key: run[key] for key in ("command", "left_out")}


@pytest.mark.parametrize(
    "more", [(), ("--check",), ("--take-predictions", "all", "--merge-case", "--overlap", "smallest")]
)
def test_one_process_and_several_make_the_same(here, more):
    command = (*slides_of(here, "good-1", "good-2", "good-3", "more"), *more)
    made = []
    for workers in ("1", "3"):
        result = invoke(*command, "--workers", workers)
        assert result.exit_code == 0, result.output
        made.append((result.stdout, result.stderr, "--check" in more or files_of(here / "dataset")))
        if "--check" not in more:
            (here / "dataset").rename(here / f"of {workers}")
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("workers", "word", "said"),
    [
        ("1", "refused", "do without"),
        ("1", "odd", "ZeroDivisionError"),
        ("1", "large", "memory"),
        ("2", "odd", "ZeroDivisionError"),
        pytest.param("2", "killed", "SIGKILL", marks=posix),
    ],
)
def test_a_slide_that_cannot_be_painted_is_left_out(here, monkeypatch, workers, word, said):
    """Its classes are not those of the others any more, and no half of it is left."""
    command = (*slides_of(here, "good-1", word, "good-2"), "--workers", workers)
    monkeypatch.setattr(painting, "paint_slide", painting_tasks.paint)
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert said in line and word in line and len(line) < 600
    dataset = Dataset(here / "dataset")
    assert [record.slide_id for record in dataset.slides()] == ["good-1", "good-2"]
    assert dataset.class_map.names == ("dark", "light")
    assert said in dataset.manifest.left_out[0] and len(dataset.manifest.left_out) == 1
    assert not [path for path in (here / "dataset").rglob("*") if word in path.name]
    found = files_of(here / "dataset")[0]
    for folder in ("slides", "geojson"):
        for path in (here / folder).glob(f"{word}.*"):
            path.unlink()
    assert invoke(*command, "--overwrite", "--workers", "1").exit_code == 0
    alone = files_of(here / "dataset")[0]
    assert {name for name in found if found[name] != alone[name]} <= {"report.html", "report.json", "dataset.json"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_with_strict_and_where_none_is_left_it_is_an_error(here, monkeypatch, workers):
    command = (*slides_of(here, "good-1", "odd-1", "refused"), "--workers", workers)
    monkeypatch.setattr(painting, "paint_slide", painting_tasks.paint)
    line = fails(*command, "--strict")
    assert "ZeroDivisionError" in line and "do without" in line and not (here / "dataset").exists()
    check = invoke(*command, "--check")
    assert check.exit_code == 0 and sum("left out until" in line for line in check.stdout.splitlines()) == 2
    for name in ("slides/good-1.tif", "geojson/good-1.geojson"):
        (here / name).unlink()
    line = fails(*command)
    assert "ZeroDivisionError" in line and "do without" in line
    assert sorted(path.name for path in here.iterdir()) == ["geojson", "slides"]


@pytest.mark.parametrize(("workers", "other"), [("1", "good-2"), ("2", "good-2"), ("2", "long")])
def test_a_full_disk_ends_all(here, monkeypatch, workers, other):
    """Also what another process is writing at that moment: it would go on in the folder that is being removed."""
    command = (*slides_of(here, "full", other, "good-1"), "--workers", workers)
    monkeypatch.setattr(painting, "paint_slide", painting_tasks.paint)
    assert "no space is left on the disk" in fails(*command)
    assert sorted(path.name for path in here.iterdir()) == ["geojson", "slides"]


INTERRUPTED = """
import sys
from dmmn_qp.cli import run
from dmmn_qp.importing import painting
from tests import painting_tasks
painting.paint_slide = painting_tasks.endless
run()
"""


@posix
def test_ctrl_c_ends_all_processes_and_leaves_nothing(here):
    command = (*slides_of(here, "good-1", "good-2", "good-3"), "--workers", "2")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *command], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(begun := list(here.glob(".dataset.*/masks/good-?"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.1)
        pids = [int(path.read_text()) for path in begun]
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130 and len(error.splitlines()) == 1 and len(pids) == 2, error
    assert_gone(pids)
    assert sorted(path.name for path in here.iterdir()) == ["geojson", "slides"]


@pytest.mark.parametrize(
    ("slides", "side_px", "teeth", "wanted"),
    [(1, 512, 1, 1), (8, 512, 1, 1), (8, 512, 25_000, 1), (8, 8192, 25_000, 4), (8, 20_000, 1, 4)],
)
def test_processes_are_begun_where_there_is_much_to_paint(monkeypatch, slides, side_px, teeth, wanted):
    """8 slides of 8,192 px have 32 rows of 32 targets; 32 times 75,000 vertices are as much as 3,750 targets."""
    monkeypatch.setattr(painting, "available_cores", lambda: 4)
    x = np.linspace(0, side_px, 3 * teeth)
    comb = shapely.LineString(np.column_stack([x, np.where(np.arange(3 * teeth) % 2, 0, side_px)]))
    drawn = (Annotation(comb, "a"),)
    painter = LabelPainter(drawn, ClassMap.from_colors([("a", (1, 2, 3))]), 1.0)
    record = SlideRecord(slide_id="s", path="s", width=side_px, height=side_px, mpp=0.5, fingerprint="", split="train")
    item = Prepared(
        SourceSlide("s", ReadResult(drawn), SlideView(Path("s"))), drawn, record, PatchSpec().grid_of(0.5), painter
    )
    assert painting.workers_for([item] * slides) == wanted
