"""`cohort --project` and `--geoparquet`: areas in what is drawn, by hand, and polygons that geopandas reads back."""

import csv
import json

import numpy as np
import pytest
import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.collecting import geoparquet, objects, stage
from dmmn_qp.collecting.objects import count_in
from dmmn_qp.folders.predictions import Prediction
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import AREA_UM2, METADATA_KEY, marked_id
from dmmn_qp.vectors.sources import ArrayLabels
from tests.conftest import fails, invoke
from tests.projects import make_project, make_slide
from tests.qupath.conftest import QpdataWriter
from tests.test_cohort import predicted, some_labels


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("tile", [3, 2048])
def test_areas_in_an_object_by_hand(tile, monkeypatch):
    """Columns 0 to 3 are 1, others 2; an object of 4 x 4 px at (2, 1), and one with a hole that leaves the raster."""
    monkeypatch.setattr(objects, "_TILE", tile)
    labels = np.full((8, 10), 2, np.uint8)
    labels[:, :4] = 1
    raster = ArrayLabels(labels)
    counts = count_in(raster, Annotation(shapely.box(4, 2, 12, 10)), 2.0)
    assert counts[:3].tolist() == [0, 8, 8] and counts.sum() == 16
    ring = shapely.box(-6, -6, 8, 8) - shapely.box(0, 0, 4, 4)
    assert count_in(raster, Annotation(ring), 2.0)[:3].tolist() == [0, 16 - 4, 0]
    assert count_in(raster, Annotation(shapely.box(100, 100, 110, 110)), 2.0).sum() == 0


def drawn_objects():
    """A drawn annotation, a core with whose it is, a pushed prediction, and a line."""
    writer = QpdataWriter()

    def box(left, top, right, bottom):
        return lambda w: w.points("PolygonROI", [(left, top), (right, top), (right, bottom), (left, bottom)])

    def add(outline, **told):
        return lambda: writer.path_object(outline, **told)

    return writer.file(
        add(box(0, 0, 80, 80), name="left", class_names=("Region*",)),
        add(box(40, 0, 80, 80), kind="TMACoreObject", name="A-1", metadata={"Case ID": "P7"}, missing=True),
        add(box(0, 0, 80, 80), class_names=("tumour",), metadata={METADATA_KEY: "m"}),
        add(lambda w: w.points("PolylineROI", [(0, 0), (9, 9)])),
    )


@pytest.fixture
def place(here):
    """Predictions at 2 um/px of a slide of 0.5 um/px, and a project with it and with another slide."""
    predicted(here / "predictions", "c1", some_labels())
    run = json.loads((here / "predictions/run.json").read_text())
    run["inputs"] = {}
    (here / "predictions/run.json").write_text(json.dumps(run))
    slides = [make_slide(here / f"slides/{name}.tif") for name in ("c1", "other")]
    make_project(here / "qp", {slides[0]: [("x", (0, 0, 1, 1))], slides[1]: []})
    (here / "qp/data/1/data.qpdata").write_bytes(drawn_objects())
    ours = Annotation(shapely.box(0, 0, 40, 80), "tumour", (200, 0, 0), marked_id("x"), measurements={AREA_UM2: 800.0})
    two = shapely.MultiPolygon([shapely.box(44, 0, 48, 4), shapely.box(60, 0, 70, 10)])
    theirs = Annotation(shapely.Point(3, 4), "stroma")
    drawn = [ours, theirs, Annotation(two, "stroma", (0, 200, 0), marked_id("y"))]
    write_geojson(here / "predictions/c1.geojson", drawn)
    return here


def test_a_row_for_each_object_and_class(place):
    """Raster px are 4 x 4 of the slide: both hold columns 10 to 19 of 20 px, the left one 0 to 9 as well."""
    result = invoke("cohort", "--project", "qp", "--ratio", "tumour/stroma")
    assert result.exit_code == 0 and "2 annotations and TMA cores" in result.output
    found = rows(place / "cohort/objects.csv")
    assert [(r["kind"], r["name"], r["object_class"], r["object_case"], r["missing"]) for r in found[::3]] == [
        ("annotation", "left", "Region*", "", ""),
        ("TMA core", "A-1", "", "P7", "yes"),
    ]
    assert [r["class"] for r in found] == ["tumour", "stroma", "background"] * 2
    assert [float(r["area_mm2"]) for r in found] == [pytest.approx(n * 4e-6) for n in (40, 260, 100, 40, 160, 0)]
    assert [r["tumour/stroma"] for r in found[::3]] == ["0.153846", "0.25"]
    assert found[3]["percent_of_tissue"] == "20.0"
    assert invoke("cohort", "--overwrite").exit_code == 0
    assert not [*(place / "cohort").glob("objects.*")]


def test_where_the_raster_lies_is_told_by_run_json_or_by_the_size_of_the_image(place):
    project, record, areas = place / "qp/project.qpproj", place / "predictions/run.json", {}
    content, run = (json.loads(path.read_text()) for path in (project, record))
    for told in ("run.json", "project", ""):
        run["predictions"]["c1"]["request"] = {"um_per_px": 0.5 if told == "run.json" else None}
        record.write_text(json.dumps(run))
        content["images"][0]["serverBuilder"]["metadata"] = {"width": 79, "height": 80} if told == "project" else {}
        project.write_text(json.dumps(content))
        result = invoke("cohort", "--project", "qp", "--overwrite", "--out", told or "none")
        assert result.exit_code == 0, result.output
        areas[told] = [*map(float, (r["area_mm2"] for r in rows(place / told / "objects.csv")))] if told else []
    assert "neither run.json nor the project says" in " ".join(result.output.split())
    assert areas["run.json"] == areas["project"] and len(areas["project"]) == 6


@pytest.mark.parametrize(
    ("told", "mpp"), [(0.5, 0.5), (1, 1), (0, None), (float("nan"), None), (float("inf"), None), ("1", None)]
)
def test_pixel_sizes_that_are_recorded(told, mpp):
    record = {"run_id": "r", "model": "m", "model_run": "t"}
    assert Prediction(**record, request={"um_per_px": told}).mpp == mpp
    assert Prediction(**record).mpp is None


def test_projects_that_do_not_fit(place):
    assert "is slide" in fails("cohort", "--project", make_project(place / "qp2", {place / "slides/other.tif": []}))
    (place / "qp/data/1/data.qpdata").write_bytes(b"damaged")
    result = invoke("cohort", "--project", "qp")
    said = " ".join(result.output.split())
    assert result.exit_code == 0 and "its objects are left out" in said and (place / "cohort/cohort.csv").is_file()


@pytest.mark.parametrize(("unit", "factor"), [("px", 1), ("um", 0.5)])
@pytest.mark.parametrize("at_once", [1, 5000])
def test_polygons_are_read_back(place, unit, factor, at_once, monkeypatch):
    geopandas = pytest.importorskip("geopandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(geoparquet, "_AT_ONCE", at_once)
    result = invoke("cohort", "--geoparquet", unit)
    assert result.exit_code == 0 and "2 polygons in cohort/polygons.parquet" in " ".join(result.output.split())
    found = geopandas.read_parquet(place / "cohort/polygons.parquet")
    wanted = [
        shapely.transform(one.geometry, lambda xy: xy * factor)
        for one in read_geojson(place / "predictions/c1.geojson").annotations
        if one.is_area
    ]
    assert all(a.equals(b) for a, b in zip(found.geometry, wanted, strict=True)) and found.crs is None
    assert found[["slide", "class", "um_per_px"]].values.tolist() == [["c1", "tumour", 0.5], ["c1", "stroma", 0.5]]
    assert found["area_um2"][0] == 800 and found["id"][0] == str(marked_id("x"))
    boxed = geopandas.read_parquet(place / "cohort/polygons.parquet", bbox=(0, 0, factor, factor))
    assert [*boxed["class"]] == ["tumour"], "the boxes are not those of the polygons"
    file = parquet.ParquetFile(place / "cohort/polygons.parquet")
    assert file.num_row_groups == (2 if at_once == 1 else 1)
    assert json.loads(file.schema_arrow.metadata[b"dmmn_qp"])["unit"] == unit
    assert json.loads(file.schema_arrow.metadata[b"geo"])["version"] == "1.1.0"


def test_what_geoparquet_lacks_is_said(place, monkeypatch):
    pytest.importorskip("pyarrow")
    predicted(place / "predictions", "c2", some_labels(), request={})
    predicted(place / "predictions", "c3", some_labels())
    (place / "predictions/c2.geojson").write_bytes((place / "predictions/c1.geojson").read_bytes())
    (place / "predictions/c3.geojson").write_text("{}")
    result = invoke("cohort", "--geoparquet", "um")
    said = " ".join(result.output.split())
    assert result.exit_code == 0 and "2 polygons in" in said
    assert "c2: its um/px are not recorded" in said and "c3: not all of it is in polygons.parquet" in said
    assert invoke("cohort", "--overwrite").exit_code == 0 and not (place / "cohort/polygons.parquet").exists()
    monkeypatch.setattr(stage, "has_parquet", lambda: False)
    assert "pyarrow, which is not installed" in fails("cohort", "--overwrite", "--geoparquet", "px")
