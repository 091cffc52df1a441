"""The window in QuPath: what its buttons do to the open image, and what it asks its process for.

It is used as by a person, on stand-ins for QuPath: once with JavaFX stood in for, and once in a real window under Xvfb.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dmmn_qp.qupath.marks import marked_id
from tests.groovy import tools
from tests.groovy.cases import NEW, feature, find_groovy, ids, image, predicted, write

WINDOW = next(path for path in tools.SCRIPTS if path.stem == "dmmn")
FAKE = tools.STAND_INS / "fake_serve.py"
JAVAFX = Path(os.environ.get("DMMN_QP_JAVAFX", "/usr/share/openjfx/lib"))

OLD, LOCKED, DRAWN = str(marked_id("old")), str(marked_id("locked")), "00000000-0000-4000-8000-000000000001"
FIRST, SECOND, BEFORE = (f"d1337b0f-0002-5000-8000-00000000001{n}" for n in (1, 2, 3))
EARLIER = [
    feature(DRAWN, at=(0, 10, 4, 4), name="tumour"),
    predicted(OLD, at=(0, 20, 4, 4)),
    predicted(LOCKED, at=(0, 40, 4, 4), isLocked=True),
]


def suggested(object_id: str, rank: int, at: tuple[int, ...], name: str, **more: Any) -> dict[str, Any]:
    """A region as `dmmn-qp suggest` writes it."""
    ranked = {"measurements": {"Suggestion rank": rank}, "classification": {"name": "Region*"}}
    return feature(object_id, at=at, name=name, **ranked, **more)


REGIONS = [suggested(SECOND, 2, (50, 50, 12, 6), "2 rare"), suggested(FIRST, 1, (20, 20, 12, 6), "1 uncertain")]
Step = tuple[str, Any]
IDLE: Step = ("idle", "")


def press(name: str) -> Step:
    return ("press", name)


class Windows:
    """Cases to run, and their outcome: they share one Java."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: dict[str, dict[str, Any]] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}

    def add(self, name: str, *steps: Step, how: str = "well", objects: Any = EARLIER, args: Any = ()) -> None:
        folder = self.folder / name
        folder.mkdir()
        write(folder / "polygons.geojson", predicted(NEW, at=(0, 60, 4, 4)))
        write(folder / "suggestions.geojson", *REGIONS)
        program = folder / "dmmn-qp"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "{folder}" {how} "$@"\n')
        program.chmod(0o755)
        self.cases[name] = {
            "script": str(WINDOW),
            "version": "0.6",
            "folder": str(folder),
            "images": [image(objects=[*objects], mpp=0.5), image("b.svs")],
            "args": [f"program={program}", *args],
            "steps": [IDLE, *steps],
        }

    def run(self, groovy: tools.Groovy, **how: Any) -> None:
        told, written = self.folder / "cases.json", self.folder / "outcomes.json"
        told.write_text(json.dumps(list(self.cases.values())))
        result = groovy.run(tools.STAND_INS / "run_window.groovy", told, written, **how)
        assert result.returncode == 0, result.stderr
        self.outcomes = dict(zip(self.cases, json.loads(written.read_text()), strict=True))
        assert [outcome["error"] for outcome in self.outcomes.values()] == [None] * len(self.cases), result.stderr

    def asked(self, name: str) -> list[dict[str, Any]]:
        """What the process of a case was asked for."""
        lines = (self.folder / name / "asked").read_text().splitlines()
        return [json.loads(line) for line in lines if line != "the end"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    found = find_groovy()
    windows = Windows(tmp_path_factory.mktemp("window"))
    windows.add("whole", press("predict"), ("said", "File > Save"), ("open again", ""))
    windows.add("region", ("select", [DRAWN]), press("predict"), ("said", "File > Save"))
    windows.add("undo", press("predict"), ("said", "File > Save"), ("note", "shown"), press("undo"), press("undo"))
    reviewed = (press("predict"), ("said", "File > Save"), ("lock", NEW), press("undo"))
    windows.add("undo reviewed", *reviewed)
    windows.add(
        "accept", press("accept"), ("select", [OLD]), press("accept"), press("predict"), ("said", "File > Save")
    )
    regions = (press("next"), ("note", "one"), press("next"), press("next"), ("said", "Region: 2"), ("lock", FIRST))
    windows.add("suggest", press("suggest"), ("said", "suggested"), *regions, press("next"))
    older = [suggested(BEFORE, 1, (70, 20, 12, 6), "1 of before"), {**REGIONS[0], "id": DRAWN}]
    windows.add("suggest again", *(press("suggest"), ("said", "suggested"), IDLE) * 2, objects=older)
    windows.add("train", press("train"), ("said", "File > Save"))
    windows.add("train worse", press("train"), ("said", "File > Save"), how="worse", args=["/models/m"])
    windows.add("cancel", press("predict"), ("doing", "1 of 4"), press("cancel"), IDLE, how="slow")
    windows.add("closed", press("predict"), ("doing", "1 of 4"), ("close", ""), how="slow")
    left = (press("predict"), ("open image", 1), ("said", "Another image is open"))
    windows.add("another image", *left)
    for how, said in {"other": "QuPath shows 100 x 80", "fails": "damaged", "dies": "dmmn-qp has ended"}.items():
        windows.add(how, press("predict"), ("said", said), IDLE, how=how)
    windows.add("dies and goes on", press("predict"), ("said", "has ended"), IDLE, press("undo"), IDLE, how="dies")
    windows.add("old", press("predict"), ("said", "File > Save"), press("suggest"), how="old")
    windows.add("old region", ("select", [DRAWN]), press("predict"), ("said", "File > Save"), how="old")
    windows.add("old train", press("train"), ("said", "File > Save"), how="old")
    windows.add("missing", press("predict"), ("said", "Cannot run program"), IDLE)
    windows.cases["missing"]["args"] = ["program=/no/such/dmmn-qp"]
    windows.run(found)
    return windows


def objects(outcomes: Windows, name: str) -> list[str]:
    return ids(outcomes.outcomes[name]["objects"][0])


def test_a_prediction_replaces_what_nobody_reviewed(outcomes: Windows) -> None:
    outcome = outcomes.outcomes["whole"]
    assert outcome["about"] == "Model: m-1 on cpu\nClasses: Tumor, Stroma"
    assert objects(outcomes, "whole") == [DRAWN, LOCKED, NEW]
    assert "a.svs: 1 added, 1 of earlier runs removed, 1 reviewed ones kept (1 locked)" in outcome["log"]
    (load, request) = outcomes.asked("whole")
    assert (load["op"], request["op"]) == ("load", "predict")
    assert {"width": 100, "height": 80, "mpp": 0.5}.items() <= request.items() and "areas" not in request
    assert outcome["disabled"] == ["cancel"]
    assert (outcomes.folder / "whole" / "called").read_text().count("serve") == 1  # also when it is opened again


def test_a_selected_annotation_is_the_region(outcomes: Windows) -> None:
    (_, request) = outcomes.asked("region")
    assert request["areas"] == [EARLIER[0]["geometry"]]


def test_undo_puts_back_what_was_replaced_and_keeps_what_was_reviewed(outcomes: Windows) -> None:
    assert outcomes.outcomes["undo"]["seen"]["shown"][0] == [DRAWN, LOCKED, NEW]
    assert sorted(objects(outcomes, "undo")) == sorted([DRAWN, OLD, LOCKED])
    assert "No prediction of this image" in outcomes.outcomes["undo"]["log"]
    assert sorted(objects(outcomes, "undo reviewed")) == sorted([DRAWN, OLD, LOCKED, NEW])


def test_what_is_accepted_is_locked_and_stays(outcomes: Windows) -> None:
    outcome = outcomes.outcomes["accept"]
    assert "Select what is right first" in outcome["log"] and "1 accepted (locked)" in outcome["log"]
    assert objects(outcomes, "accept") == [DRAWN, OLD, LOCKED, NEW]


def test_regions_are_gone_through_by_rank(outcomes: Windows) -> None:
    outcome = outcomes.outcomes["suggest"]
    said = [line for line in outcome["log"].splitlines() if line.startswith("Region: ")]
    assert said == ["Region: 1 uncertain", "Region: 2 rare", "Region: 1 uncertain", "Region: 2 rare"]
    assert outcome["selected"] == [SECOND]
    assert outcome["viewer"] == [56, 53, 0.02]
    assert [*map(outcomes.asked("suggest")[1].get, ("op", "regions"))] == ["suggest", 10]
    assert objects(outcomes, "suggest again") == [DRAWN, SECOND, FIRST]  # earlier ones go, a person's own stays


def test_retraining_saves_first_and_predicts_again(outcomes: Windows) -> None:
    outcome = outcomes.outcomes["train"]
    assert [request["op"] for request in outcomes.asked("train")] == ["load", "import", "train", "predict"]
    assert outcome["saved"][0] == [DRAWN, OLD, LOCKED] and outcome["synced"] == 1
    assert objects(outcomes, "train") == [DRAWN, LOCKED, NEW]
    assert "which is no better" in outcomes.outcomes["train worse"]["log"]
    assert "--model /models/m" in (outcomes.folder / "train worse" / "called").read_text()


def test_cancel_and_closing_stop_the_process(outcomes: Windows) -> None:
    assert [request["op"] for request in outcomes.asked("cancel")] == ["load", "predict", "cancel"]
    assert outcomes.asked("cancel")[2]["job"] == outcomes.asked("cancel")[1]["id"]
    assert "Stopped: stopped" in outcomes.outcomes["cancel"]["log"]
    for name in outcomes.cases.keys() - {"old", "old region", "old train", "missing", "dies", "dies and goes on"}:
        asked = outcomes.folder / name / "asked"
        for _ in range(100):  # the last one may be about to end
            if asked.read_text().endswith("the end\n"):
                break
            time.sleep(0.05)
        assert asked.read_text().endswith("the end\n"), name


@pytest.mark.parametrize("name", ["other", "fails", "dies", "cancel", "another image", "missing"])
def test_a_failure_changes_nothing_and_leaves_a_window_that_works(outcomes: Windows, name: str) -> None:
    outcome = outcomes.outcomes[name]
    assert outcome["objects"][0] == EARLIER
    assert outcome["disabled"] == ["cancel"]


def test_without_the_process_the_command_does_it(outcomes: Windows) -> None:
    outcome, folder = outcomes.outcomes["old"], outcomes.folder / "old"
    assert "no such command: serve" in outcome["log"] and outcome["log"].count("needs a dmmn-qp with") == 2
    words = (folder / "called").read_text().splitlines()
    assert words[1] == f"predict /slides/a.svs --out {folder}/predictions --overwrite"
    assert objects(outcomes, "old") == [DRAWN, LOCKED, NEW]
    assert "/predictions/roi --overwrite --roi " in (outcomes.folder / "old region" / "called").read_text()
    called = (outcomes.folder / "old train" / "called").read_text().splitlines()
    assert [line.split()[0] for line in called] == ["serve", "import", "train", "predict"]


@contextmanager
def screen() -> Iterator[str]:
    """A screen that nobody sees."""
    read, written = os.pipe()
    command = ["Xvfb", "-displayfd", str(written), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    process = subprocess.Popen(command, pass_fds=[written], stderr=subprocess.DEVNULL)
    os.close(written)
    try:
        with os.fdopen(read) as told:
            yield ":" + told.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.engine
def test_in_a_real_window(tmp_path: Path) -> None:
    """The window of JavaFX, under Xvfb: it opens, works, and never blocks the thread of QuPath."""
    jars = [str(JAVAFX / f"javafx.{name}.jar") for name in ("base", "graphics", "controls")]
    if shutil.which("Xvfb") is None or not all(map(os.path.exists, jars)):
        pytest.skip(f"the window is NOT TESTED in JavaFX: no Xvfb, or no {jars[0]}; apt-get install xvfb openjfx")
    windows, picture = Windows(tmp_path), tmp_path / "window.png"
    steps = (press("suggest"), ("said", "suggested"), press("next"), press("predict"), ("said", "File > Save"))
    windows.add("real", *steps, ("picture", str(picture)), press("train"), ("said", "Trained m-2"), IDLE)
    windows.add("real cancel", press("predict"), ("doing", "1 of 4"), press("cancel"), IDLE, how="slow")
    with screen() as display:
        windows.run(find_groovy(), javafx=jars, env={"DISPLAY": display, "_JAVA_OPTIONS": "-Dprism.order=sw"})
    assert NEW in objects(windows, "real")
    assert windows.outcomes["real"]["selected"] == [FIRST]
    from PIL import Image

    with Image.open(picture) as shown:
        assert shown.size == (480, 420)
        assert len(shown.convert("L").getcolors() or []) > 20  # not an empty sheet
    if kept := os.environ.get("DMMN_QP_PICTURE"):
        shutil.copy(picture, kept)
