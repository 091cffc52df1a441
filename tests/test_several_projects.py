"""One dataset of several projects: whose each slide is, and what later commands make of it."""

import json
import shutil
from pathlib import Path

import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ProjectError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.predictions import PREDICTIONS, PredictedInput
from dmmn_qp.importing.earlier import Earlier
from dmmn_qp.importing.joining import source_labels
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.pushing.matching import match
from dmmn_qp.qupath.project import read_project
from dmmn_qp.workflows.earlier import are_same_sources, is_same_source
from dmmn_qp.workflows.steps import slides_of
from tests.conftest import fails, invoke
from tests.projects import DARK_AND_LIGHT, make_project, make_slide

LIGHT_AND_DARK = DARK_AND_LIGHT[::-1]
BOTH = ("a/project.qpproj", "b/project.qpproj")


@pytest.fixture
def projects(here):
    """Two projects: each has a slide ``s`` of its own; ``b`` has ``t`` besides, on which nothing is drawn."""
    own = {name: make_slide(here / name / "slides" / "s.tif", seed) for seed, name in enumerate("ab")}
    other = make_slide(here / "b" / "slides" / "t.tif", 2)
    make_project(here / "a", {own["a"]: DARK_AND_LIGHT}, {"s.tif": {"split": "train"}})
    make_project(here / "b", {other: (), own["b"]: LIGHT_AND_DARK}, {"s.tif": {"split": "test"}})
    return here


def records(*command):
    result = invoke("import", *command)
    assert result.exit_code == 0, result.output
    return {r.slide_id: (r.path.split("/")[-3], r.project, r.split) for r in Dataset("dataset").slides()}, result


def test_slides_of_one_name_are_told_apart_and_know_their_project(projects):
    found, result = records(*BOTH)
    assert found == {"s": ("a", BOTH[0], "train"), "s-2": ("b", BOTH[1], "test")}
    assert Dataset("dataset").class_map.names == ("dark", "light")
    assert "told apart: s (a) and s-2 (b)" in result.stdout
    assert "1 slide without annotations is left out" in result.stdout


def test_splits_stay_with_the_files_whatever_their_names(projects):
    earlier = Earlier(splits={"s": "train"}, of_files={"1": "test"})
    told = {"slide_id": "s", "path": "s.tif", "width": 1, "height": 1, "mpp": 1, "split": "val"}
    assert earlier.split_of(SlideRecord(fingerprint="1", **told)) == "test"
    assert earlier.split_of(SlideRecord(fingerprint="2", **told)) == "train"  # scanned again


def test_names_stay_with_the_slides_whatever_the_order(projects):
    found, _ = records(*BOTH)
    assert records(*BOTH[::-1], "--overwrite")[0] == found
    kept = make_project(projects / "c", {make_slide(projects / "c" / "slides" / "s.tif", 5): DARK_AND_LIGHT})
    again, _ = records(kept, *BOTH, "--overwrite")
    assert {name: again[name] for name in found} == found and again["s-3"][0] == "c"


def test_one_file_in_two_projects_is_warned_of(projects):
    make_project(projects / "c", {projects / "a" / "slides" / "s.tif": LIGHT_AND_DARK})
    _, result = records(BOTH[0], "c")
    assert "annotate the same file: s (a) and s-2 (c)" in result.stderr
    assert {r.split for r in Dataset("dataset").slides()} == {"train"}


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ((*BOTH, "b"), ["are one project", "name it once"]),
        ((BOTH[0], "a/slides"), ["only projects of QuPath go together"]),
        ((*BOTH, "--annotations", "a"), ["only projects of QuPath go together"]),
        ((BOTH[0], "none.qpproj"), ['"none.qpproj" does not exist']),
    ],
)
def test_what_does_not_go_together(projects, command, words):
    line = fails("import", *command)
    assert all(word in line for word in words)


def test_which_paths_are_of_one_project(projects):
    """A folder with several stands for the one of the usual name, if for any."""
    shutil.copy(BOTH[0], "a/copy.qpproj")
    assert "are one project" in fails("import", "a", BOTH[0])
    assert is_same_source(Path("a"), Path(BOTH[0])) and not is_same_source(Path("a"), Path("a/copy.qpproj"))
    assert not is_same_source(Path("a/copy.qpproj"), Path(BOTH[0]))
    assert are_same_sources([*map(Path, BOTH)], [Path("b"), Path("a")])
    assert not are_same_sources([Path("a"), Path("a")], [*map(Path, BOTH)])
    assert not are_same_sources([*map(Path, BOTH)], [Path("a"), Path("a")])


def test_a_damaged_project_is_named(projects):
    (projects / "b" / "data" / "2" / "data.qpdata").write_bytes(b"damaged")
    found, result = records(*BOTH)
    assert [*found] == ["s"] and "warning: b: " in result.stderr


def test_status_and_round_go_on_with_both(projects):
    records(*BOTH)
    status = json.loads(invoke("status", "--json").stdout)
    assert status["source"] == [*BOTH] and status["annotated"]["changed_files"] == []
    assert "# skipped: import" in invoke("round", "--dry-run").stdout
    assert "not of" in fails("round", BOTH[0])
    data = projects / "b" / "data" / "2" / "data.qpdata"
    data.write_bytes(data.read_bytes().replace(b"dark", b"bark"))
    status = json.loads(invoke("status", "--json").stdout)
    assert status["annotated"]["changed_files"] == ["b: data/2/data.qpdata"]
    plan = invoke("round", "--dry-run", "--push").stdout
    assert f"dmmn-qp import {' '.join(BOTH)} --overwrite" in plan
    assert all(f"--into {project}" in plan for project in BOTH)


def test_images_keep_the_names_of_the_dataset_when_they_are_predicted_and_pushed(projects):
    records(*BOTH)
    (other, own) = slides_to_predict([BOTH[1]], projects / "dataset")
    assert (other.slide_id, own.slide_id) == ("t", "s-2")
    inputs = {
        r.slide_id: PredictedInput(path=r.path, fingerprint=r.fingerprint, width=256, height=256)
        for r in Dataset("dataset").slides()
    }
    said = []
    assert [*match(read_project(projects / "b"), inputs, inputs, said.append)] == ["s-2"]
    assert len(said) == 1 and 'is slide "s"' in said[0]
    with pytest.raises(ProjectError, match="content differs"):
        match(read_project(projects / "b"), ["s"], {"s": inputs["s"]}, said.append)


def test_a_round_pushes_to_each_project_its_own_slides(projects, monkeypatch):
    from dmmn_qp.cli.loop import _asked
    from dmmn_qp.pushing import stage as pushing
    from dmmn_qp.workflows.places import Places
    from dmmn_qp.workflows.steps import push_step

    assert "dmmn-qp push --into b/project.qpproj" in invoke("round", *BOTH, "--push", "--dry-run").stdout
    records(*BOTH)
    (projects / "predictions").mkdir()
    made = {"run_id": "r", "model": "m", "model_run": "t"}
    write_json(projects / "predictions" / RUN_FILE, {PREDICTIONS: {"s": made, "s-2": made}})
    pushed = []
    monkeypatch.setattr(pushing, "push", lambda _, into, reporter, *, slides, **how: pushed.append((str(into), slides)))
    asked = _asked(None, Places(), None, None)
    step = push_step(asked, has_news=False)
    assert step.skipped is None
    step.do(Reporter())
    assert pushed == [(BOTH[0], ["s"]), (BOTH[1], ["s-2"])]
    assert push_step(asked, has_news=False).skipped == "the projects have these predictions"
    assert slides_of(asked, Path(BOTH[0]), ["s", "s-2", "not in the dataset"]) == ["s", "not in the dataset"]


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["x/a/project.qpproj", "x/b/project.qpproj"], ["a", "b"]),
        (["x/a/project.qpproj", "y/a/project.qpproj"], ["x/a", "y/a"]),
        (["x/one.qpproj", "x/two.qpproj"], ["one", "two"]),
    ],
)
def test_labels(here, paths, labels):
    for path in paths:
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).touch()
    assert source_labels([here / path for path in paths]) == labels
