"""`dmmn-qp status` and `dmmn-qp round`, on a project of two tissues that is annotated, predicted and corrected."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmmn_qp.cli.loop import _asked
from dmmn_qp.files.locks import locked
from dmmn_qp.importing.source_files import source_state
from dmmn_qp.training import verdict
from dmmn_qp.training.acceptance import Judgement
from dmmn_qp.workflows.places import Places
from dmmn_qp.workflows.status import work_status
from tests.conftest import REPOSITORY, fails, invoke, rectangle, two_tissues, write_features, write_tiff

TOML = """
[train]
preset = "scratch"
width = 2
epochs = 1
steps_per_epoch = 2
batch_size = 2
precision = "fp32"
workers = 0
validate_on = "train"
"""
AREAS = [rectangle(0, 0, 100, 250, "dark"), rectangle(150, 0, 100, 250, "light")]
ROUND = ("round", "slides", "--config", "loop.toml")


def make(here: Path) -> None:
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", two_tissues(256, 256))
    write_features(here / "geojson" / "s.geojson", AREAS)
    (here / "loop.toml").write_text(TOML)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """After a first round; what it has said is in ``said``."""
    folder = tmp_path_factory.mktemp("loop")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make(folder)
        result = invoke(*ROUND, "--annotations", "geojson")
        assert result.exit_code == 0, result.output
    (folder / "said").write_text(result.output)
    return folder


@pytest.fixture
def after(first, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    shutil.copytree(first, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def said(*command) -> str:
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def card_of(model: Path, **changes) -> dict:
    card = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(card | changes))
    return card


def draw_more(folder: Path) -> None:
    """Somebody locks a prediction, or draws where nothing is predicted."""
    polygons = json.loads((folder / "predictions" / "s.geojson").read_text())["features"][:1]
    for feature in polygons:
        feature["properties"]["isLocked"] = True
    write_features(folder / "geojson" / "s.geojson", [*AREAS[:1], rectangle(140, 0, 110, 250, "light"), *polygons])


def status() -> list[str]:
    return work_status(Path()).lines()


def next_of(lines: list[str]) -> str:
    assert len(lines) <= 10 and lines[-1].startswith("next "), lines
    assert sum(line.startswith("next ") for line in lines) == 1
    return lines[-1].removeprefix("next").strip()


# ---- round


def test_the_first_round_does_everything(first):
    models = sorted(path.name for path in (first / "models").iterdir() if path.is_dir())
    assert models == ["dmmn-m3-1"] and (first / "predictions" / "s.geojson").is_file()
    output = (first / "said").read_text()
    assert "skipped" not in output and "drag predictions/<slide>.geojson" in " ".join(output.split())


def test_nothing_is_done_twice(after):
    before = {path: path.stat().st_mtime_ns for path in after.rglob("*") if path.is_file()}
    text = said(*ROUND)
    assert "skipped: import (nothing changed since dataset/ was made)" in text
    assert "skipped: train (dmmn-m3-1 was trained on this dataset)" in text
    assert "skipped: predict (1 slide predicted by dmmn-m3-1)" in text
    assert before == {path: path.stat().st_mtime_ns for path in after.rglob("*") if path.is_file()}


def test_a_second_round_starts_from_the_first_model_and_goes_on_where_it_was_stopped(after, monkeypatch):
    draw_more(after)
    monkeypatch.setattr(verdict, "judge", lambda *given: Judgement((0.5, 0.5), None, ()))  # so few steps may do harm
    monkeypatch.setattr(verdict, "doubtful", lambda *given: [])
    plan = invoke("round", "--dry-run").output.splitlines()
    assert plan == [
        "dmmn-qp import slides --annotations geojson --overwrite",
        "dmmn-qp train --from models/dmmn-m3-1",
        "dmmn-qp predict --overwrite",
    ]
    assert not (after / "models" / "dmmn-m3-2").exists()

    def stopped(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dmmn_qp.training.stage._conclude", stopped)
        result = invoke("round")  # neither source, annotations nor options are named again
    assert result.exit_code == 130 and "stopped at train; the same command goes on there" in result.stderr
    assert "unfinished: dmmn-m3-2" in " ".join(status())
    assert next_of(status()) == "dmmn-qp train --resume --out models/dmmn-m3-2"
    assert "dmmn-qp train --resume --out models/dmmn-m3-2" in said("round", "--dry-run")
    assert "skipped: import" in said("round") and not (after / "models" / "dmmn-m3-3").exists()
    assert not (after / "models" / "dmmn-m3-2" / "resume.pt").exists()
    run = json.loads((after / "models" / "dmmn-m3-2" / "run.json").read_text())["configuration"]
    assert (run["width"], run["validate_on"], Path(run["start_from"]).name) == (2, "train", "dmmn-m3-1")
    assert json.loads((after / "predictions" / "run.json").read_text())["predictions"]["s"]["model"] == "dmmn-m3-2"
    assert "round 1 (dmmn-m3-1)" in " ".join(status())
    assert (after / "loop" / "loop.html").is_file()


def test_options_of_the_import_are_kept(after):
    run = json.loads((after / "dataset" / "run.json").read_text())
    run["configuration"] |= {"seed": 7, "of_another_version": 1}
    (after / "dataset" / "run.json").write_text(json.dumps(run | {"slides_roots": ["slides"]}))
    asked = _asked(None, Places(), None, None)
    assert (asked.sources, asked.annotations, asked.importing.seed) == ((Path("slides"),), Path("geojson"), 7)
    assert asked.slides_roots == (Path("slides"),)
    (after / "other.toml").write_text("[import]\nseed = 9\n")
    assert _asked(None, Places(), None, after / "other.toml").importing.seed == 9
    draw_more(after)
    assert "# with the options of the import before" in said("round", "--dry-run")


def test_a_model_that_is_not_accepted_predicts_nothing(after, monkeypatch):
    shutil.copytree(after / "models" / "dmmn-m3-1", after / "models" / "dmmn-m3-2")
    card_of(after / "models" / "dmmn-m3-2", accepted=False, created="2999-01-01T00:00:00+00:00", name="dmmn-m3-2")
    text = said(*ROUND)
    assert "skipped: train (dmmn-m3-2, which is not accepted, was trained on this dataset)" in text
    unaccepted = "dmmn-m3-2 is not accepted (models/dmmn-m3-2/report.html says why); dmmn-m3-1 predicts on"
    assert f"{unaccepted}; to take it as it is: dmmn-qp models accept models/dmmn-m3-2" in " ".join(text.split())
    assert "skipped: predict (1 slide predicted by dmmn-m3-1)" in text
    draw_more(after)
    assert "train --from models/dmmn-m3-1" in said("round", "--dry-run")
    assert "not accepted: dmmn-m3-2" in " ".join(status())


def test_a_failing_step_says_that_the_same_command_goes_on(after):
    draw_more(after)
    (after / "slides" / "s.tif").rename(after / "away.tif")
    line = fails(*ROUND)
    assert "(the round stopped at import; the same command goes on there)" in line
    (after / "away.tif").rename(after / "slides" / "s.tif")
    assert "skipped" not in said(*ROUND, "--dry-run")


def test_one_round_at_a_time_and_none_of_another_project(after):
    with locked(after / "loop" / "round", "a round", "wait"):
        assert "a round is running" in fails(*ROUND)
    (after / "other").mkdir()
    assert 'was made of "slides", not of "other"' in fails("round", "other")
    shutil.rmtree(after / "dataset")
    assert "no project is named" in fails("round")


def test_a_round_trains_in_one_process(after):
    (after / "loop.toml").write_text(TOML.replace("[train]", "[train]\ndevices = 2"))
    draw_more(after)
    assert "a round trains in one process" in fails(*ROUND)


def test_pushed_once(after, monkeypatch):
    pushed = []
    monkeypatch.setattr("dmmn_qp.pushing.stage.check_push", lambda *args: None)
    monkeypatch.setattr("dmmn_qp.pushing.stage.push", lambda *args, **more: pushed.append(args[:2]))
    assert "open the project in QuPath" in said(*ROUND, "--push")
    assert pushed == [(Path("predictions"), Path("slides"))]
    assert "skipped: push (the project has these predictions)" in said(*ROUND, "--push")
    told = (after / "predictions" / "run.json").read_text()
    run_id = json.loads(told)["predictions"]["s"]["run_id"]
    (after / "predictions" / "run.json").write_text(told.replace(run_id, "another"))
    assert "dmmn-qp push --into slides" in said(*ROUND, "--push", "--dry-run")
    said(*ROUND, "--push")
    assert len(pushed) == 2


# ---- status


def test_only_what_an_import_reads_of_a_folder_is_looked_at(tmp_path):
    """Not the slides that may lie beside the annotations, which would be read to their end."""
    for name in ("s.geojson", "t.json", "u.zip", "classes.csv", "s.svs", "run.json", ".s.geojson", "notes.txt"):
        (tmp_path / name).write_text("{}")
    assert set(source_state(tmp_path, tmp_path, {})) == {"s.geojson", "t.json", "u.zip", "classes.csv"}
    assert set(source_state(tmp_path, tmp_path / "s.geojson", {})) == {"s.geojson", "classes.csv"}
    (tmp_path / "drawn.txt").write_text("{}")
    assert set(source_state(tmp_path, tmp_path / "drawn.txt", {})) == {"drawn.txt", "classes.csv"}


def test_status_says_the_next_command_at_every_step(here):
    assert next_of(status()) == "dmmn-qp import project.qpproj"
    (here / "my cases.qpproj").write_text("{}")
    assert next_of(status()) == "dmmn-qp import 'my cases.qpproj'"


def test_status_after_a_round(after):
    lines = status()
    assert lines[0].split() == ["source", "slides"]
    assert "1 slide, 2 classes, 0.01 mm2" in lines[1] and lines[1].endswith("; nothing changed since")
    assert lines[2].startswith("trained    dmmn-m3-1 of ") and "validation mIoU" in lines[2]
    assert lines[3] == "predicted  1 slide by dmmn-m3-1"
    assert next_of(lines) == "dmmn-qp round slides"
    draw_more(after)
    assert status()[1].endswith("; 1 file changed since")
    (after / "geojson" / "s.geojson").write_text((after / "geojson" / "s.geojson").read_text())
    assert status()[1].endswith("; 1 file changed since")
    write_features(after / "geojson" / "s.geojson", AREAS)  # the time differs, the content does not
    assert status()[1].endswith("; nothing changed since")


def test_status_tells_stale_predictions(after):
    shutil.copytree(after / "models" / "dmmn-m3-1", after / "models" / "b")
    card = card_of(after / "models" / "b", name="b", created="2999-01-01T00:00:00+00:00")
    card_of(after / "models" / "b", provenance={**card["provenance"], "run_id": "another"})
    assert "1 slide still by dmmn-m3-1: s" in status()[3]
    found = json.loads(said("status", "--json"))
    assert found["predicted"] == {"current": [], "stale": {"dmmn-m3-1": ["s"]}, "missing": []}
    shutil.rmtree(after / "predictions")
    assert status()[3] == "predicted  nothing yet"


def test_status_takes_other_folders(after):
    (after / "dataset").rename(after / "my data")
    lines = said("status", "--dataset", "my data", "--predictions", "elsewhere")
    assert "next dmmn-qp predict --dataset 'my data' --out elsewhere" in lines


DAMAGED = [
    "dataset/dataset.json", "dataset/run.json", "dataset/report.json", "models/dmmn-m3-1/model.json",
    "models/dmmn-m3-1/run.json", "predictions/run.json", "loop/ledger.json",
]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe{", b'{"a": ' * 5000, b'{"rounds": 7, "name": 3}'])
def test_status_survives_whatever_is_damaged(after, content):
    for name in DAMAGED:
        kept = (after / name).read_bytes()
        (after / name).write_bytes(content)
        next_of(status())
        assert invoke("status", "--json").exit_code == 0
        (after / name).unlink()
        next_of(status())
        (after / name).write_bytes(kept)


def test_status_shows_names_harmlessly(after):
    card_of(after / "models" / "dmmn-m3-1", name="\x1b[31mred\u202e\nline")
    assert not any(c in line for line in status() for c in "\x1b\u202e\n")


def test_status_is_fast_and_loads_nothing_heavy(after):
    code = (
        "import sys, time; began = time.process_time(); from pathlib import Path; "
        "from dmmn_qp.workflows.status import work_status; work_status(Path()).lines(); "
        "sys.exit(not {'torch', 'matplotlib', 'scipy'}.isdisjoint(sys.modules) or time.process_time() - began > 1.5)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


@pytest.mark.parametrize("command", ["round", "status"])
def test_help_fits_80_columns(command):
    from typer.testing import CliRunner

    from dmmn_qp.cli.app import app

    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert all(len(line) <= 80 for line in result.output.splitlines())


@pytest.mark.parametrize(
    ("options", "place", "said"),
    [
        ('[predict]\nlabels = "zarr"', "dmmn_qp.outputs.writers.find_spec", "is written with zarr, which is not"),
        ("tensorboard = true", "dmmn_qp.training.log.find_spec", "--tensorboard needs TensorBoard; "),
    ],
)
def test_what_is_not_installed_is_said_before_the_first_step(here, monkeypatch, options, place, said):
    make(here)
    (here / "loop.toml").write_text(TOML + options)
    monkeypatch.setattr(place, lambda name: None)
    for command in (ROUND, (*ROUND, "--dry-run")):
        assert said in fails(*command, "--annotations", "geojson")
    assert not (here / "dataset").exists() and not (here / "loop").exists()
