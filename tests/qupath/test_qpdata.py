"""Objects in ``data.qpdata`` against what QuPath says of them, and against damage."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.errors import AnnotationFileError, DmmnQpError
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.notes import ReadResult
from dmmn_qp.qupath.qpdata import read_qpdata

if TYPE_CHECKING:
    from conftest import QpdataWriter

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
IDS = [UUID(int=number) for number in range(10, 20)]


def check_against_summary(annotation: Annotation, expected: Mapping[str, Any]) -> None:
    """Compare everything that QuPath tells of one object."""
    assert str(annotation.annotation_id) == expected["id"]
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
    assert annotation.geometry.bounds == pytest.approx((x, y, x + width, y + height), abs=0.01)
    assert (annotation.plane.z, annotation.plane.t) == (expected["z"], expected["t"])
    assert dict(annotation.metadata) == expected["metadata"]
    measurements = {name: float(value) for name, value in expected["measurements"].items()}
    assert dict(annotation.measurements) == pytest.approx(measurements, nan_ok=True)


@pytest.mark.parametrize(("entry", "image", "count"), [(1, "he_1", 19), (2, "he_2_pyramid", 9)])
def test_every_object_is_as_qupath_says(data: Path, entry: int, image: str, count: int) -> None:
    result = read_qpdata(data / "project" / "data" / str(entry) / "data.qpdata")
    summary = json.loads((data / "geojson" / f"{image}_summary.json").read_text(encoding="utf-8"))
    assert result.warnings == ()
    assert len(result.annotations) == len(summary) == count
    for annotation, expected in zip(result.annotations, summary, strict=True):
        check_against_summary(annotation, expected)
        assert str(annotation.parent_id) == expected.get("parent", "None")


def test_details_that_the_summary_lacks(data: Path) -> None:
    first = read_qpdata(data / "project" / "data" / "1" / "data.qpdata").annotations
    assert first[0].color == (10, 120, 250)
    (cell,) = (annotation for annotation in first if annotation.kind == "cell")
    assert cell.nucleus is not None
    assert cell.nucleus.bounds == (405, 345, 417, 356)
    (other_plane,) = (annotation for annotation in first if annotation.plane != Plane())
    assert other_plane.plane == Plane(c=-1, z=2, t=1)


@pytest.mark.parametrize("entry", [1, 2, 3, 4])
def test_demo_has_as_many_annotations_of_each_class_as_its_summary_says(demo: Path, entry: int) -> None:
    folder = demo / "data" / str(entry)
    result = read_qpdata(folder / "data.qpdata")
    counts = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["hierarchy"]
    classes = Counter(annotation.class_name or "Unclassified" for annotation in result.annotations)
    assert classes == counts["annotationClassificationCounts"]
    assert len(result.annotations) == {1: 35, 2: 52, 3: 42, 4: 40}[entry]
    assert result.warnings == ()
    assert all(annotation.is_area and annotation.geometry.is_valid for annotation in result.annotations)


@pytest.mark.parametrize(("entry", "count"), [(1, 19), (2, 32)])
def test_version_2_of_a_public_project(shared: Path, entry: int, count: int) -> None:
    result = read_qpdata(shared / "public-0.2.0-m12" / "data" / str(entry) / "data.qpdata")
    assert len(result.annotations) == count
    assert result.warnings == ()
    assert {annotation.class_name for annotation in result.annotations} == {None}
    assert {annotation.annotation_id for annotation in result.annotations} == {None}


def read_bytes(folder: Path, content: bytes) -> ReadResult:
    path = folder / "data.qpdata"
    path.write_bytes(content)
    return read_qpdata(path)


SQUARE = [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]
BOW_TIE = [(0.0, 0.0), (10.0, 10.0), (10.0, 0.0), (0.0, 10.0)]
LOOP = [(0.0, 0.0), (10.0, 0.0), (10.0, 5.0), (2.0, 5.0), (2.0, -3.0), (8.0, -3.0), (8.0, 8.0), (0.0, 8.0)]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_versions_differ_in_where_the_id_is(tmp_path: Path, writer: QpdataWriter, version: int) -> None:
    def child() -> int:
        return writer.path_object(
            lambda w: w.corners("RectangleROI", 1, 1, 2, 2), object_id=IDS[1], version=version, locked=True
        )

    content = writer.file(
        lambda: writer.path_object(
            lambda w: w.points("PolygonROI", SQUARE),
            object_id=IDS[0],
            name="outer",
            metadata={"Reader": "A"},
            measurements={"Area": 100.0, "Odd": float("inf")},
            class_names=["Tumor", "Positive"],
            children=[child],
            version=version,
        ),
        version=version,
    )
    outer, inner = read_bytes(tmp_path, content).annotations
    assert (outer.annotation_id, inner.annotation_id, inner.parent_id) == (IDS[0], IDS[1], IDS[0])
    assert (outer.depth, inner.depth) == (0, 1)
    assert (outer.name, outer.class_name, outer.class_color) == ("outer", "Tumor: Positive", (250, 62, 62))
    assert (outer.metadata, outer.measurements) == ({"Reader": "A"}, {"Area": 100.0, "Odd": float("inf")})
    assert (outer.geometry.area, inner.geometry.area) == (100, 1)
    assert (outer.locked, inner.locked) == (False, True)


@pytest.mark.parametrize(
    ("points", "area", "why"),
    [
        (SQUARE, 100, None),
        (BOW_TIE, 50, "repaired"),
        # Overlaps itself, wound twice the same way: the non-zero rule fills the overlap.
        (LOOP, 92, "repaired"),
        ([(0, 0), (10, 0), (5, 0)], None, "no area"),
        ([(0, 0), (10, 0)], None, "no area"),
        ([], None, "no area"),
        ([(0, 0), (float("nan"), 0), (5, 5)], None, "no numbers on a slide"),
        ([(0, 0), (1e30, 0), (5, 5)], None, "no numbers on a slide"),
    ],
)
def test_polygons_that_cross_themselves_or_cover_nothing(
    tmp_path: Path, writer: QpdataWriter, points: list[tuple[float, float]], area: float | None, why: str | None
) -> None:
    content = writer.file(lambda: writer.path_object(lambda w: w.points("PolygonROI", points), name="mine"))
    result = read_bytes(tmp_path, content)
    assert [annotation.geometry.area for annotation in result.annotations] == ([] if area is None else [area])
    assert all(annotation.geometry.is_valid for annotation in result.annotations)
    if why is None:
        assert result.warnings == ()
    else:
        assert len(result.warnings) == 1
        assert why in result.warnings[0]
        assert '"mine"' in result.warnings[0]


@pytest.mark.parametrize(
    ("points", "change"),
    [
        (SQUARE, None),
        (BOW_TIE, 50),  # one half runs against the other, so that what was drawn sums up to nothing
        (LOOP, -30),  # 6 x 5 px were drawn over twice
    ],
)
def test_what_a_repair_did_to_the_area(
    tmp_path: Path, writer: QpdataWriter, points: list[tuple[float, float]], change: float | None
) -> None:
    content = writer.file(lambda: writer.path_object(lambda w: w.points("PolygonROI", points)))
    (stored,) = read_bytes(tmp_path, content).annotations
    assert stored.repaired_by_px2 == change
    geometry = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
    (exported,) = objects_of({"type": "Feature", "geometry": geometry}, "it").annotations
    assert exported.repaired_by_px2 == change


def test_children_of_what_is_left_out_are_kept(tmp_path: Path, writer: QpdataWriter) -> None:
    def rectangle(number: int, *children: int) -> Any:
        width = 0.0 if number == 1 else 1.0
        return lambda: writer.path_object(
            lambda w: w.corners("RectangleROI", 0, 0, width, 1),
            object_id=IDS[number],
            children=[rectangle(child) for child in children],
        )

    def outer() -> int:
        return writer.path_object(
            lambda w: w.points("PolygonROI", SQUARE), object_id=IDS[0], children=[rectangle(1, 2)]
        )

    result = read_bytes(tmp_path, writer.file(outer, lambda: writer.path_object(None)))
    assert [(item.annotation_id, item.parent_id) for item in result.annotations] == [(IDS[0], None), (IDS[2], IDS[0])]
    assert [item.depth for item in result.annotations] == [0, 1]
    assert len(result.warnings) == 2


def test_polylines_and_points(tmp_path: Path, writer: QpdataWriter) -> None:
    def of(shape: str, count: int) -> Any:
        return lambda: writer.path_object(lambda w: w.points(shape, SQUARE[:count]))

    result = read_bytes(tmp_path, writer.file(*(of(s, n) for s in ("PolylineROI", "PointsROI") for n in (0, 1, 2))))
    assert [item.geometry.geom_type for item in result.annotations] == ["LineString", "Point", "MultiPoint"]
    assert len(result.warnings) == 2


@pytest.mark.parametrize(
    ("geometry", "area"),
    [
        (shapely.box(0, 0, 4, 4), 16),
        (shapely.box(0, 0, 4, 4).difference(shapely.box(1, 1, 2, 2)), 15),
        (shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]), 2),
        (shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.Point(5, 5)]), 1),
        (shapely.LineString([(0, 0), (1, 1)]), 0),
        (shapely.Polygon(), None),
        (shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)]), 6),
    ],
)
@pytest.mark.parametrize("byte_order", [0, 1])
def test_binary_geometries(
    tmp_path: Path, writer: QpdataWriter, geometry: shapely.Geometry, area: float | None, byte_order: int
) -> None:
    wkb = shapely.to_wkb(geometry, byte_order=byte_order)
    result = read_bytes(tmp_path, writer.file(lambda: writer.path_object(lambda w: w.wkb(wkb))))
    assert [annotation.geometry.area for annotation in result.annotations] == ([] if area is None else [area])


@pytest.mark.parametrize(
    "wkb",
    [
        b"",
        b"\x00",
        struct.pack(">BIII", 0, 3, 1, 0xFFFFFFFF),
        struct.pack(">BI", 0, 6) + b"\xff\xff\xff\xff",
        struct.pack(">BII", 0, 7, 1) * 50_000,
        struct.pack(">BII", 0, 6, 1) * 50_000,
        struct.pack(">BI2d", 0, 1, 0, 0) + b"spare",
        struct.pack(">BI3d", 0, 1001, 0, 0, 0),
        struct.pack(">BIII6d", 0, 3, 1, 3, 0, 0, 1, 0, 1, 1),  # not closed
        struct.pack(">BII2d", 0, 4, 1, 0, 0) + b"\0",
        struct.pack(">BIII8d", 0, 3, 1, 4, 0, 0, 1, 0, 1, float("nan"), 0, 0),
    ],
)
def test_broken_binary_geometries(tmp_path: Path, writer: QpdataWriter, wkb: bytes) -> None:
    content = writer.file(lambda: writer.path_object(lambda w: w.wkb(wkb)))
    with pytest.raises(AnnotationFileError, match="a geometry"):
        read_bytes(tmp_path, content)


@pytest.mark.parametrize("name", ["AreaROI$SerializationProxy", "GeometryROI$SerializationProxy", "AWTAreaROI"])
def test_old_outlines_are_refused_by_name(tmp_path: Path, writer: QpdataWriter, name: str) -> None:
    content = writer.file(lambda: writer.path_object(lambda w: w.wkb(b"", name)))
    with pytest.raises(AnnotationFileError) as raised:
        read_bytes(tmp_path, content)
    assert name.partition("$")[0] in str(raised.value)
    assert "open and save the image in QuPath 0.3" in str(raised.value)


def test_unknown_kind_of_object_is_refused_by_name(tmp_path: Path, writer: QpdataWriter) -> None:
    content = writer.file(lambda: writer.path_object(None, kind="PathObject"))
    with pytest.raises(AnnotationFileError, match="PathObject; export"):
        read_bytes(tmp_path, content)


def test_unknown_version_is_refused(tmp_path: Path, writer: QpdataWriter) -> None:
    with pytest.raises(AnnotationFileError, match="data file version 9"):
        read_bytes(tmp_path, writer.file(version=9))


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AnnotationFileError, match="open and save the image in QuPath"):
        read_qpdata(tmp_path / "data.qpdata")
    with pytest.raises(AnnotationFileError, match="cannot be read"):
        read_qpdata(tmp_path)


def test_an_object_referred_to_again_is_read_once(tmp_path: Path, writer: QpdataWriter) -> None:
    """Each object has the one before twice as its child: without that rule, 2**40 objects."""
    handles: list[int] = []

    def level(number: int) -> Any:
        def write() -> None:
            below = [level(number - 1), lambda: writer.reference(handles[-1])] if number else []
            handles.append(writer.path_object(lambda w: w.points("PolygonROI", SQUARE), children=below))

        return write

    result = read_bytes(tmp_path, writer.file(level(40)))
    assert len(result.annotations) == 41


def test_shared_points_cannot_multiply(tmp_path: Path, writer: QpdataWriter) -> None:
    """A small file in which thousands of outlines are one and the same long array."""
    fields = [("c", "I"), ("t", "I"), ("z", "I"), ("x", "[F"), ("y", "[F")]

    def shared(w: QpdataWriter) -> None:
        w.begin(["qupath.lib.roi.PolygonROI$SerializationProxy"], 2, fields)
        w.raw(struct.pack(">iii", -1, 0, 0))
        if not handles:
            w.array("[F", 5000)
            handles.append(w.handles - 1)
            w.raw(bytes(20_000))
        else:
            w.reference(handles[0])
        w.reference(handles[0])

    handles: list[int] = []
    content = writer.file(*[lambda: writer.path_object(shared)] * 3000)
    with pytest.raises(AnnotationFileError, match="share more"):
        read_bytes(tmp_path, content)


def test_outlines_that_share_their_points_take_no_memory_for_each(tmp_path: Path, writer: QpdataWriter) -> None:
    """Each outline is 30 bytes that stand for 20,000 numbers: 800 MB if every one got its own."""
    shared: list[int] = []

    def outline(w: QpdataWriter) -> None:
        fields = [("c", "I"), ("t", "I"), ("z", "I"), ("x", "[F"), ("y", "[F")]
        w.begin(["qupath.lib.roi.PolygonROI$SerializationProxy"], 2, fields)
        w.raw(struct.pack(">iii", -1, 0, 0))
        if not shared:
            w.array("[F", 10_000)
            shared.append(w.handles - 1)
            w.raw(struct.pack(">10000f", *range(10_000)))
        else:
            w.reference(shared[0])
        w.reference(shared[0])

    content = writer.file(*[lambda: writer.path_object(outline)] * 5_000)
    tracemalloc.start()
    try:
        with pytest.raises(AnnotationFileError, match="share more"):
            read_bytes(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_truncation_anywhere_is_an_error(data: Path, tmp_path: Path) -> None:
    content = (data / "project" / "data" / "1" / "data.qpdata").read_bytes()
    for length in range(0, len(content), 97):
        with pytest.raises(AnnotationFileError, match="truncated") as raised:
            read_bytes(tmp_path, content[:length])
        assert "\n" not in str(raised.value)


def test_backup_beside_a_damaged_file_is_offered(tmp_path: Path) -> None:
    with pytest.raises(AnnotationFileError, match="restore a copy"):
        read_bytes(tmp_path, b"")
    (tmp_path / "data.qpdata.bkp").touch()
    with pytest.raises(AnnotationFileError, match=r"copy its backup \"data\.qpdata\.bkp\" over it"):
        read_bytes(tmp_path, b"")


def mutate(content: bytes, seed: int) -> bytes:
    """Flip, insert, delete or copy a few bytes."""
    rng = random.Random(seed)
    mutated = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(mutated))
        choice = rng.randrange(5)
        if choice == 0:
            mutated[place] ^= 1 << rng.randrange(8)
        elif choice == 1:
            mutated[place] = rng.choice([0x00, 0x70, 0x71, 0x73, 0x77, 0x78, 0x79, 0x7F, 0xFF])
        elif choice == 2:
            del mutated[place : place + rng.randint(1, 8)]
        elif choice == 3:
            mutated[place:place] = rng.randbytes(rng.randint(1, 8))
        else:
            source = rng.randrange(len(mutated))
            mutated[place : place + 8] = mutated[source : source + 8]
    return bytes(mutated)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=0), entry=st.sampled_from(["1", "2"]))
def test_damage_raises_nothing_but_our_errors(data: Path, tmp_path: Path, seed: int, entry: str) -> None:
    content = (data / "project" / "data" / entry / "data.qpdata").read_bytes()
    try:
        result = read_bytes(tmp_path, mutate(content, seed))
    except DmmnQpError as error:
        assert "\n" not in str(error)
    else:
        assert all(item.geometry.is_valid for item in result.annotations if item.is_area)


def test_polygons_built_at_once_are_those_built_one_by_one(
    tmp_path: Path, writer: QpdataWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlines: list[list[tuple[float, float]]] = [
        SQUARE,
        [(0, 0), (10, 10), (10, 0), (0, 10)],  # crosses itself
        [(0, 0), (float("nan"), 1), (1, 1)],
        [(0, 0), (1, 1)],
        [(0, 0), (1, 1), (0, 0)],
        [*SQUARE, SQUARE[0]],
        [(1e30, 0), (1e30, 9), (0, 9)],
        [(3, 3), (9.25, 3), (3, 9)],
    ]

    def child(points: list[tuple[float, float]]) -> object:
        return writer.path_object(lambda w: w.points("PolygonROI", points))

    content = writer.file(*(lambda points=points: child(points) for points in outlines))
    at_once = read_bytes(tmp_path, content)
    monkeypatch.setattr("dmmn_qp.qupath.qpdata._Reader.build_polygons", lambda self, hierarchy: None)
    assert read_bytes(tmp_path, content) == at_once
    assert [a.geometry.area for a in at_once.annotations] == [100, 50, 100, 18.75]
    assert len(at_once.warnings) == 3
