"""Predictions into QuPath projects: which image, which objects, backup, check; through paquo and a stand-in for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from dmmn_qp.annotations import Annotation
from dmmn_qp.cli.qupath import called_slides
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, DatasetError, DmmnQpError, InUseError, OutputExistsError, ProjectError
from dmmn_qp.evaluating.page import write_worst_regions
from dmmn_qp.files import write_json
from dmmn_qp.files.failures import install_command
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.evaluation import (
    WORST_REGIONS,
    EvaluatedSlide,
    Evaluation,
    ModelEvaluation,
    WorstRegion,
    write_evaluation,
)
from dmmn_qp.folders.predictions import (
    PredictedInput,
    Prediction,
    merged_inputs,
    merged_predictions,
    predicted_polygons,
    read_inputs,
)
from dmmn_qp.folders.suggestions import TABLE
from dmmn_qp.pushing import stage as pushing
from dmmn_qp.pushing.backup import BACKUP_FOLDER, back_up
from dmmn_qp.pushing.matching import match
from dmmn_qp.pushing.new_project import new_project
from dmmn_qp.pushing.plan import difference, plan_of, plan_of_suggestions
from dmmn_qp.pushing.pushable import Pushable
from dmmn_qp.pushing.stage import check_push, push
from dmmn_qp.qupath import paquo_reader as paquo_project
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import (
    CLASS_CODE,
    METADATA_KEY,
    SUGGESTION_CLASS,
    SUGGESTION_MARK,
    SUGGESTION_RANK,
    is_marked,
    is_ours,
    is_suggestion_id,
    marked_id,
    suggestion_id,
)
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.paquo_writer import PaquoWriter
from dmmn_qp.qupath.project import read_project
from dmmn_qp.qupath.review import review
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.transformed import Rotate
from dmmn_qp.specs import ClassMap
from tests.conftest import DEMO, fails, invoke, two_tissues
from tests.qupath import paquo_stand_in
from tests.slide_files import write_dicom

WORLDS = [
    pytest.param("stand-in 0.5.1", id="stand-in"),
    pytest.param("stand-in 0.4.4", id="stand-in-0.4"),
    pytest.param(
        "paquo",
        id="paquo",
        marks=[
            pytest.mark.qupath,
            pytest.mark.skipif(
                not os.environ.get(QUPATH_DIR_VARIABLE),
                reason=f"{QUPATH_DIR_VARIABLE} is not set: writing through QuPath itself is NOT TESTED here",
            ),
        ],
    ),
]


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """QuPath, or what stands in for it."""
    if request.param != "paquo":
        version = request.param.split()[1]
        paquo_stand_in.install(monkeypatch, version=paquo_stand_in.Version(version))


def predicted(class_name: str, x: float, model: str = "model-1", **more: Any) -> Annotation:
    return Annotation(
        box(x, 10, x + 100.25, 60),
        class_name=class_name,
        class_color=(200, 0, 0),
        annotation_id=marked_id(f"{class_name} {x} {model}"),
        metadata={METADATA_KEY: model},
        measurements={"Area µm^2": 1253.125, "Area mm^2": 1253.125e-6, "Perimeter µm": 150.25},
        **more,
    )


def write_predictions(folder: Path, packed: bool = False, **slides: list[Annotation]) -> Path:
    folder.mkdir(exist_ok=True)
    for word, listed in slides.items():
        name = word.replace("_", "-")
        write_geojson(folder / f"{name}.geojson{'.gz' if packed else ''}", listed)
    return folder


def features(*annotations: Annotation) -> list[dict[str, Any]]:
    path = Path(os.environ["PYTEST_TMP"]) / f"{uuid4()}.geojson"
    write_geojson(path, annotations)
    listed: list[dict[str, Any]] = json.loads(path.read_bytes())["features"]
    return listed


@pytest.fixture(autouse=True)
def folder_for_features(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.getbasetemp()))


def entry_id_of(project: Path, slide: str) -> str:
    return next(e.entry_id for e in read_project(project).entries if e.slide_name == f"{slide}.tif")


def objects(project: Path, slide: str) -> dict[str, dict[str, Any]]:
    return {f["id"]: f for f in PaquoProject(project).features(entry_id_of(project, slide))}


# ---- the whole of it


def test_push_touches_nothing_but_our_own(world: None, project: Path, tmp_path: Path) -> None:
    data = project.parent / "data" / entry_id_of(project, "train-1") / "data.qpdata"
    original, drawn = data.read_bytes(), objects(project, "train-1")
    assert len(drawn) == 35
    first = write_predictions(
        tmp_path / "p", train_1=[predicted("carcinoma", 0), predicted("stroma", 200)], test_1=[predicted("stroma", 5)]
    )
    done = push(first, project, Reporter())
    assert [(p.slide_id, p.added, p.removed, p.untouched) for p in done] == [
        *(("test-1", 1, 0, len(objects(project, "test-1")) - 1), ("train-1", 2, 0, 35))
    ]
    after = objects(project, "train-1")
    assert {i: after[i] for i in drawn} == drawn
    assert {i for i in after if is_ours(after[i])} == {
        str(predicted(c, x).annotation_id) for c, x in (("carcinoma", 0), ("stroma", 200))
    }
    (backup,) = (project.parent / BACKUP_FOLDER).iterdir()
    assert (backup / data.relative_to(project.parent)).read_bytes() == original

    pushed_once = data.read_bytes()
    write_predictions(first, train_1=[predicted("carcinoma", 0), predicted("stroma", 300, "model-2")])
    (again,) = push(first, project, Reporter(), slides=["train-1"], resolve=True)
    assert (again.added, again.removed, again.locked, again.untouched) == (2, 2, 0, 35)
    after = objects(project, "train-1")
    assert {i: after[i] for i in drawn} == drawn
    assert len(after) == 37
    backups = sorted((project.parent / BACKUP_FOLDER).iterdir())
    assert [(b / data.relative_to(project.parent)).read_bytes() for b in backups] == [original, pushed_once]


def test_a_locked_prediction_stays(world: None, project: Path, tmp_path: Path) -> None:
    corrected, wrong = predicted("stroma", 0, locked=True), predicted("stroma", 500)
    folder = write_predictions(tmp_path / "p", val_1=[corrected, wrong])
    push(folder, project, Reporter())
    write_predictions(folder, val_1=[replace(corrected, locked=False), predicted("stroma", 700)])
    (done,) = push(folder, project, Reporter())
    assert (done.added, done.removed, done.locked) == (1, 1, 1)
    kept = objects(project, "val-1")[str(corrected.annotation_id)]
    assert kept["properties"]["isLocked"] is True


def test_detections_of_packed_files(world: None, project: Path, tmp_path: Path) -> None:
    cells = [predicted("stroma", 100 * n, kind="detection") for n in range(3)]
    folder = write_predictions(tmp_path / "p", packed=True, val_1=cells)
    assert [p.added for p in push(folder, project, Reporter())] == [3]
    assert [p.removed for p in push(folder, project, Reporter())] == [3]


def test_new_project(world: None, project: Path, tmp_path: Path) -> None:
    folder = write_predictions(
        tmp_path / "p", train_1=[predicted("carcinoma", 0)], test_1=[predicted("stroma: dense", 5), predicted("fat", 5)]
    )
    slides = {name: DEMO / "slides" / f"{name}.tif" for name in ("train-1", "test-1")}
    inputs = {n: PredictedInput(path=f"/moved/{p.name}", fingerprint=fingerprint(p)) for n, p in slides.items()}
    class_map = ClassMap.from_colors([("fat", (200, 0, 0)), ("stroma: dense", (1, 2, 3)), ("carcinoma", (200, 0, 0))])
    records = {
        name: Prediction(run_id="r", model="m", model_run="m", class_map=class_map) for name in ("train-1", "test-1")
    }
    write_json(
        folder / "run.json",
        {"inputs": merged_inputs(folder, inputs), "predictions": merged_predictions(folder, records)},
    )
    path = new_project(folder, tmp_path / "new", Reporter(), slides_roots=[DEMO / "slides"])
    made = read_project(path)
    assert [entry.slide_path for entry in made.entries] == [slides["test-1"], slides["train-1"]]
    assert [c.name for c in made.classes] == ["fat", "stroma: dense", "carcinoma"]  # the model's order
    assert all(c.color == (200, 0, 0) for c in made.classes if c.name in ("carcinoma", "fat"))
    assert [len(objects(path, name)) for name in ("test-1", "train-1")] == [2, 1]
    with pytest.raises(OutputExistsError, match="is not empty"):
        new_project(folder, tmp_path / "new", Reporter(), slides_roots=[DEMO / "slides"])


def test_classes_that_qupath_knows_get_the_predictions_colour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paquo_stand_in.install(monkeypatch, class_colors={"fat": (9, 9, 9)})
    folder = write_predictions(tmp_path / "p", test_1=[predicted("fat", 5)])
    slide = DEMO / "slides" / "test-1.tif"
    inputs = {"test-1": PredictedInput(path=str(slide), fingerprint=fingerprint(slide))}
    write_json(folder / "run.json", {"inputs": merged_inputs(folder, inputs)})
    made = read_project(new_project(folder, tmp_path / "new", Reporter()))
    assert [(c.name, c.color) for c in made.classes] == [("fat", (200, 0, 0))]


# ---- what goes wrong


@pytest.fixture
def qupath(monkeypatch: pytest.MonkeyPatch) -> paquo_stand_in.Qupath:
    return paquo_stand_in.install(monkeypatch)


def test_what_was_not_saved_is_noticed(qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path) -> None:
    qupath.saves = False
    folder = write_predictions(tmp_path / "p", val_1=[predicted("stroma", 0)])
    with pytest.raises(ProjectError, match=r"1 of 1 objects of the prediction are missing.*is as it was before"):
        push(folder, project, Reporter())


@pytest.mark.parametrize("ends_after", ["half", "all of it"])
@pytest.mark.parametrize("had_data", [True, False])
@pytest.mark.parametrize("error", [OSError("Java says no"), KeyboardInterrupt()])
def test_what_is_not_written_to_the_end_is_put_back(
    qupath: paquo_stand_in.Qupath,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends_after: str,
    had_data: bool,
    error: BaseException,
) -> None:
    data = project.parent / "data" / entry_id_of(project, "val-1") / "data.qpdata"
    if not had_data:
        data.unlink()
    before = data.read_bytes() if had_data else None
    folder = write_predictions(tmp_path / "p", val_1=[predicted("stroma", 0)])

    def replaces(self: PaquoWriter, *arguments: Any, **more: Any) -> None:
        if had_data and ends_after == "half":
            data.replace(data.with_name("data.qpdata.bkp"))
        data.write_bytes(b"half")
        raise error if isinstance(error, KeyboardInterrupt) else ProjectError("QuPath cannot write")

    monkeypatch.setattr(PaquoWriter, "replace", replaces)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ProjectError) as met:
        push(folder, project, Reporter())
    assert (data.read_bytes() if data.is_file() else None) == before
    assert not data.with_name("data.qpdata.bkp").exists()
    assert isinstance(error, KeyboardInterrupt) or "is as it was before" in str(met.value)


def test_where_an_image_cannot_be_put_back_the_backup_is_named(
    qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    qupath.saves = False
    monkeypatch.setattr(pushing, "put_back", fails)
    folder = write_predictions(tmp_path / "p", val_1=[predicted("stroma", 0)])
    with pytest.raises(ProjectError, match=r"dmmn_qp_backup.*: copy it back"):
        push(folder, project, Reporter())


def test_what_is_said_of_several_images_is_a_line_and_a_number(
    qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {f"train_{n}": [replace(predicted("stroma", n), measurements={})] for n in (1, 2)}
    push(write_predictions(tmp_path / "p", test_1=[predicted("stroma", 0)], **bare), project, Reporter())
    assert not capsys.readouterr().err
    push(write_predictions(tmp_path / "p", train_1=[], train_2=[]), project, Reporter())
    first, others = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: train-1: 1 prediction of earlier runs without measurements")
    assert others.startswith("warning: 1 more like that of train-1 ") and others.endswith(": train-2")


def test_an_error_at_a_later_image_loses_nothing_that_was_said_of_those_before(
    qupath: paquo_stand_in.Qupath,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = {f"train_{n}": [replace(predicted("stroma", n), measurements={})] for n in (1, 2)}
    push(write_predictions(tmp_path / "p", **bare), project, Reporter())
    capsys.readouterr()
    real, written = PaquoWriter.replace, []

    def fails_at_the_third(self: PaquoWriter, entry_id: str, *arguments: Any, **more: Any) -> None:
        written.append(entry_id)
        if len(written) == 3:
            raise ProjectError("QuPath cannot write")
        real(self, entry_id, *arguments, **more)

    monkeypatch.setattr(PaquoWriter, "replace", fails_at_the_third)
    folder = write_predictions(tmp_path / "p", train_1=[], train_2=[], val_1=[predicted("stroma", 0)])
    with pytest.raises(ProjectError, match="QuPath cannot write"):
        push(folder, project, Reporter())
    said = capsys.readouterr()
    assert len(written) == 3 and said.err.splitlines()[1].startswith("warning: 1 more like that of train-1 ")
    assert [name for name in ("train-1", "train-2", "val-1") if f"  {name}: 0 added" in said.out] == [
        "train-1",
        "train-2",
    ]
    assert BACKUP_FOLDER in said.out.splitlines()[-1]


def test_one_push_at_a_time(qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "p", train_1=[predicted("stroma", 0)])
    with locked(project, "a push", "wait"), pytest.raises(InUseError, match="a push is running in"):
        push(folder, project, Reporter())
    assert not (project.parent / BACKUP_FOLDER).exists()


def test_missing_slide_is_said_before_anything_is_written(
    qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path
) -> None:
    project.write_text(project.read_text().replace("val-1.tif", "gone.tif"))
    folder = write_predictions(tmp_path / "p", gone=[predicted("stroma", 0)], test_1=[predicted("stroma", 0)])
    with pytest.raises(ProjectError, match="is not where the project says"):
        push(folder, project, Reporter())
    assert not (project.parent / BACKUP_FOLDER).exists()


def test_old_qupath_is_refused(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    paquo_stand_in.install(monkeypatch, version=paquo_stand_in.Version("0.3.2"))
    with pytest.raises(ProjectError, match=r"use 0\.4 or later"):
        PaquoWriter(project)


def test_failed_new_project_leaves_nothing(
    qupath: paquo_stand_in.Qupath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = DEMO / "slides" / "test-1.tif"
    folder = write_predictions(tmp_path / "p", test_1=[predicted("fat", 5)])
    known = PredictedInput(path=str(slide), fingerprint=fingerprint(slide), width=3, height=4)
    write_json(folder / "run.json", {"inputs": {"test-1": known.model_dump(mode="json")}})
    with pytest.raises(ProjectError, match="but it was predicted as 3 x 4 px"):
        new_project(folder, tmp_path / "new", Reporter())
    assert not (tmp_path / "new").exists()


def test_new_project_needs_to_know_the_slides(tmp_path: Path) -> None:
    folder = write_predictions(tmp_path / "p", a=[predicted("fat", 5)])
    with pytest.raises(AnnotationFileError, match="not known which slide"):
        new_project(folder, tmp_path / "new", Reporter())
    turned = PredictedInput(path="/a.svs", fingerprint="0", frame=(Rotate(degrees=90),))
    write_json(folder / "run.json", {"inputs": {"a": turned.model_dump(mode="json")}})
    with pytest.raises(ProjectError, match="predicted turned or cropped"):
        new_project(folder, tmp_path / "new", Reporter())


@pytest.mark.parametrize("command", [("push", "p", "--into"), ("new-project", "p", "--out")])
def test_without_paquo_the_way_out_is_said(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(paquo_project, "is_installed", lambda: False)
    monkeypatch.chdir(tmp_path)
    slide = DEMO / "slides" / "val-1.tif"
    write_predictions(tmp_path / "p", val_1=[predicted("fat", 5)])
    known = PredictedInput(path=str(slide), fingerprint=fingerprint(slide))
    write_json(tmp_path / "p" / "run.json", {"inputs": {"val-1": known.model_dump(mode="json")}})
    line = fails(*command, project if command[0] == "push" else "new")
    assert install_command("paquo") in line
    assert "dmmn-qp scripts install" in line


def test_predict_into_checks_first_and_pushes_last(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = next((workspace / "models").iterdir())
    slide = DEMO / "slides" / "val-1.tif"
    slides = json.loads((workspace / "dataset" / "dataset.json").read_bytes())["slides"]
    small = Path(slides[0]["path"])
    path = tmp_path / "project" / "project.qpproj"
    path.parent.mkdir()
    builder = {"builderType": "uri", "uri": small.as_uri(), "args": []}
    path.write_text(json.dumps({"images": [{"entryID": 1, "imageName": "x", "serverBuilder": builder}]}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paquo_project, "is_installed", lambda: False)
    monkeypatch.setattr(pushing, "in_own_process", lambda function, *arguments: function(*arguments))
    assert "dmmn-qp scripts install" in fails("predict", small, "--model", model, "--into", path)
    assert "is slide" in fails("predict", slide, "--model", model, "--into", path)
    assert not (tmp_path / "predictions").exists()
    paquo_stand_in.install(monkeypatch)
    result = invoke("predict", small, "--model", model, "--into", path)
    assert result.exit_code == 0, result.output
    (name,) = read_inputs(tmp_path / "predictions")
    listed = json.loads((tmp_path / "predictions" / f"{name}.geojson").read_bytes())["features"]
    assert {f["id"] for f in PaquoProject(path).features("1")} == {f["id"] for f in listed} != set()


def test_push_of_a_slide_that_is_not_there(tmp_path: Path, project: Path) -> None:
    write_predictions(tmp_path / "p", a=[predicted("fat", 5)])
    assert '--slide "b" is not in' in fails("push", tmp_path / "p", "--into", project, "--slide", "b")
    assert "holds no predictions" in fails("push", tmp_path, "--into", project)


def test_checking_in_a_process_of_its_own_hands_errors_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process: QuPath is missing in it wherever these tests run without it."""
    if os.environ.get(QUPATH_DIR_VARIABLE):
        pytest.skip("QuPath is here")
    known = PredictedInput(path="/x/val-1.tif", fingerprint=fingerprint(DEMO / "slides" / "val-1.tif"))
    with pytest.raises(ProjectError, match="scripts install"):
        check_push(project, {"val-1": known})


# ---- which image


def project_of(folder: Path, *images: tuple[str, dict[str, Any]]) -> Path:
    """A project with slides in folders; the files hold their own names."""
    listed = []
    for number, (file, more) in enumerate(images, start=1):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if more.get("write", True):
            path.write_bytes(file.encode())
        builder: dict[str, Any] = {"builderType": "uri", "uri": path.as_uri(), "args": more.get("args", [])}
        if "size" in more:
            builder["metadata"] = {"width": more["size"][0], "height": more["size"][1]}
        if "degrees" in more:
            builder = {"builderType": "rotated", "rotation": f"ROTATE_{more['degrees']}", "builder": builder}
        name = more.get("name", path.name)
        listed.append({"entryID": number, "imageName": name, "serverBuilder": builder, "metadata": {}})
    path = folder / "project.qpproj"
    path.write_text(json.dumps({"version": "0.5.1", "images": listed}))
    return path


def known_as(folder: Path, file: str, **more: Any) -> PredictedInput:
    return PredictedInput(path=str(folder / file), fingerprint=fingerprint(folder / file), **more)


def matches(path: Path, slides: list[str], inputs: dict[str, PredictedInput] | None = None) -> dict[str, str]:
    lines: list[str] = []
    found = match(read_project(path), slides, inputs or {}, lines.append)
    return {slide: entry.entry_id for slide, entry in found.items()} | dict.fromkeys(lines, "")


@pytest.mark.parametrize(
    ("files", "slide", "entry"),
    [
        (["a.svs", "b.svs"], "b", "2"),
        (["a.ome.tif"], "a.ome", "1"),
        (["a#1.svs"], "a_1", "1"),  # as import names it
        (["a#1.svs"], "a#1", "1"),  # as predict does when it is given the file
        (["1/a.svs", "2/a.svs"], "a-2", "2"),
    ],
)
def test_images_by_name(tmp_path: Path, files: list[str], slide: str, entry: str) -> None:
    path = project_of(tmp_path, *((file, {}) for file in files))
    assert matches(path, [slide]) == {slide: entry}


def test_renamed_image_is_found_by_its_file(tmp_path: Path) -> None:
    path = project_of(tmp_path, ("a.svs", {"name": "Patient 7"}))
    assert matches(path, ["a"]) == {"a": "1"}


def test_same_names_are_told_apart_by_the_file(tmp_path: Path) -> None:
    path = project_of(tmp_path, ("1/a.svs", {}), ("2/a.svs", {}))
    assert matches(path, ["a"], {"a": known_as(tmp_path, "2/a.svs")}) == {"a": "2"}
    assert matches(path, ["a"], {"a": known_as(tmp_path, "1/a.svs")}) == {"a": "1"}
    both = {"a": known_as(tmp_path, "2/a.svs"), "a-2": known_as(tmp_path, "1/a.svs")}
    assert matches(path, ["a", "a-2"], both) == {"a": "2", "a-2": "1"}


def test_same_file_is_told_apart_by_its_frame(tmp_path: Path) -> None:
    path = project_of(tmp_path, ("a.svs", {}), ("a.svs", {"degrees": 180}))
    assert matches(path, ["a"], {"a": known_as(tmp_path, "a.svs", frame=(Rotate(degrees=180),))}) == {"a": "2"}
    assert matches(path, ["a"], {"a": known_as(tmp_path, "a.svs")}) == {"a": "1"}


def test_a_predicted_folder_of_dicom_files_is_the_image_of_any_of_them(tmp_path: Path) -> None:
    for name, series in (("S7", "1"), ("S8", "2")):
        pixels = two_tissues(256, 256, seed=int(series))
        write_dicom(tmp_path / name, [pixels, pixels[::2, ::2]], series=series)
    path = project_of(tmp_path, ("S7/1-1.dcm", {"write": False}), ("S8/2-0.dcm", {"write": False}))
    known = known_as(tmp_path, "S7")
    assert known.fingerprint != fingerprint(tmp_path / "S7" / "1-1.dcm")
    assert matches(path, ["S7"], {"S7": known}) == {"S7": "1"}


def test_slides_without_an_image_are_told_of(tmp_path: Path) -> None:
    path = project_of(tmp_path, ("a.svs", {}))
    assert matches(path, ["a", "b"]) == {"a": "1", f'no image of "{path}" is slide "b"': ""}
    with pytest.raises(ProjectError, match=r'is slide "b" \(and 1 more\); its slides are a'):
        matches(path, ["b", "c"])


@pytest.mark.parametrize(
    ("more", "known", "reason"),
    [
        ({}, {"fingerprint": "0"}, "its file is another one"),
        ({"degrees": 90}, {}, "turned or cropped in another way"),
        ({}, {"frame": (Rotate(degrees=90),)}, "turned or cropped in another way"),
        ({"size": (10, 20)}, {"width": 10, "height": 21}, "10 x 20 px, and what was predicted 10 x 21 px"),
        ({"args": ["--no-crop"]}, {}, "only one of them is cropped"),
    ],
)
def test_other_images_of_the_name_are_refused(
    tmp_path: Path, more: dict[str, Any], known: dict[str, Any], reason: str
) -> None:
    path = project_of(tmp_path, ("a.svs", more))
    image = known_as(tmp_path, "a.svs").model_copy(update=known)
    with pytest.raises(ProjectError, match=reason):
        matches(path, ["a"], {"a": image})


def test_doubt_is_an_error(tmp_path: Path) -> None:
    path = project_of(tmp_path, ("a.svs", {}), ("a.svs", {}))
    with pytest.raises(ProjectError, match="fits several images"):
        matches(path, ["a"], {"a": known_as(tmp_path, "a.svs")})
    one = project_of(tmp_path / "one", ("a#.svs", {}))
    with pytest.raises(ProjectError, match=r'"a_" and "a#" are both of image "a#.svs"'):
        matches(one, ["a_", "a#"])


# ---- which objects


@given(st.text(max_size=20))
def test_marked_ids_are_stable_and_never_quPaths(content: str) -> None:
    assert marked_id(content) == marked_id(content)
    assert is_marked(marked_id(content))
    assert marked_id(content) != marked_id(content + "x")
    assert not is_marked(uuid4())


def drawn(**more: Any) -> Annotation:
    return Annotation(box(0, 0, 9, 9), class_name="stroma", class_color=(1, 2, 3), annotation_id=uuid4(), **more)


@pytest.mark.parametrize(
    ("before", "dropped"),
    [
        (drawn(), False),
        (drawn(metadata={"dmmn": "x"}), False),
        (drawn(metadata={METADATA_KEY: "m"}), False),  # without measurements nobody can tell whether it was changed
        (drawn(metadata={METADATA_KEY: "m"}, locked=True), False),
        (drawn(metadata={METADATA_KEY: "m"}, measurements={"Area mm^2": 81e-6, "Perimeter µm": 36.0}), True),
        (replace(predicted("a", 0), metadata={}), True),  # as QuPath 0.4 leaves it
        (replace(predicted("a", 0), metadata={}, locked=True), False),
        (replace(predicted("a", 0), metadata={}, kind="tile"), False),
    ],
)
def test_what_is_replaced(before: Annotation, dropped: bool) -> None:
    plan = plan_of(features(before), features(predicted("new", 300)))
    assert plan.drops(plan.before[0]) == dropped
    assert len(plan.kept) == 1 - dropped
    assert len(plan.added) == 1


def test_same_ids_are_replaced_and_not_doubled() -> None:
    new = features(predicted("a", 0), predicted("b", 300))
    unmarked = [{**feature, "id": str(uuid4())} for feature in new]
    plan = plan_of([*unmarked[:1], *new[1:]], unmarked)
    assert plan.kept == []
    assert plan.added == unmarked
    locked = json.loads(json.dumps(new[0]))
    locked["properties"]["isLocked"] = True
    assert plan_of([locked], new).added == new[1:]


def test_differences_are_found() -> None:
    plan = plan_of(features(drawn(), predicted("old", 0)), features(predicted("new", 0), predicted("new", 300)))
    after = [*plan.kept, *plan.added]
    assert difference(plan, after) is None
    assert difference(plan, after[::-1]) is None
    assert difference(plan, after[1:]) == "1 of 1 objects that were there are missing or changed"
    assert difference(plan, after[:-1]) == "1 of 2 objects of the prediction are missing or changed"
    assert difference(plan, [*after, after[0]]) == "it has 4 objects instead of 3"
    moved = json.loads(json.dumps(after))
    moved[0]["geometry"]["coordinates"][0][1][0] += 4
    assert "the area of object" in str(difference(plan, moved))
    renamed = json.loads(json.dumps(after))
    renamed[0]["properties"]["classification"]["name"] = "other"
    assert "that were there are missing or changed" in str(difference(plan, renamed))


# ---- files


def test_backups_are_never_overwritten(project: Path) -> None:
    opened = read_project(project)
    moment = datetime(2026, 1, 2, 3, 4, 5)
    folders = [back_up(opened, opened.entries[:1], moment) for _ in range(3)]
    assert [f.name for f in folders] == ["2026-01-02_03-04-05", "2026-01-02_03-04-05-2", "2026-01-02_03-04-05-3"]
    data = opened.entries[0].data_path
    for folder in folders:
        files = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        expected = {p.relative_to(opened.folder): p.read_bytes() for p in (data, data.with_name("summary.json"))}
        assert files == expected


@pytest.mark.parametrize(
    "annotation",
    [drawn(), replace(predicted("a", 0), annotation_id=None), replace(predicted("a", 0), kind="tile")],
)
def test_only_our_files_are_pushed(tmp_path: Path, annotation: Annotation) -> None:
    write_geojson(tmp_path / "a.geojson", [predicted("b", 0), annotation])
    with pytest.raises(AnnotationFileError, match="feature 2"):
        pushing.read_features(tmp_path / "a.geojson")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"type":"FeatureCollection","features":[{"id"', b"[1]", b"\xff"])
def test_damaged_predictions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(AnnotationFileError) as raised:
        pushing.read_features(tmp_path / "a.geojson")
    assert "\n" not in str(raised.value)


def test_what_a_folder_tells_of_its_slides(tmp_path: Path) -> None:
    assert read_inputs(tmp_path) == {}
    images = {name: PredictedInput(path=f"/{name}.svs", fingerprint="0", width=3, height=4) for name in "abc"}
    write_predictions(tmp_path, a=[], b=[])
    write_json(tmp_path / "run.json", {"inputs": merged_inputs(tmp_path, images)})
    assert read_inputs(tmp_path) == images
    newer = PredictedInput(path="/b.svs", fingerprint="1", frame=(Rotate(degrees=90),))
    write_json(tmp_path / "run.json", {"inputs": merged_inputs(tmp_path, {"b": newer})})
    assert read_inputs(tmp_path) == {"a": images["a"], "b": newer}  # there are no polygons of c
    for damaged in ("[]", "{", '{"inputs": {"a": {}}}'):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(AnnotationFileError, match="is damaged"):
            read_inputs(tmp_path)


def test_two_files_of_a_slide(tmp_path: Path) -> None:
    write_predictions(tmp_path, a=[])
    write_predictions(tmp_path, packed=True, a=[])
    with pytest.raises(AnnotationFileError, match="of the same slide"):
        predicted_polygons(tmp_path)


def test_outlines_of_tissue_are_no_predictions(tmp_path: Path) -> None:
    for name in ("a", "a.tissue", "b.tissue"):
        write_geojson(tmp_path / f"{name}.geojson", [])
    assert set(predicted_polygons(tmp_path)) == {"a", "b.tissue"}


def test_errors_are_one_line(tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: predicted_polygons(tmp_path / "missing"),
        lambda: pushing.read_features(tmp_path / "missing"),
        lambda: push(tmp_path, tmp_path, Reporter()),
    ]
    for call in calls:
        with pytest.raises(DmmnQpError) as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("length", [0, 4, 2000])
def test_a_damaged_image_is_refused_before_qupath_gets_it(
    qupath: paquo_stand_in.Qupath, project: Path, tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QuPath reads a file that is cut off without ever coming to an end."""
    path = project.parent / "data" / entry_id_of(project, "val-1") / "data.qpdata"
    whole = path.read_bytes()
    writer = PaquoWriter(project)
    path.write_bytes(whole[:length])
    with pytest.raises(AnnotationFileError, match="damaged"):
        writer.replace(entry_id_of(project, "val-1"), [], lambda feature: False)
    assert path.read_bytes() == whole[:length]


def _ends(path):
    os._exit(7) if path == "ends" else raised(path)


def raised(path):
    raise ProjectError(f"no {path}")


def test_what_happens_in_the_other_process_is_said_here():
    """As when QuPath's Java ends it; a project's errors arrive as they are."""
    with (
        pytest.raises(
            ProjectError, match=r"QuPath ended the process in which it was tried \(exit code 7\); without QuPath"
        ),
        pushing.pointing_to_scripts(),
    ):
        pushing.in_own_process(_ends, "ends")
    with pytest.raises(ProjectError, match="no disk"):
        pushing.in_own_process(_ends, "disk")


# ---- suggested regions


def suggested(rank: int, x: float, **more: Any) -> Annotation:
    """A region as `suggest` writes it."""
    said: dict[str, Any] = {
        "class_name": SUGGESTION_CLASS,
        "name": f"{rank:02d}. unsure of stroma",
        "measurements": {SUGGESTION_RANK: float(rank)},
        "metadata": {METADATA_KEY: SUGGESTION_MARK},
    }
    place = box(x, 2000, x + 300, 2300)
    return Annotation(place, annotation_id=suggestion_id(f"{x}"), **{**said, **more})


def write_suggested(folder: Path, **slides: list[Annotation]) -> Path:
    write_predictions(folder, **slides)
    (folder / TABLE).write_text("rank\n")
    return folder


def test_suggestions_replace_suggestions_alone(world: None, project: Path, tmp_path: Path) -> None:
    reviewed = [predicted("stroma", 0), predicted("carcinoma", 500, locked=True)]
    push(write_predictions(tmp_path / "p", train_1=reviewed), project, Reporter())
    drawn = objects(project, "train-1")
    folder = write_suggested(tmp_path / "s", train_1=[suggested(1, 0), suggested(2, 400), suggested(3, 800)])
    (done,) = push(folder, project, Reporter())
    assert (done.added, done.removed, done.untouched, done.cut) == (3, 0, len(drawn), 0)
    after = objects(project, "train-1")
    assert {i: after[i] for i in drawn} == drawn and len(after) == len(drawn) + 3
    names = sorted(f["properties"]["name"] for i, f in after.items() if i not in drawn)
    assert [name[:3] for name in names] == ["01.", "02.", "03."]

    write_suggested(folder, train_1=[suggested(1, 400), suggested(2, 1200)])
    (again,) = push(folder, project, Reporter())
    assert (again.added, again.removed) == (2, 3)
    write_suggested(folder, train_1=[])
    (none,) = push(folder, project, Reporter())
    assert (none.added, none.removed) == (0, 2) and objects(project, "train-1") == drawn


def test_predictions_leave_suggestions_alone(world: None, project: Path, tmp_path: Path) -> None:
    push(write_suggested(tmp_path / "s", train_1=[suggested(1, 0)]), project, Reporter())
    before = objects(project, "train-1")
    here = replace(predicted("stroma", 0), geometry=box(0, 2000, 400, 2400))
    folder = write_predictions(tmp_path / "p", train_1=[here])
    (done,) = push(folder, project, Reporter())
    assert (done.added, done.removed, done.cut) == (1, 0, 0)
    after = objects(project, "train-1")
    assert {i: after[i] for i in before} == before


def write_evaluated(folder: Path, places: dict[str, tuple[int, ...]]) -> Path:
    """What `evaluate` leaves of slides of the demo, wrong in a square of 300 px at each place."""
    evaluated = []
    for slide_id in places:
        path = DEMO / "slides" / f"{slide_id}.tif"
        image = PredictedInput(path=str(path), fingerprint=fingerprint(path), width=3072, height=3072)
        evaluated.append(EvaluatedSlide(slide_id=slide_id, image=image, mpp=0.5, grid_mpp=0.5, case=slide_id))
    of_all = {"kind": "truth", "y_px": 2000, "width_px": 300, "height_px": 300, "true": "stroma", "predicted": "gland"}
    counts = {"pixels": 900, "wrong_pixels": 90, "wrong_mm2": 0.01}
    worst = [WorstRegion(slide_id=s, x_px=x, **of_all, **counts) for s, xs in places.items() for x in xs]
    model = ModelEvaluation(name="m", predictions="p", rasters=(), truths=(), worst=tuple(worst))
    evaluation = Evaluation(title="t", slides=tuple(evaluated), truths=(), models=(model,))
    write_evaluation(folder, evaluation)
    write_worst_regions(evaluation, folder)
    return folder


def test_worst_regions_are_pushed_as_suggestions_are(world: None, project: Path, tmp_path: Path) -> None:
    before = {name: objects(project, name) for name in ("train-1", "test-1")}
    folder = write_evaluated(tmp_path / "e", {"train-1": (0, 400), "test-1": (800,)})
    push(write_suggested(tmp_path / "s", train_1=[suggested(1, 0)]), project, Reporter())
    done = push(folder, project, Reporter())
    assert {p.slide_id: (p.added, p.removed) for p in done} == {"train-1": (2, 1), "test-1": (1, 0)}
    after = objects(project, "train-1")
    assert {i: after[i] for i in before["train-1"]} == before["train-1"]
    new = [annotation_of(f) for i, f in after.items() if i not in before["train-1"]]
    assert all(a.class_name == SUGGESTION_CLASS for a in new)
    assert all(verdict.is_outline for verdict in review(new))  # nothing of it is a label

    write_evaluated(folder, {"train-1": (), "test-1": (800, 1200)})
    done = push(folder, project, Reporter())
    assert {p.slide_id: (p.added, p.removed) for p in done} == {"train-1": (0, 2), "test-1": (2, 1)}
    assert objects(project, "train-1") == before["train-1"]
    (one,) = push(write_evaluated(tmp_path / "one", {"test-1": ()}), project, Reporter())  # which has no folder
    assert (one.added, one.removed) == (0, 2) and objects(project, "test-1") == before["test-1"]


def test_an_evaluation_in_the_folder_of_its_predictions_is_not_pushed(tmp_path: Path) -> None:
    folder = write_evaluated(write_predictions(tmp_path / "p", test_1=[predicted("stroma", 0)]), {"test-1": (0,)})
    found = Pushable.of(folder)
    assert (found.what, [*found.files], found.is_regions) == ("predictions", ["test-1"], False)
    (folder / "test-1.geojson").unlink()
    found = Pushable.of(folder)
    assert (found.what, found.files, found.is_regions) == ("worst regions", {"test-1": folder / WORST_REGIONS}, True)
    assert called_slides(["test-1.tif"], folder) == ["test-1"]
    (folder / WORST_REGIONS).unlink()
    with pytest.raises(DatasetError, match="has no worst_regions"):
        Pushable.of(folder)


@pytest.mark.parametrize(
    "change",
    [{"locked": True}, {"class_name": "stroma"}, {"measurements": {}}],
    ids=["locked", "another class", "reshaped"],
)
def test_what_somebody_made_of_a_suggestion_stays(change: dict[str, Any]) -> None:
    before = features(suggested(1, 0, **change), suggested(2, 400), predicted("stroma", 0))
    plan = plan_of_suggestions(before, features(suggested(1, 0), suggested(2, 800)))
    assert plan.is_kept == [True, False, True]
    assert [f["id"] for f in plan.added] == [str(suggestion_id("800"))]
    assert plan_of(before, features(predicted("stroma", 0))).is_kept == [True, True, False]
    made, other, _ = review([*map(annotation_of, before)])
    assert (made.origin, made.is_outline, other.is_outline) == ("drawn", False, True)


def annotation_of(feature: dict[str, Any]) -> Annotation:
    return objects_of(feature, "object").annotations[0]


def test_a_prediction_with_the_digits_of_suggestions_by_chance_is_a_prediction() -> None:
    digits = str(marked_id("x"))
    unlucky = UUID(digits[:9] + "0002" + digits[13:])
    old = Annotation(
        box(0, 0, 9, 9),
        class_name=SUGGESTION_CLASS,
        annotation_id=unlucky,
        measurements={CLASS_CODE: 1.0, "Perimeter µm": 36.0, SUGGESTION_RANK: 1.0},
        metadata={METADATA_KEY: "model"},
    )
    (verdict,) = review([old])
    assert is_suggestion_id(unlucky) and not verdict.is_outline
