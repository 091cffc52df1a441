"""GeoJSON of all versions read, written as every version reads it, and the round trip between the two."""

from __future__ import annotations

import gzip
import io
import json
import math
import random
import unicodedata
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import geojson
import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.errors import AnnotationFileError, DmmnQpError
from dmmn_qp.files import final_name
from dmmn_qp.qupath import geojson_reader as reader_module
from dmmn_qp.qupath import packed_json
from dmmn_qp.qupath.classes import default_color
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.geojson_writer import WriteResult, write_geojson
from dmmn_qp.qupath.qpdata import read_qpdata

ID = UUID("8a0c1b4e-1111-4222-8333-444455556666")
SQUARE = shapely.box(0, 0, 100, 100)


def read_text(folder: Path, content: object) -> Any:
    path = folder / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return read_geojson(path)


def feature(properties: object = None, **others: Any) -> dict[str, Any]:
    ring = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties or {}, **others}


# ---- reading what QuPath wrote


@pytest.mark.parametrize("image", ["he_1", "he_2_pyramid"])
@pytest.mark.parametrize("ending", ["all_fc.geojson", "all_fc.geojson.gz", "all_fc.zip", "fc_children.json"])
def test_exports_agree_with_the_object_data(data: Path, image: str, ending: str) -> None:
    entry = {"he_1": "1", "he_2_pyramid": "2"}[image]
    stored = {item.annotation_id: item for item in read_qpdata(data / f"project/data/{entry}/data.qpdata").annotations}
    result = read_geojson(data / "geojson" / f"{image}_{ending}")
    assert result.warnings == ()
    # The nested export lacks the cores of a tissue microarray.
    assert len(result.annotations) == len(stored) or ending == "fc_children.json"
    for exported in result.annotations:
        original = stored[exported.annotation_id]
        assert exported.geometry.geom_type == original.geometry.geom_type
        assert exported.geometry.symmetric_difference(original.geometry).area <= 0.002 * original.geometry.area
        for name in ("class_name", "class_color", "kind", "name", "locked", "color", "plane", "is_ellipse"):
            assert getattr(exported, name) == getattr(original, name), name
        assert dict(exported.measurements) == pytest.approx(dict(original.measurements), nan_ok=True)
        assert exported.metadata == original.metadata
        assert (exported.nucleus is None) == (original.nucleus is None)
        assert exported.parent_id == (original.parent_id if ending == "fc_children.json" else None)


def test_single_feature_and_hierarchy_dump(data: Path) -> None:
    assert len(read_geojson(data / "geojson" / "he_1_one_notcollection.geojson").annotations) == 1
    with pytest.raises(AnnotationFileError, match="no GeoJSON that QuPath imports"):
        read_geojson(data / "geojson" / "he_1_hierarchy.json")


VERSIONS = ["0.3.2", "0.4.4", "0.5.1", "0.6.0", "0.7.0"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["", "_array", "_pretty"])
def test_all_versions_hold_the_same_objects(data: Path, version: str, form: str) -> None:
    path = data / "geojson_by_version" / f"he_1_v{version}{form}.geojson"
    if not path.is_file():
        pytest.skip(f"no sample {path.name}")
    result = read_geojson(path)
    newest = read_geojson(data / "geojson" / "he_1_all_fc.geojson")
    assert result.warnings == ()
    assert len(result.annotations) == len(newest.annotations)
    for old, new in zip(result.annotations, newest.annotations, strict=True):
        assert (old.kind, old.class_name, old.class_color) == (new.kind, new.class_name, new.class_color)
        assert (old.name, old.locked, old.color) == (new.name, new.locked, new.color)
        assert old.geometry.symmetric_difference(new.geometry).area <= 0.002 * new.geometry.area
        assert old.annotation_id == (None if version == "0.3.2" else new.annotation_id)


def test_version_0_2(data: Path) -> None:
    for name in ("v0.2.3_array.geojson", "v0.2.3_array_pretty.geojson"):
        result = read_geojson(data / "geojson_by_version" / name)
        assert result.warnings == ()
        assert result.annotations[0].class_name == "Tumor"
        assert result.annotations[0].locked
        assert result.annotations[0].measurements == {"Area µm^2": 1234.5}


def test_demo_exports_agree_with_the_project(demo: Path) -> None:
    for entry, name in enumerate(("train-1", "train-2", "val-1", "test-1"), start=1):
        stored = read_qpdata(demo / "data" / str(entry) / "data.qpdata").annotations
        exported = read_geojson(demo / "annotations" / f"{name}.geojson").annotations
        key = {item.annotation_id: (item.class_name, round(item.geometry.area)) for item in stored}
        assert key == {item.annotation_id: (item.class_name, round(item.geometry.area)) for item in exported}


def test_public_export(shared: Path) -> None:
    result = read_geojson(shared / "qupath05_dlup.geojson")
    assert result.annotations
    assert {item.class_name for item in result.annotations} == {None}


# ---- reading what others wrote


@pytest.mark.parametrize(
    ("classification", "name", "color", "warns"),
    [
        ({"name": "Tumor", "color": [1, 2, 3]}, "Tumor", (1, 2, 3), False),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor", (200, 0, 0), False),
        ({"name": "Tumor", "color": [1, 2, 3], "colorRGB": -3670016}, "Tumor", (200, 0, 0), False),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3), False),
        ({"name": "Tumor:Positive", "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3), False),
        ({"parentClass": {"name": "Tumor"}, "name": "Positive", "colorRGB": -1}, "Tumor: Positive", (255,) * 3, False),
        ({"name": "  Two  words ", "color": None}, "Two  words", None, False),
        ("Tumor: Positive", "Tumor: Positive", None, False),
        (None, None, None, False),
        ({}, None, None, False),
        ({"name": "Tumor"}, "Tumor", None, True),
        ({"name": "Tumor", "color": "#c80000"}, "Tumor", (200, 0, 0), True),
        ({"name": "Tumor", "color": -3670016}, "Tumor", (200, 0, 0), True),
        ({"name": "Tumor", "color": [300, -5, 0]}, "Tumor", None, True),
        ({"name": "a::b", "color": []}, "a: b", None, True),
        ({"name": "a\nb", "color": []}, "a b", None, True),
        ({"names": ["a", 1], "color": []}, None, None, True),
        ('{"name": "Tumor", "color": [1, 2, 3]}', "Tumor", (1, 2, 3), True),
        ("{brace", "{brace", None, False),
        (["Tumor"], None, None, True),
        ("Unclassified", None, None, True),
    ],
)
def test_classifications(
    tmp_path: Path, classification: object, name: str | None, color: tuple[int, ...] | None, warns: bool
) -> None:
    result = read_text(tmp_path, feature({"classification": classification}))
    (annotation,) = result.annotations
    assert (annotation.class_name, annotation.class_color) == (name, color)
    assert bool(result.warnings) == warns


def test_values_of_one_feature(tmp_path: Path) -> None:
    properties = {
        "objectType": "detection",
        "name": 5,
        "color": [1, 2, 3],
        "isLocked": True,
        "measurements": [{"name": "a", "value": "NaN"}, {"name": "b", "value": 2}],
        "metadata": {"k": "v", "n": 3, "o": {"x": 1}, "none": None},
    }
    geometry = {"type": "Point", "coordinates": [1, 2, 3], "plane": {"z": 3}}
    (annotation,) = read_text(tmp_path, feature(properties, id=str(ID), geometry=geometry)).annotations
    assert annotation.kind == "detection"
    assert (annotation.name, annotation.color, annotation.locked) == ("5", (1, 2, 3), True)
    assert math.isnan(annotation.measurements["a"])
    assert annotation.measurements["b"] == 2
    assert annotation.metadata == {"k": "v", "n": "3", "o": '{"x":1}'}
    assert annotation.plane == Plane(c=-1, z=3, t=0)
    assert annotation.annotation_id == ID
    assert annotation.geometry.equals(shapely.Point(1, 2))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (str(ID), ID),
        ("1-2-3-4-5", UUID("00000001-0002-0003-0004-000000000005")),
        (ID.hex, None),
        ("tile_17", None),
        (17, None),
    ],
)
def test_ids(tmp_path: Path, written: object, read: UUID | None) -> None:
    assert read_text(tmp_path, feature(id=written)).annotations[0].annotation_id == read


def test_children_know_their_nearest_parent_with_an_id(tmp_path: Path) -> None:
    leaf = feature({"name": "leaf"})
    lost = feature({"childObjects": [leaf]}, geometry=None)
    result = read_text(tmp_path, feature({"childObjects": [lost]}, id=str(ID)))
    assert [item.parent_id for item in result.annotations] == [None, ID]
    assert result.annotations[1].name == "leaf"


def test_polygon_flagged_as_ellipse_becomes_one_unless_it_is_one(tmp_path: Path) -> None:
    diamond = {"type": "Polygon", "coordinates": [[[50, 0], [100, 50], [50, 100], [0, 50]]], "isEllipse": True}
    (annotation,) = read_text(tmp_path, feature(geometry=diamond)).annotations
    assert annotation.is_ellipse
    assert annotation.geometry.area == pytest.approx(math.pi * 50**2, rel=1e-3)
    assert annotation.geometry.bounds == (0, 0, 100, 100)


def test_holes_are_cut_out_of_their_own_outline_only(tmp_path: Path) -> None:
    def ring(x: float, y: float, size: float) -> list[list[float]]:
        return [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]

    for holes, area in (([ring(10, 10, 10)], 9900), ([ring(200, 0, 10)], 10000), ([ring(95, 95, 10)], 9975)):
        geometry = {"type": "Polygon", "coordinates": [ring(0, 0, 100), *holes]}
        assert read_text(tmp_path, feature(geometry=geometry)).annotations[0].geometry.area == area


def test_one_bad_feature_loses_only_itself(tmp_path: Path) -> None:
    features = [feature(), feature(geometry={"type": "Circle"}), 7, feature(), feature(geometry={"type": "Circle"})]
    result = read_text(tmp_path, {"type": "FeatureCollection", "features": features})
    assert len(result.annotations) == 2
    assert result.warnings[0] == "geometry of an unknown type, left out: feature 2 and 1 more"
    assert len(result.warnings) == 2


@pytest.mark.parametrize("content", ["7", '"text"', "null", "true", '{"root": {}}', "{", "[1,", "\0", "{'a': 'b}"])
def test_what_is_no_geojson_at_all(tmp_path: Path, content: str) -> None:
    with pytest.raises(AnnotationFileError, match="FeatureCollection"):
        read_text(tmp_path, content)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationFileError, match="export it from QuPath"):
        read_geojson(tmp_path / "none.geojson")


@pytest.mark.parametrize("hostile", ['"\\' * 200_000, "/*" * 200_000, "'\\" * 200_000, "'" * 200_001, "#" * 400_000])
def test_leniency_costs_linear_time(tmp_path: Path, hostile: str) -> None:
    with pytest.raises(AnnotationFileError):
        read_text(tmp_path, "[" + hostile)


def test_nesting_is_bounded(tmp_path: Path) -> None:
    nested: Any = 0
    for _ in range(500):
        nested = [nested]
    properties = {"metadata": {"x": nested}, "isLocked": nested, "name": nested, "classification": nested}
    assert len(read_text(tmp_path, feature(properties)).annotations) == 1
    for content in ("[" * 100_000, "[" * 1000 + "NaN" + "]" * 1000, '{"features":' * 5000 + "1" + "}" * 5000):
        with pytest.raises(AnnotationFileError):
            read_text(tmp_path, content)
    collection: Any = {"type": "Point", "coordinates": [0, 0]}
    for _ in range(400):
        collection = {"type": "GeometryCollection", "geometries": [collection]}
    assert len(read_text(tmp_path, collection).annotations) == 1


# ---- packed files


def test_bombs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.geojson.gz"
    path.write_bytes(gzip.compress(b" " * (packed_json.MAX_RATIO * 2**18), 9))
    with pytest.raises(AnnotationFileError, match="unpacks to more than 16 MiB"):
        read_geojson(path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.geojson", b" " * 2**23)
    path = tmp_path / "bomb.zip"
    path.write_bytes(content.getvalue())
    with pytest.raises(AnnotationFileError, match="unpacks to more than 16 MiB"):
        read_geojson(path)


def test_a_damaged_file_in_an_archive_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    for contents, count in ((["{", json.dumps(feature())], 1), (["{"], None)):
        with zipfile.ZipFile(path, "w") as archive:
            for number, text in enumerate(contents):
                archive.writestr(f"folder/{number}.geojson", text)
        if count is None:
            with pytest.raises(AnnotationFileError, match="truncated"):
                read_geojson(path)
        else:
            result = read_geojson(path)
            assert len(result.annotations) == count
            assert "damaged file in the archive" in result.warnings[0]


@pytest.mark.parametrize("name", ["he_1_all_fc.geojson", "he_1_all_fc.geojson.gz", "he_1_all_fc.zip"])
def test_truncation_anywhere_is_an_error(data: Path, tmp_path: Path, name: str) -> None:
    content = (data / "geojson" / name).read_bytes().rstrip()
    path = tmp_path / name
    for length in range(97, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(AnnotationFileError) as raised:
            read_geojson(path)
        assert "\n" not in str(raised.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(min_value=0),
    name=st.sampled_from(["he_1_all_fc.geojson", "he_1_all_fc.geojson.gz", "he_1_all_fc.zip"]),
)
def test_damage_raises_nothing_but_our_errors(data: Path, tmp_path: Path, seed: int, name: str) -> None:
    rng = random.Random(seed)
    content = bytearray((data / "geojson" / name).read_bytes())
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(content))
        source = rng.randrange(len(content))
        size = rng.choice([1, 1, 2, 8, 64])
        choice = rng.randrange(4)
        if choice == 0:
            content[place] ^= 1 << rng.randrange(8)
        elif choice == 1:
            content[place] = rng.choice(b'0"{}[],:-eN\\/\0')
        elif choice == 2:
            del content[place : place + size]
        else:
            content[place : place + size] = content[source : source + size]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        result = read_geojson(path)
    except DmmnQpError as error:
        assert "\n" not in str(error)
    else:
        assert all(item.geometry.is_valid for item in result.annotations if item.is_area)
        write_geojson(tmp_path / "again.geojson", result.annotations)


KEYS = """
    type coordinates geometry geometries properties id features childObjects classification name names color colorRGB
    parentClass measurements metadata plane isEllipse objectType c z t value
"""
TYPES = "Feature FeatureCollection Polygon MultiPolygon Point LineString GeometryCollection"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(KEYS.split()),
                inner | st.sampled_from(TYPES.split()),
                max_size=6,
            )
        ),
        max_leaves=40,
    )
)
def test_any_json_raises_nothing_but_our_errors(tmp_path: Path, content: object) -> None:
    for value in (
        content,
        feature(content),
        feature(geometry=content),
        {"type": "FeatureCollection", "features": content},
    ):
        try:
            result = read_text(tmp_path, value)
        except DmmnQpError:
            continue
        write_geojson(tmp_path / "again.geojson", result.annotations)


# ---- writing


def written_features(path: Path, *annotations: Annotation, **options: Any) -> list[dict[str, Any]]:
    write_geojson(path, annotations, **options)
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    assert "null" not in text
    collection = geojson.loads(text)
    assert collection.is_valid, collection.errors()
    assert set(collection) == {"type", "features"}
    return list(collection["features"])


def test_written_by_the_rules_that_every_version_reads(tmp_path: Path) -> None:
    (bare, full) = written_features(
        tmp_path / "a.geojson",
        Annotation(SQUARE),
        Annotation(
            SQUARE.difference(shapely.box(10, 10, 20, 20)),
            class_name="Tumor: Positive",
            annotation_id=ID,
            kind="tma_core",
            name="A-1",
            locked=True,
            color=(1, 2, 3),
            measurements={"finite": 1.5, "nan": math.nan, "infinite": math.inf},
            metadata={"ANNOTATION_DESCRIPTION": "two\nlines"},
            plane=Plane(c=-1, z=2, t=0),
        ),
    )
    assert bare["properties"] == {"objectType": "annotation"}
    assert set(bare) == {"type", "geometry", "properties"}
    assert set(bare["geometry"]) == {"type", "coordinates"}
    assert full["id"] == str(ID)
    assert full["properties"] == {
        "objectType": "tmaCore",
        "name": "A-1",
        "color": [1, 2, 3],
        "classification": {"names": ["Tumor", "Positive"], "color": [250, 62, 62]},
        "isLocked": True,
        "measurements": {"finite": 1.5},
        "metadata": {"ANNOTATION_DESCRIPTION": "two\nlines"},
    }
    assert full["geometry"]["plane"] == {"c": -1, "z": 2, "t": 0}
    assert len(full["geometry"]["coordinates"]) == 2


def test_whose_class_colour_wins(tmp_path: Path) -> None:
    own = Annotation(SQUARE, class_name="own", class_color=(1, 1, 1))
    features = written_features(
        tmp_path / "a.geojson",
        own,
        Annotation(SQUARE, class_name="given"),
        Annotation(SQUARE, class_name="neither"),
        class_colors={"own": (2, 2, 2), "given": (2, 2, 2)},
    )
    colors = [tuple(item["properties"]["classification"]["color"]) for item in features]
    assert colors == [(1, 1, 1), (2, 2, 2), default_color("neither")]


@pytest.mark.parametrize(
    ("geometry", "kind", "parts"),
    [
        (shapely.MultiPolygon([SQUARE]), "Polygon", 1),
        (shapely.MultiPolygon([SQUARE, shapely.box(200, 0, 300, 1)]), "MultiPolygon", 2),
        (shapely.MultiPolygon([SQUARE, shapely.box(100, 0, 200, 100)]), "Polygon", 1),  # they share an edge
        (shapely.MultiPolygon([SQUARE, shapely.box(200, 0, 200.001, 1)]), "Polygon", 1),  # one vanishes
        (shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)]), "MultiPolygon", 2),
        # A neck thinner than the grid: the rounded outline would touch itself.
        (
            shapely.union_all([shapely.box(0, 0, 10, 10), shapely.box(10, 5, 20, 5.002), shapely.box(20, 0, 30, 10)]),
            "MultiPolygon",
            2,
        ),
        (shapely.GeometryCollection([SQUARE, shapely.Point(0, 0)]), "Polygon", 1),
        (shapely.MultiPoint([(1, 1)]), "Point", 2),
        (shapely.MultiLineString([[(0, 0), (1, 1)], [(2, 2), (3, 3)]]), "MultiLineString", 2),
        (shapely.LineString([(0, 0), (1, 1)]), "LineString", 2),
    ],
)
def test_geometries_are_valid_after_rounding(tmp_path: Path, geometry: shapely.Geometry, kind: str, parts: int) -> None:
    (item,) = written_features(tmp_path / "a.geojson", Annotation(geometry))
    assert item["geometry"]["type"] == kind
    assert len(item["geometry"]["coordinates"]) == parts
    assert shapely.geometry.shape(item["geometry"]).is_valid


def test_what_vanishes_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    slivers = [Annotation(shapely.box(0, 0, 0.001, 1)), Annotation(shapely.Polygon()), Annotation(SQUARE)]
    assert write_geojson(path, slivers) == WriteResult(written=1, dropped=2)
    assert write_geojson(path, []) == WriteResult(written=0, dropped=0)
    assert read_geojson(path).annotations == ()


def test_packed_by_name_and_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    annotations = [Annotation(SQUARE, class_name="Tumor")] * 3
    assert len(written_features(path, *annotations)) == 3
    first = path.read_bytes()
    write_geojson(path, annotations)
    assert path.read_bytes() == first


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text("old", encoding="utf-8")

    def failing() -> Any:
        yield Annotation(SQUARE)
        (half,) = [item.name for item in tmp_path.iterdir() if item != path]
        assert final_name(half) == "a.geojson", "so that it is removed even where the command is killed"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_geojson(path, failing())
    assert [item.name for item in tmp_path.iterdir()] == ["a.geojson"]
    assert path.read_text(encoding="utf-8") == "old"


# ---- round trip


def same(left: Annotation, right: Annotation) -> None:
    """Both are equal, coordinates to the grid."""
    for name in (
        "class_name",
        "class_color",
        "annotation_id",
        "kind",
        "name",
        "locked",
        "color",
        "plane",
        "is_ellipse",
    ):
        assert getattr(left, name) == getattr(right, name), name
    assert dict(left.measurements) == dict(right.measurements)
    assert dict(left.metadata) == dict(right.metadata)
    for ours, theirs in ((left.geometry, right.geometry), (left.nucleus, right.nucleus)):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.geom_type == theirs.geom_type
            on_grid = shapely.transform(ours, lambda xy: np.round(xy, 8))  # GEOS overlays fail at 1e-16
            assert on_grid.symmetric_difference(theirs).area <= 0.01 * (ours.length + 1)
            assert ours.hausdorff_distance(theirs) < 0.02


names = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters=":"), min_size=1, max_size=8)
colors = st.tuples(*[st.integers(0, 255)] * 3)


def as_read(parts: list[str]) -> str:
    """A class of so many parts, its characters composed as they are in every class that is read."""
    return unicodedata.normalize("NFC", ": ".join(parts))


on_slide = st.integers(-10_000, 10_000_000).map(lambda hundredths: hundredths / 100)


@st.composite
def areas(draw: st.DrawFn) -> shapely.Geometry:
    """A star, perhaps with a hole, perhaps two; valid by construction."""
    x, y = draw(on_slide), draw(on_slide)
    radii = draw(st.lists(st.floats(1, 1000), min_size=3, max_size=12))
    turns = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    star = shapely.Polygon(np.column_stack([x + radii * np.cos(turns), y + radii * np.sin(turns)]))
    if draw(st.booleans()):
        star = star.difference(star.buffer(-0.3 * min(radii)))
    if draw(st.booleans()):
        star = shapely.MultiPolygon([*shapely.get_parts(star), shapely.box(x + 2000, y, x + 2010, y + 10)])
    return star


@st.composite
def drawn(draw: st.DrawFn) -> Annotation:
    line = st.lists(st.tuples(on_slide, on_slide), min_size=2, max_size=6, unique=True).map(shapely.LineString)
    kind = draw(st.sampled_from(["annotation", "detection", "tile", "cell", "tma_core"]))
    class_name = draw(st.none() | st.lists(names, min_size=1, max_size=3).map(as_read))
    return Annotation(
        geometry=draw(areas() | line | st.tuples(on_slide, on_slide).map(shapely.Point)),
        class_name=None if class_name == "Unclassified" else class_name,
        class_color=None if class_name is None else draw(colors),
        annotation_id=draw(st.none() | st.uuids()),
        kind=kind,
        name=draw(st.none() | names),
        locked=draw(st.booleans()),
        color=draw(st.none() | colors),
        measurements=draw(st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3)),
        metadata=draw(st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), max_size=3)),
        plane=Plane(draw(st.integers(-1, 3)), draw(st.integers(0, 9)), draw(st.integers(0, 9))),
        nucleus=draw(st.none() | areas()) if kind == "cell" else None,
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(drawn(), max_size=4))
def test_round_trip(tmp_path: Path, annotations: list[Annotation]) -> None:
    path = tmp_path / "a.geojson"
    assert write_geojson(path, annotations) == WriteResult(len(annotations), 0)
    once = read_geojson(path)
    assert once.warnings == ()
    for ours, theirs in zip(annotations, once.annotations, strict=True):
        same(ours, theirs)
    first = path.read_bytes()
    write_geojson(path, once.annotations)
    assert path.read_bytes() == first


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3)), min_size=3, max_size=30))
@example([(0.75, 1), (0, 4.2e-167), (2, 1), (0, 1), (0, 2), (3.8e-95, 0), (1, 2), (1, 0), (1.1e-224, 0), (2, 2)])
def test_any_scribble_is_written_valid(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "scribble.geojson"
    result = write_geojson(path, [Annotation(shapely.Polygon(points))])
    again = read_geojson(path)
    assert again.warnings == ()
    assert len(again.annotations) == result.written == 1 - result.dropped


def test_round_trip_of_real_objects(data: Path, tmp_path: Path) -> None:
    for entry in ("1", "2"):
        stored = read_qpdata(data / "project" / "data" / entry / "data.qpdata").annotations
        write_geojson(tmp_path / "a.geojson.gz", stored)
        for ours, theirs in zip(stored, read_geojson(tmp_path / "a.geojson.gz").annotations, strict=True):
            finite = {name: value for name, value in ours.measurements.items() if math.isfinite(value)}
            assert theirs.measurements == finite
            assert (ours.class_name, ours.kind, ours.plane) == (theirs.class_name, theirs.kind, theirs.plane)
            assert ours.is_ellipse == theirs.is_ellipse
            assert ours.geometry.hausdorff_distance(theirs.geometry) < 0.02


# ---- large files, feature by feature


@pytest.fixture
def as_large(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every file counts as large, in chunks of a few bytes; says of each whether it was read feature by feature."""
    monkeypatch.setattr(reader_module, "LARGE_BYTES", 1)
    monkeypatch.setattr(packed_json, "_CHUNK_BYTES", 61)
    streamed: list[bool] = []
    read_large = reader_module._Reader.read_large

    def noting(self: Any, stream: Any) -> bool:
        streamed.append(read_large(self, stream))
        return streamed[-1]

    monkeypatch.setattr(reader_module._Reader, "read_large", noting)
    return streamed


def outcome(path: Path) -> str:
    """All that reading a file gives; as text, for NaN equals nothing."""
    try:
        return repr(read_geojson(path))
    except AnnotationFileError as error:
        return str(error)


def test_large_files_are_read_as_small_ones(data: Path, as_large: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [path for folder in ("probe", "geojson", "geojson_by_version") for path in (data / folder).iterdir()]
    in_parts = {path: outcome(path) for path in paths}
    assert sum(as_large) > 200 and as_large.count(False) > 10
    monkeypatch.setattr(reader_module, "LARGE_BYTES", 2**26)
    for path, read in in_parts.items():
        assert read == outcome(path), path.name


COLLECTION = '{"type": "FeatureCollection", "features": %s}'
ONE = json.dumps(feature({"name": 'a "quoted" \\ {[ name'}))


@pytest.mark.parametrize(
    ("text", "streamed"),
    [
        (COLLECTION % f"[{ONE}, {ONE}]", True),
        (f" \n[{ONE}, [{ONE}], 7]", True),
        (f'{{"features": [{ONE}], "bbox": [0, {{"features": [1]}}], "type": "FeatureCollection"}}', True),
        (f'\ufeff{{"name": "]}}\\"", "type": "FeatureCollection", "features": [{ONE}]}}', True),
        (f'{{"type": "FeatureCollection", "features": [{ONE}, {ONE}], "features": [{ONE}]}}', False),
        (f'{{"features": [{ONE}]}}', False),
        (f'{{"type": "FeatureCollection", "features": [{ONE}], "type": "Feature"}}', False),
        (COLLECTION % ONE, False),
        (COLLECTION % "{}", False),
        (COLLECTION % f"[{ONE}, /* no more */]", False),
        (COLLECTION % f"[{ONE}, NaN]", False),
        (COLLECTION % f"[{ONE}]" + "x", False),
        (COLLECTION % f"[{ONE}]" + COLLECTION % f"[{ONE}]", False),
        (ONE, False),
        ("7" * 300, False),
        ("7 ", False),
        ('"text"', False),
        ("null", False),
        (" " * 70 + f"[{ONE}]", False),
        ("\\ \\", False),
        (COLLECTION % ("[" * 990 + "]" * 990), True),
        (COLLECTION % ("[" * 1010 + "]" * 1010), False),
    ],
)
def test_only_strict_lists_of_features_are_read_in_parts(
    tmp_path: Path, as_large: list[bool], monkeypatch: pytest.MonkeyPatch, text: str, streamed: bool
) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text, encoding="utf-8")
    in_parts = outcome(path)
    assert as_large == [streamed]
    monkeypatch.setattr(reader_module, "LARGE_BYTES", 2**26)
    assert in_parts == outcome(path)


def test_long_words_are_not_read_in_parts(
    tmp_path: Path, as_large: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser's time would grow with the square of their length."""
    monkeypatch.setattr(packed_json, "_MAX_WORD_BYTES", 1000)
    path = tmp_path / "a.geojson"
    for text in ('["%s"]' % (900 * ","), '["%s"]' % (1100 * ","), f"[{'1' * 1100}]", '{"x": "%s"}' % (1100 * "[")):
        path.write_text(text)
        outcome(path)
    assert as_large == [True, False, False, False]


def test_packed_text_in_parts(tmp_path: Path, as_large: list[bool]) -> None:
    content = (COLLECTION % f"[{ONE}, {ONE}]").encode()
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.geojson", content)
        archive.writestr("2.geojson", content[:-9])
        archive.writestr("3.geojson", content)
    assert len(read_geojson(tmp_path / "a.geojson.gz").annotations) == 2
    result = read_geojson(tmp_path / "b.zip")
    assert len(result.annotations) == 4 and "2.geojson is truncated" in result.warnings[0]
    assert as_large == [True, True, False, True]
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(content)[:-12])
    with pytest.raises(AnnotationFileError, match="truncated, damaged"):
        read_geojson(tmp_path / "a.geojson.gz")


def test_text_too_large_to_be_parsed_at_once(
    tmp_path: Path, as_large: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_module, "MAX_TEXT_BYTES", 1000)
    assert len(read_text(tmp_path, COLLECTION % f"[{', '.join([ONE] * 20)}]").annotations) == 20
    with pytest.raises(AnnotationFileError, match="no strict JSON"):
        read_text(tmp_path, COLLECTION % f"[{', '.join([ONE] * 20)}, // no more\n]")
    assert as_large == [True, False]
