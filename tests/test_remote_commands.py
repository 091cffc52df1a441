"""Commands on slides on servers and in OME-Zarr; and that nothing but what is typed makes them ask a server."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.files import servers
from dmmn_qp.files.failures import install_command
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.finding import parse_slides_root
from dmmn_qp.workflows.earlier import earlier_import
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.projects import DARK_AND_LIGHT, make_project
from tests.zarr_files import write_ome_zarr

NOWHERE = Path("no-dataset")
SECRET = "s3cret"


def labels(path: Path) -> np.ndarray:
    return tifffile.imread(path, series=0, level=0)


def test_predict(here, workspace, two_tissue_slides, web):
    """A TIFF on a server, and the same picture as OME-Zarr on the disk, give the labels of the file."""
    slides, model = two_tissue_slides / "slides", workspace / "models" / "dmmn-m3-1"
    shutil.copy(slides / "a.tif", web.root / "a.tif")
    write_ome_zarr(here / "scans" / "b.ome.zarr", [two_tissues(seed=1)], version="0.4", chunk=(1, 1, 1, 256, 256))
    command = ("predict", f"{web.url}/a.tif?sig={SECRET}", "scans", "--model", model)
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    for name, own in (("a", "a"), ("b", "b.ome")):
        of_file = labels(workspace / "predictions" / f"{name}.labels.ome.tif")
        assert np.array_equal(labels(here / "predictions" / f"{own}.labels.ome.tif"), of_file)
    told = json.loads((here / "predictions" / "run.json").read_text())
    assert told["inputs"]["a"]["path"] == f"{web.url}/a.tif"
    everything = b"".join(path.read_bytes() for path in (here / "predictions").rglob("*") if path.is_file())
    assert SECRET.encode() not in everything and SECRET not in result.output
    web.sent = 0
    again = invoke(*command)
    assert again.exit_code == 0 and "Predicted before" in again.output, again.output
    assert web.sent < (web.root / "a.tif").stat().st_size, "what is done is not fetched again"


def test_import(here, web, monkeypatch):
    """OME-Zarr and its TIFF become one dataset; a slide on a server is found again only below a typed address."""
    pixels = two_tissues(256, 256)
    write_ome_zarr(here / "zarr" / "s.ome.zarr", [pixels], chunk=(1, 1, 1, 64, 64))
    write_tiff(web.root / "s.tif", pixels)
    areas = [rectangle(20, 20, 100, 200, "dark"), rectangle(140, 20, 100, 200, "light")]
    write_features(here / "geojson" / "s.geojson", areas)
    root = f"{web.url}?sig={SECRET}"
    for source, out in (("zarr", "z"), (f"{web.url}/s.tif?sig={SECRET}", "w")):
        command = ("import", source, "--annotations", "geojson", "--out", out)
        monkeypatch.setattr(sys, "argv", ["dmmn-qp", *command])  # which is recorded
        result = invoke(*command)
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output
    ours, theirs = Dataset("z"), Dataset("w")
    assert [p.label_counts for p in ours.patches()] == [p.label_counts for p in theirs.patches()]
    (record,) = theirs.slides()
    assert record.path == f"{web.url}/s.tif" and record.mpp == ours.slides()[0].mpp == 0.5
    assert all(SECRET.encode() not in path.read_bytes() for path in Path("w").rglob("*") if path.is_file())
    web.asked.clear()
    assert f'stored at "{web.url}/s.tif"' in fails("train", "--dataset", "w", "--preset", "scratch")
    assert f'stored at "{web.url}/s.tif"' in fails("predict", record.slide_id, "--dataset", "w", "--model", "m")
    assert web.asked == []
    with theirs.open(record, [parse_slides_root(root)]) as slide:
        assert slide.info.width == 256 and web.asked[-1].endswith(f"?sig={SECRET}")
    (found,) = slides_to_predict([f"{web.url}/s.tif"], Path("w"))
    assert found.slide_id == record.slide_id, "what is typed is known as the slide of the dataset"
    (found,) = slides_to_predict([record.slide_id], Path("w"), [parse_slides_root(root)])
    assert found.problem is None


INTERNAL = ("http://169.254.169.254/latest/meta-data/a.tif", "http://127.0.0.1:9/a.tif", "s3://bucket/a.tif",
            "gs://bucket/a.svs", "https://localhost/a.zarr", "ftp://localhost/a.tif")  # fmt: skip


@pytest.mark.parametrize("address", INTERNAL)
class TestHostileFiles:
    """The fixture refuses and lists whatever would go over the network; it fails the test if there was anything."""

    def test_a_project(self, here, no_network, address):
        path = make_project(here / "project", {here / "a.tif": DARK_AND_LIGHT})
        content = json.loads(path.read_text())
        content["images"][0]["serverBuilder"]["uri"] = address
        path.write_text(json.dumps(content))
        assert address.rpartition("/")[2] in fails("import", path)
        assert address.rpartition("/")[2] in fails("predict", path, "--model", "m")

    def test_a_table(self, here, no_network, address):
        (here / "table.csv").write_text(f"slide,mpp,roi\n{address},0.5,\n")
        told = fails("predict", "table.csv", "--model", "m")
        assert "those of tables are followed only below a --slides-root that is typed" in told


def test_a_hostile_dataset(here, no_network, two_tissue_slides):
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    assert invoke("import", slides, "--annotations", geojson).exit_code == 0
    manifest, run = here / "dataset" / "dataset.json", here / "dataset" / "run.json"
    content, told = json.loads(manifest.read_text()), json.loads(run.read_text())
    for record, address in zip(content["slides"], INTERNAL, strict=False):
        record["path"] = address
    manifest.write_text(json.dumps(content))
    told["slides_roots"] = [*INTERNAL, *(f"/old={address}" for address in INTERNAL)]
    run.write_text(json.dumps(told))
    assert "slide not found" in fails("predict", "--model", "m")
    assert "slide not found" in fails("train", "--preset", "scratch")
    assert earlier_import(Path("dataset")).slides_roots == (), "rounds go on with folders alone"
    invoke("status")
    fails("reproduce", "dataset", "--run", "--out", "again")
    told["configuration"]["source"] = INTERNAL[0]
    run.write_text(json.dumps(told))
    invoke("round")
    content["slides"][0]["slide_id"] = INTERNAL[0]
    manifest.write_text(json.dumps(content))
    fails("predict", "--model", "m")
    fails("predict", INTERNAL[0], "--model", "m")


def test_rows_of_tables_below_a_typed_address(here, web):
    write_tiff(web.root / "a.tif", two_tissues(64, 64))
    (here / "table.csv").write_text(f"slide,mpp,roi\n{web.url}/a.tif,0.5,\n{web.url}2/a.tif,0.5,\n")
    with pytest.raises(Exception, match="row 3"):
        slides_to_predict(["table.csv"], NOWHERE, [parse_slides_root(web.url)])
    (here / "table.csv").write_text(f"slide,mpp,roi\n{web.url}/a.tif,0.5,\n")
    (slide,) = slides_to_predict(["table.csv"], NOWHERE, [parse_slides_root(web.url)])
    assert (slide.slide_id, slide.problem) == ("a", None)


def test_what_is_typed_but_not_there(here, web):
    assert "does not exist" in fails("predict", f"{web.url}/a.tif?sig={SECRET}", "--model", "m")
    assert "does not exist" in fails("import", f"{web.url}/a.tif", "--annotations", ".")
    assert "ftp://, which is not read" in fails("predict", "ftp://h/a.tif", "--model", "m")
    web.answers = lambda number: 403
    told = fails("predict", f"{web.url}/b.tif?sig={SECRET}", "--model", "m")
    assert "you may not read it" in told and SECRET not in told


def test_without_the_packages(here, monkeypatch):
    """One line says what to install."""
    write_ome_zarr(here / "a.zarr", [two_tissues(64, 64)], chunk=(1, 1, 1, 64, 64))
    monkeypatch.setattr(servers, "_SERVERS", {})
    for name in ("fsspec", "fsspec.asyn", "aiohttp", "s3fs", "dmmn_qp.slides.zarr_store"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, extra in (("https://h/a.tif", "remote"), ("s3://b/a.tif", "s3")):
        assert install_command(extra) in fails("predict", name, "--model", "m")
    with pytest.raises(SlideError, match=re.escape(install_command("zarr"))):
        open_slide(here / "a.zarr")
