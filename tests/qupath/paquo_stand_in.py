"""paquo for machines without QuPath: the calls that we make, on files of its own making, with paquo 0.9's behaviour."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from dmmn_qp.qupath import paquo_reader as paquo_project
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.project import read_project
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.slides import open_slide


class Version(str):
    def __lt__(self, other: str) -> bool:
        return [int(n) for n in self.split(".")] < [int(n) for n in other.split(".")]


class Qupath:
    """What the stand-in does differently from test to test, and what it was asked to do."""

    def __init__(self) -> None:
        self.version = Version("0.5.1")
        self.saves = True
        self.resolved: list[str] = []
        self.opened: list[str] = []
        self.class_colors: dict[str, tuple[int, int, int]] = {}  # of classes that QuPath knows before

    @property
    def keeps_metadata(self) -> bool:
        return not self.version < Version("0.5.0")


class JavaError(Exception):
    """What Java throws: words, and no number."""


class JavaThing:
    def __init__(self, feature: dict[str, Any] | None = None) -> None:
        self.feature = feature
        self.children: list[JavaThing] = []

    def getChildObjects(self) -> list[JavaThing]:
        return self.children


def modules_of(qupath: Qupath) -> dict[str, ModuleType]:
    """The modules of paquo that we import."""

    class PathObject:
        kind = "annotation"

        def __init__(self, java_object: JavaThing) -> None:
            self.java_object = java_object

        @classmethod
        def from_geojson(cls, geojson: dict[str, Any]) -> PathObject:
            assert geojson["properties"]["objectType"] == cls.kind
            copy = json.loads(json.dumps(geojson))
            if not qupath.keeps_metadata:
                copy["properties"].pop("metadata", None)
            return cls(JavaThing(copy))

        def to_geojson(self) -> dict[str, Any]:
            copy: dict[str, Any] = json.loads(json.dumps(self.java_object.feature))
            if not qupath.keeps_metadata:
                copy["properties"].pop("metadata", None)
            return copy

    class Detection(PathObject):
        kind = "detection"

    class Proxy:
        def __init__(self, root: JavaThing, made_as: type[PathObject]) -> None:
            self._root, self._made_as = root, made_as

        def __iter__(self) -> Iterator[PathObject]:
            for thing in list(self._root.children):
                assert thing.feature is not None
                if thing.feature["properties"]["objectType"] == self._made_as.kind:
                    yield self._made_as(thing)

        def update(self, objects: Iterable[PathObject]) -> None:
            self._root.children += [item.java_object for item in objects]

        def __isub__(self, objects: Iterable[PathObject]) -> Proxy:
            gone = {id(item.java_object) for item in objects}
            self._root.children = [thing for thing in self._root.children if id(thing) not in gone]
            return self

    class Hierarchy:
        def __init__(self, features: list[dict[str, Any]], name: str) -> None:
            root = JavaThing()
            root.children = [JavaThing(feature) for feature in features]
            self.root = PathObject(root)
            self.annotations, self.detections = Proxy(root, PathObject), Proxy(root, Detection)
            self.java_object = SimpleNamespace(resolveHierarchy=lambda: qupath.resolved.append(name))

    class Image:
        def __init__(self, folder: Path, entry_id: str, name: str, uri: str, mode: str) -> None:
            self.entry_id, self.image_name, self.uri, self._mode = entry_id, name, uri, mode
            self._data = folder / "data" / entry_id / "data.qpdata"
            self._path = Path(unquote(uri.removeprefix("file:").replace("///", "/")))
            self.hierarchy = Hierarchy(features_in(self._data), name)

        @property
        def width(self) -> int:
            with open_slide(self._path, mpp=1) as slide:
                return slide.info.width

        @property
        def height(self) -> int:
            with open_slide(self._path, mpp=1) as slide:
                return slide.info.height

        def is_readable(self) -> bool:
            return self._path.is_file()

        def save(self) -> None:
            if self._mode == "r":
                raise OSError("project in readonly mode")
            if self.is_readable() and qupath.saves:  # else paquo only logs it
                self._data.parent.mkdir(parents=True, exist_ok=True)
                aside = self._data.with_name("data.qpdata.bkp")
                if self._data.is_file():
                    self._data.replace(aside)
                try:
                    self._data.write_text(json.dumps([t.feature for t in self.hierarchy.root.java_object.children]))
                except OSError as error:
                    raise JavaError(f"java.io.IOException: {error.strerror}") from None
                aside.unlink(missing_ok=True)

    class QuPathProject:
        def __init__(self, path: Path, mode: str) -> None:
            self._file = path if path.suffix == ".qpproj" else path / "project.qpproj"
            self._mode = mode
            self.path_classes: list[Any] = []
            qupath.opened.append(mode)
            if mode == "x":
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self.images: list[Image] = []
                return
            self.images = [
                Image(self._file.parent, e.entry_id, e.image_name, e.uri or "", mode)
                for e in read_project(self._file).entries
            ]

        def add_image(self, image_id: str, *, allow_duplicates: bool, return_list: bool) -> list[Image]:
            assert allow_duplicates and return_list
            entry_id = str(len(self.images) + 1)
            path = Path(image_id)
            self.images.append(Image(self._file.parent, entry_id, path.name, path.resolve().as_uri(), self._mode))
            return [self.images[-1]]

        def save(self) -> None:
            images = [
                {
                    "entryID": int(image.entry_id),
                    "imageName": image.image_name,
                    "serverBuilder": {"builderType": "uri", "uri": image.uri, "args": []},
                }
                for image in self.images
            ]
            self._file.write_text(json.dumps({"version": str(qupath.version), "images": images}))
            classes = [{"name": c.full_name, "color": c.argb} for c in self.path_classes]
            (self._file.parent / "classifiers").mkdir(exist_ok=True)
            (self._file.parent / "classifiers" / "classes.json").write_text(json.dumps({"pathClasses": classes}))

    class PathClass:
        def __init__(self, name: str, color: tuple[int, int, int] | None = None, parent: PathClass | None = None):
            assert ":" not in name
            self.full_name = f"{parent.full_name}: {name}" if parent else name
            self.color = qupath.class_colors.setdefault(self.full_name, color or (0, 0, 0))

        @property
        def argb(self) -> int:
            red, green, blue = self.color
            return (red << 16 | green << 8 | blue) - (1 << 24)

    names = ("paquo", "paquo.java", "paquo.projects", "paquo.pathobjects", "paquo.classes")
    modules = {name: ModuleType(name) for name in names}
    java = modules["paquo.java"]
    vars(java).update(LogManager=SimpleNamespace(setWarn=lambda: None), qupath_version=qupath.version)
    vars(modules["paquo.projects"]).update(QuPathProject=QuPathProject)
    vars(modules["paquo.classes"]).update(QuPathPathClass=PathClass)
    vars(modules["paquo.pathobjects"]).update(
        QuPathPathAnnotationObject=PathObject, QuPathPathDetectionObject=Detection
    )
    vars(modules["paquo"]).update(java=java)
    return modules


def features_in(data: Path) -> list[dict[str, Any]]:
    """The objects in ``data.qpdata``, of QuPath or of the stand-in."""
    if not data.is_file():
        return []
    if data.read_bytes()[:1] == b"[":
        features: list[dict[str, Any]] = json.loads(data.read_bytes())
        return features
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "objects.geojson")
        write_geojson(copy, read_qpdata(data).annotations)
        features = json.loads(copy.read_bytes())["features"]
    return features


def install(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Qupath:
    """Puts the stand-in where paquo is imported from."""
    qupath = Qupath()
    vars(qupath).update(how)
    for name, module in modules_of(qupath).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(paquo_project, "is_installed", lambda: True)
    monkeypatch.setattr(paquo_project, "read_qpdata", features_in)  # it saves objects as GeoJSON
    return qupath
