"""The reader that goes through QuPath, with a stand-in for paquo where there is none."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dmmn_qp.errors import AnnotationFileError, ProjectError
from dmmn_qp.files.failures import install_command
from dmmn_qp.qupath import paquo_reader as paquo_project
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.qpdata import read_qpdata
from tests.qupath.test_reader_contract import IMAGES, check, summary_of


class JavaThing:
    """An object of the hierarchy as Java would show it; ``feature`` is what QuPath exports of it."""

    def __init__(self, feature: dict[str, Any] | None = None) -> None:
        self.feature = feature
        self.children: list[JavaThing] = []

    def getChildObjects(self) -> list[JavaThing]:
        return self.children


class PathObject:
    """paquo's wrapper."""

    def __init__(self, java_object: JavaThing) -> None:
        self.java_object = java_object

    def to_geojson(self) -> dict[str, Any]:
        assert self.java_object.feature is not None
        copy: dict[str, Any] = json.loads(json.dumps(self.java_object.feature))
        return copy


class Version(str):
    def __lt__(self, other: str) -> bool:
        return [int(n) for n in self.split(".")] < [int(n) for n in other.split(".")]


def hierarchy_of(data: Path, image: str) -> SimpleNamespace:
    """The hierarchy of an image, put together from QuPath's own flat export and the parents in its summary."""
    listed = json.loads((data / "geojson" / f"{image}_all_fc.geojson").read_bytes())["features"]
    root = JavaThing()
    things = {feature["id"]: JavaThing(feature) for feature in listed}
    for object_id, expected in summary_of(data, image).items():
        (things[expected["parent"]] if "parent" in expected else root).children.append(things[object_id])
    return SimpleNamespace(root=PathObject(root))


class Image:
    def __init__(self, entry_id: str, hierarchy: SimpleNamespace | Exception) -> None:
        self.entry_id = entry_id
        self._hierarchy = hierarchy

    @property
    def hierarchy(self) -> SimpleNamespace:
        if isinstance(self._hierarchy, Exception):
            raise self._hierarchy
        return self._hierarchy


@pytest.fixture
def stand_in(data: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """paquo with the committed project in it, for Java to have started; records how it was opened."""
    record = SimpleNamespace(opened=[], log_level="debug", images=[Image(i, hierarchy_of(data, n)) for i, n in IMAGES])

    class QuPathProject:
        def __init__(self, path: Path, mode: str) -> None:
            record.opened.append((path, mode))
            record.log_level = "debug"  # as importing paquo.projects does
            self.images = record.images

    def set_warn() -> None:
        record.log_level = "warn"

    modules = {name: ModuleType(name) for name in ("paquo", "paquo.java", "paquo.projects")}
    vars(modules["paquo.java"]).update(LogManager=SimpleNamespace(setWarn=set_warn), qupath_version=Version("0.7.0"))
    vars(modules["paquo.projects"]).update(QuPathProject=QuPathProject)
    vars(modules["paquo"]).update(java=modules["paquo.java"], projects=modules["paquo.projects"])
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(paquo_project, "is_installed", lambda: True)
    monkeypatch.setenv("PAQUO_QUPATH_DIR", "")
    record.java = modules["paquo.java"]
    return record


@pytest.mark.parametrize(("entry_id", "image"), IMAGES)
def test_same_objects_as_the_direct_reader(data: Path, stand_in: SimpleNamespace, entry_id: str, image: str) -> None:
    path = data / "project" / "project.qpproj"
    result = PaquoProject(path).read(entry_id)
    assert stand_in.opened == [(path, "r")]
    assert stand_in.log_level == "warn"
    direct = read_qpdata(data / "project" / "data" / entry_id / "data.qpdata")
    assert result.warnings == ()
    assert [a.annotation_id for a in result.annotations] == [a.annotation_id for a in direct.annotations]
    for annotation in result.annotations:
        check(annotation, summary_of(data, image)[str(annotation.annotation_id)])


def test_objects_without_outline_or_properties(stand_in: SimpleNamespace) -> None:
    root, empty = JavaThing(), JavaThing({"type": "Feature", "geometry": None})
    empty.children = [JavaThing({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}})]
    root.children = [empty]
    stand_in.images = [Image("1", SimpleNamespace(root=PathObject(root)))]
    result = PaquoProject(Path("p.qpproj")).read("1")
    assert [a.geometry.wkt for a in result.annotations] == ["POINT (1 2)"]
    assert result.warnings == ("feature without a geometry, left out: feature 1",)


def test_folder_of_qupath_is_handed_on(stand_in: SimpleNamespace, tmp_path: Path) -> None:
    PaquoProject(Path("p.qpproj"), tmp_path)
    assert os.environ["PAQUO_QUPATH_DIR"] == str(tmp_path)


@pytest.mark.parametrize(("version", "warnings"), [("0.4.4", 1), ("0.5.0", 0), ("0.10.1", 0)])
def test_old_qupath_is_warned_of(stand_in: SimpleNamespace, version: str, warnings: int) -> None:
    stand_in.java.qupath_version = Version(version)
    assert len(PaquoProject(Path("p.qpproj")).read("1").warnings) == warnings


def test_what_java_throws_is_one_line(stand_in: SimpleNamespace) -> None:
    stand_in.images = [Image("1", RuntimeError("java.io.EOFException\n\tat qupath.lib.io.PathIO"))]
    with pytest.raises(AnnotationFileError, match="QuPath cannot read the objects of image 1") as raised:
        PaquoProject(Path("p.qpproj")).read("1")
    assert "\n" not in str(raised.value)
    with pytest.raises(AnnotationFileError, match="no image 7"):
        PaquoProject(Path("p.qpproj")).read("7")


@pytest.mark.parametrize("length", [0, 4, 2000])
def test_a_file_that_is_cut_off_is_refused_before_qupath_gets_it(
    data: Path, stand_in: SimpleNamespace, tmp_path: Path, length: int
) -> None:
    """QuPath reads it without ever coming to an end."""
    stand_in.images = [Image("1", AssertionError("QuPath read it"))]
    path = tmp_path / "data" / "1" / "data.qpdata"
    path.parent.mkdir(parents=True)
    path.write_bytes((data / "project" / "data" / "1" / "data.qpdata").read_bytes()[:length])
    with pytest.raises(AnnotationFileError, match="damaged"):
        PaquoProject(tmp_path / "project.qpproj").read("1")


def test_project_that_qupath_cannot_open(stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, mode: str) -> None:
        raise OSError("no project")

    monkeypatch.setattr(sys.modules["paquo.projects"], "QuPathProject", fail)
    with pytest.raises(ProjectError, match=r'cannot open the project "p.qpproj" \(no project\)'):
        PaquoProject(Path("p.qpproj"))


def test_paquo_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paquo_project, "is_installed", lambda: False)
    with pytest.raises(ProjectError, match=re.escape(install_command("paquo"))):
        PaquoProject(Path("p.qpproj"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no valid qupath installation found"), "--qupath-dir"),
        (FileNotFoundError("qupath installation is incompatible"), "--qupath-dir"),
        (RuntimeError("Provided JAVA_OPTS prevent the JVM from starting!"), "does not start"),
        (TypeError("Class qupath.lib.io.GsonTools is not found"), "does not start"),
    ],
)
def test_qupath_is_missing_or_does_not_start(
    monkeypatch: pytest.MonkeyPatch, stand_in: SimpleNamespace, error: Exception, message: str
) -> None:
    class Failing(ModuleType):
        def __getattr__(self, name: str) -> object:
            if name == "java":
                raise error
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "paquo", Failing("paquo"))
    with pytest.raises(ProjectError, match=message) as raised:
        PaquoProject(Path("p.qpproj"))
    assert "\n" not in str(raised.value)
