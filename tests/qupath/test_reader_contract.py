"""One contract for both readers of a project's objects; expected is what QuPath itself says of each object."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dmmn_qp.annotations import Annotation
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE, ReadResult
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.project import read_project
from dmmn_qp.qupath.qpdata import read_qpdata

KINDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
}
GEOMETRIES = {
    "Polygon": {"Polygon"},
    "Rectangle": {"Polygon"},
    "Ellipse": {"Polygon"},
    "Geometry": {"Polygon", "MultiPolygon"},
    "Line": {"LineString"},
    "Polyline": {"LineString"},
    "Points": {"Point", "MultiPoint"},
}
IMAGES = [("1", "he_1"), ("2", "he_2_pyramid")]


def read_directly(project: Path, entry_id: str) -> ReadResult:
    entry = next(entry for entry in read_project(project).entries if entry.entry_id == entry_id)
    return read_qpdata(entry.data_path)


def read_through_qupath(project: Path, entry_id: str) -> ReadResult:
    return PaquoProject(project).read(entry_id)


READERS = [
    pytest.param(read_directly, id="qpdata"),
    pytest.param(
        read_through_qupath,
        id="paquo",
        marks=[
            pytest.mark.qupath,
            pytest.mark.skipif(
                not os.environ.get(QUPATH_DIR_VARIABLE),
                reason=f"{QUPATH_DIR_VARIABLE} is not set: reading through QuPath itself is NOT TESTED here",
            ),
        ],
    ),
]
Reader = Callable[[Path, str], ReadResult]


@pytest.fixture
def project(data: Path, tmp_path: Path) -> Path:
    """A copy, so that nothing can write into the material."""
    shutil.copytree(data / "project", tmp_path / "project")
    return tmp_path / "project" / "project.qpproj"


def summary_of(data: Path, image: str) -> dict[str, dict[str, Any]]:
    listed = json.loads((data / "geojson" / f"{image}_summary.json").read_text(encoding="utf-8"))
    return {item["id"]: item for item in listed}


def check(annotation: Annotation, expected: Mapping[str, Any]) -> None:
    """Compare everything that QuPath tells of one object."""
    assert annotation.kind == KINDS[expected["type"]]
    assert annotation.geometry.geom_type in GEOMETRIES[expected["roi"]]
    assert annotation.geometry.is_valid
    assert annotation.is_ellipse == (expected["roi"] == "Ellipse")
    assert annotation.class_name == expected.get("cls")
    if expected.get("cls"):
        assert annotation.class_color == argb_to_rgb(expected["color"])
    assert annotation.name == expected.get("name")
    assert annotation.locked == expected["locked"]
    assert annotation.geometry.area == pytest.approx(expected["area"], rel=5e-3 if annotation.is_ellipse else 1e-3)
    x, y, width, height = expected["bounds"]
    assert annotation.geometry.bounds == pytest.approx((x, y, x + width, y + height), abs=0.011)
    assert (annotation.plane.z, annotation.plane.t) == (expected["z"], expected["t"])
    assert dict(annotation.metadata) == expected["metadata"]
    measurements = {name: float(value) for name, value in expected["measurements"].items()}
    assert dict(annotation.measurements) == pytest.approx(measurements, nan_ok=True)
    assert str(annotation.parent_id) == expected.get("parent", "None")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("entry_id", "image"), IMAGES)
def test_every_object_is_as_qupath_says(data: Path, project: Path, read: Reader, entry_id: str, image: str) -> None:
    result = read(project, entry_id)
    expected = summary_of(data, image)
    assert result.warnings == ()
    assert {str(a.annotation_id) for a in result.annotations} == set(expected)
    assert len(result.annotations) == len(expected)
    for annotation in result.annotations:
        check(annotation, expected[str(annotation.annotation_id)])


@pytest.mark.parametrize("read", READERS)
def test_parents_come_before_their_children(project: Path, read: Reader) -> None:
    met: set[object] = {None}
    for annotation in read(project, "1").annotations:
        assert annotation.parent_id in met
        assert (annotation.depth > 0) == (annotation.parent_id is not None)
        met.add(annotation.annotation_id)


@pytest.mark.parametrize("read", READERS)
def test_details_that_the_summary_lacks(project: Path, read: Reader) -> None:
    annotations = read(project, "1").annotations
    assert [a.color for a in annotations if a.name == "polygon"] == [(10, 120, 250)]
    (cell,) = (a for a in annotations if a.kind == "cell")
    assert cell.nucleus is not None
    assert cell.nucleus.bounds == pytest.approx((405, 345, 417, 356), abs=0.011)


@pytest.mark.parametrize("read", READERS)
def test_reading_writes_nothing(project: Path, read: Reader) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(project.parent.rglob("*")) if path.is_file()}

    before = content()
    read(project, "1")
    assert content() == before


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("length", [0, 4, 2000])
def test_a_damaged_file_is_an_error(project: Path, read: Reader, length: int) -> None:
    from dmmn_qp.errors import AnnotationFileError

    path = project.parent / "data" / "1" / "data.qpdata"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AnnotationFileError) as raised:
        read(project, "1")
    assert "\n" not in str(raised.value)
