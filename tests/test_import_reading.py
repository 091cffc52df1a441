"""What import reads of a source: damaged images, the reader through QuPath, planes and kinds of objects."""

import json
import shutil
from pathlib import Path

import pytest

from dmmn_qp.errors import ProjectError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.regions import Region
from tests.conftest import DEMO, fails, invoke, moved_demo, rectangle, two_tissues, write_features, write_tiff


@pytest.fixture
def project(here: Path) -> Path:
    """The demo's project in a folder of its own; its slides are found beside it."""
    (here / "p").mkdir()
    (here / "p" / "slides").symlink_to(DEMO / "slides")
    return moved_demo(here / "p")


def data_of(project: Path, entry_id: int) -> Path:
    return project.parent / "data" / str(entry_id) / "data.qpdata"


# ---------------------------------------------------------------- damaged, missing, unknown


def test_every_image_damaged(project):
    for entry_id in (1, 2, 3, 4):
        data_of(project, entry_id).write_bytes(b"damaged")
    line = fails("import", project)
    assert [name in line for name in ("train-1", "train-2", "val-1", "test-1")] == [True] * 4


@pytest.mark.parametrize("backup", [True, False])
def test_missing_data_of_an_annotated_image(project, here, backup):
    data = data_of(project, 2)
    data.rename(data.with_name("data.qpdata.bkp" if backup else "elsewhere"))
    line = fails("import", project, "--strict")
    assert "train-2" in line and "is missing" in line
    assert ('"data.qpdata.bkp"' in line) == backup
    assert not (here / "dataset").exists()
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("left out") == 1
    assert ('"data.qpdata.bkp"' in result.stderr) == backup
    assert [r.slide_id for r in Dataset(here / "dataset").slides()] == ["train-1", "val-1", "test-1"]


def test_strict_says_all_that_is_damaged_and_found(project, here):
    for entry_id in (2, 3):
        data_of(project, entry_id).write_bytes(b"damaged")
    result = invoke("import", project, "--strict")
    assert result.exit_code == 1 and not (here / "dataset").exists()
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and "train-2" in line and "val-1" in line
    findings = [line.strip() for line in result.stdout.splitlines()]
    errors = [line for line in findings if line.startswith("error:")]
    assert [name in line for name, line in zip(("train-2", "val-1"), errors, strict=True)] == [True, True]
    assert any("train-1:" in line for line in findings)  # the others were looked at all the same


@pytest.mark.parametrize(
    ("option", "severity", "exit_code"), [("--strict", "error:", 1), ("--no-strict", "warning:", 0)]
)
def test_check_tells_damage(project, here, option, severity, exit_code):
    data_of(project, 2).write_bytes(b"damaged")
    result = invoke("import", project, "--check", option)
    assert result.exit_code == exit_code, result.output
    (line,) = [line for line in result.stdout.splitlines() if "train-2" in line and "damaged" in line]
    assert line.split()[0] == severity
    assert not (here / "dataset").exists()


def test_damage_is_in_the_report(project, here):
    data_of(project, 2).write_bytes(b"damaged")
    assert invoke("import", project).exit_code == 0
    findings = json.loads((here / "dataset" / "report.json").read_text())["findings"]
    (damage,) = [finding for finding in findings if "train-2" in finding["message"]]
    assert damage["severity"] == "warning" and "data.qpdata" in damage["message"]


def test_image_never_opened_is_no_problem(project):
    for path in data_of(project, 2).parent.iterdir():
        path.unlink()
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    assert "left out" not in result.stderr


def test_summary_and_data_that_disagree(project, data_without_objects):
    data_of(project, 2).write_bytes(data_without_objects)
    line = fails("import", project, "--strict")
    assert "52 objects" in line and "holds none" in line
    assert invoke("import", project).exit_code == 0


@pytest.fixture
def data_without_objects() -> bytes:
    from tests.qupath.conftest import QpdataWriter

    return QpdataWriter().file()


def of_unknown_version(project: Path, entry_id: int) -> None:
    data = data_of(project, entry_id)
    data.write_bytes(data.read_bytes().replace(b"Data file version 3", b"Data file version 9"))


def test_unknown_version_without_paquo(project, monkeypatch):
    monkeypatch.setattr("dmmn_qp.qupath.paquo_reader.is_installed", lambda: False)
    of_unknown_version(project, 2)
    line = fails("import", project, "--strict")
    assert "data file version 9" in line and "--reader paquo" in line and "[paquo]" in line
    line = fails("import", project, "--strict", "--reader", "qpdata")
    assert "data file version 9" in line and "paquo" not in line


def test_paquo_is_asked_for_and_missing(project, monkeypatch):
    monkeypatch.setattr("dmmn_qp.qupath.paquo_reader.is_installed", lambda: False)
    assert "[paquo]" in fails("import", project, "--reader", "paquo")


class Through:
    """Stands in for a project opened by QuPath; reads what the demo holds."""

    def __init__(self, path: Path, qupath_dir: Path | None) -> None:
        Through.opened.append(qupath_dir)

    def read(self, entry_id: str):
        Through.read_entries.append(entry_id)
        return read_qpdata(DEMO / "data" / entry_id / "data.qpdata")


@pytest.fixture
def through(monkeypatch):
    Through.opened, Through.read_entries = [], []
    monkeypatch.setattr("dmmn_qp.importing.project_source.PaquoProject", Through)
    return Through


def test_auto_asks_qupath_only_for_what_it_does_not_know(project, through, here):
    of_unknown_version(project, 2)
    result = invoke("import", project, "--qupath-dir", "QuPath")
    assert result.exit_code == 0, result.output
    assert (through.opened, through.read_entries) == ([Path("QuPath")], ["2"])
    assert "was read through QuPath" in result.stderr
    assert len(Dataset(here / "dataset").slides()) == 4


def test_auto_does_not_ask_qupath_about_damage(project, through):
    data_of(project, 2).write_bytes(b"damaged")
    assert invoke("import", project).exit_code == 0
    assert not through.opened


def test_reader_from_the_configuration(project, through, here):
    (here / "c.toml").write_text('[import]\nreader = "paquo"\nqupath_dir = "QuPath"\n')
    assert invoke("import", project, "--config", "c.toml").exit_code == 0
    assert (through.opened, through.read_entries) == ([Path("QuPath")], ["1", "2", "3", "4"])


def test_qupath_that_fails_is_asked_once(project, monkeypatch):
    asked = []

    def fail(path, qupath_dir):
        asked.append(path)
        raise ProjectError("no QuPath; --qupath-dir")

    monkeypatch.setattr("dmmn_qp.importing.project_source.PaquoProject", fail)
    for entry_id in (2, 3):
        of_unknown_version(project, entry_id)
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    assert len(asked) == 1 and result.stderr.count("no QuPath; --qupath-dir") == 1
    assert "(1 more like it" in result.stderr


def test_paquo_is_for_projects(here):
    assert "--reader paquo" in fails("import", DEMO / "slides", "--annotations", DEMO, "--reader", "paquo")


def test_damaged_geojson_among_others(two_tissue_slides, here):
    shutil.copytree(two_tissue_slides / "geojson", here / "geojson")
    command = ("import", two_tissue_slides / "slides", "--annotations", "geojson")
    whole = (here / "geojson" / "b.geojson").read_text()
    (here / "geojson" / "b.geojson").write_text(whole[:-20])
    line = fails(*command, "--strict")
    assert "b.geojson" in line and "truncated" in line
    assert not (here / "dataset").exists()
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "b.geojson" in result.stderr and "left out" in result.stderr
    assert [r.slide_id for r in Dataset(here / "dataset").slides()] == ["a", "c"]
    for name in "ac":
        (here / "geojson" / f"{name}.geojson").write_text("damaged")
    line = fails(*command, "--overwrite")
    assert all(f"{name}.geojson" in line for name in "abc")
    assert len(Dataset(here / "dataset").slides()) == 2


# ---------------------------------------------------------------- planes and kinds


def on_plane(feature, z, t=0):
    feature["geometry"]["plane"] = {"c": -1, "z": z, "t": t}
    return feature


def of_kind(feature, kind):
    feature["properties"]["objectType"] = kind
    return feature


def slide(here, features):
    (here / "slides").mkdir()
    write_tiff(here / "slides" / "s.tif", two_tissues(256, 256), 0.5)
    write_features(here / "geojson" / "s.geojson", features)
    return ("import", "slides", "--annotations", "geojson", "--overwrite")


def labelled(here):
    dataset = Dataset(here / "dataset")
    with LabelRaster(dataset.mask_path("s")) as mask:
        labels = mask.read(Region(0, 0, 256, 256))
    return {name: int((labels == i).sum()) for i, name in enumerate(dataset.class_map.names, start=1)}


def test_plane_with_most_annotations(here):
    two = [on_plane(rectangle(x, 0, 50, 50, "a"), 2, 1) for x in (0, 100)]
    command = slide(here, [rectangle(0, 100, 90, 90, "b"), *two])
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert labelled(here) == {"a": 2 * 50 * 50}
    assert "trained on plane z = 2, t = 1" in result.stderr
    assert "1 on another plane (--plane)" in result.output
    result = invoke(*command, "--plane", "0")
    assert labelled(here) == {"b": 90 * 90}
    assert "2 on another plane" in result.output and "trained on plane z" not in result.stderr
    assert invoke(*command, "--plane", "2,1").exit_code == 0
    assert labelled(here) == {"a": 2 * 50 * 50}
    assert json.loads((here / "dataset" / "run.json").read_text())["configuration"]["plane"] == [2, 1]


def test_first_plane_is_taken_of_equals(here):
    command = slide(here, [on_plane(rectangle(0, 0, 50, 50, "a"), 2), rectangle(0, 100, 90, 90, "b")])
    assert invoke(*command).exit_code == 0
    assert labelled(here) == {"b": 90 * 90}


def test_plane_without_annotations(here):
    command = slide(here, [rectangle(0, 0, 50, 50, "a")])
    assert "the planes with objects are 0,0 (1 objects)" in fails(*command, "--plane", "3")
    for text in ("x", "1,2,3", "-1", ""):
        assert "--plane" in fails(*command, f"--plane={text}")


def test_cells_and_detections_only_when_asked_for(here):
    detections = [of_kind(rectangle(100, 0, 20, 20, "b"), kind) for kind in ("detection", "cell", "tile")]
    command = slide(here, [rectangle(0, 0, 50, 50, "a"), *detections])
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert labelled(here) == {"a": 50 * 50}
    assert "3 of another kind (--kinds)" in result.output
    assert invoke(*command, "--kinds", "annotation,cell").exit_code == 0
    assert labelled(here) == {"a": 50 * 50, "b": 20 * 20}
    kept = read_geojson(here / "dataset" / "annotations" / "s.geojson").annotations
    assert [a.kind for a in kept] == ["annotation", "cell"]
    assert "kinds" in fails(*command, "--kinds", "cells")


def test_image_with_detections_only_is_not_searched_for(project, here):
    from tests.qupath.conftest import QpdataWriter

    writer = QpdataWriter()
    content = writer.file(
        lambda: writer.path_object(lambda w: w.corners("RectangleROI", 0, 0, 9, 9), kind="PathDetectionObject")
    )
    data_of(project, 2).write_bytes(content)
    data_of(project, 2).with_name("summary.json").unlink()
    (project.parent / "slides").unlink()
    (project.parent / "slides").mkdir()
    for name in ("train-1", "val-1", "test-1"):
        (project.parent / "slides" / f"{name}.tif").symlink_to(DEMO / "slides" / f"{name}.tif")
    result = invoke("import", project)
    assert result.exit_code == 0, result.output
    assert len(Dataset(here / "dataset").slides()) == 3
