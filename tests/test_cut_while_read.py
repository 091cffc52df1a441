"""A slide that is cut off after it was opened, as by a copy that begins anew, costs that slide and nothing else."""

import os
import shutil

import numpy as np
import pytest
import tifffile

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.importing import painting
from dmmn_qp.slides.direct_tiff import DirectTiffReader
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.tifffile_reader import TiffReader
from tests.conftest import invoke, rectangle, two_tissues, write_features
from tests.test_prediction_resume import make_model

PIXELS = two_tissues(768, 768)
WHERE = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER", "photometric": "rgb"}
TILED = {"tile": (256, 256), "compression": "deflate"}
KINDS = {
    "tiles": (DirectTiffReader, TILED),
    "plain tiles": (DirectTiffReader, {"tile": (256, 256)}),
    "strips": (TiffReader, {"rowsperstrip": 16, "compression": "deflate"}),
    "plain strips": (TiffReader, {}),
    "OpenSlide": (OpenSlideReader, {"tile": (256, 256), "compression": "jpeg"}),
}


def slides_of(here, kind, monkeypatch):
    """Three slides, of which the second is read by the reader that is asked for."""
    reader, how = KINDS[kind]
    (here / "slides").mkdir()
    for name in "abc":
        tifffile.imwrite(here / "slides" / f"{name}.tif", PIXELS, **WHERE, **(how if name == "b" else TILED))
        drawn = [rectangle(20, 20, 300, 700, "dark"), rectangle(400, 20, 300, 700, "light")]
        write_features(here / "geojson" / f"{name}.geojson", drawn)
    if reader is OpenSlideReader:
        monkeypatch.setattr(DirectTiffReader, "_direct", lambda self, number: None)
    return reader


def cut_at_read(monkeypatch, reader, number, left):
    """Cuts the second slide off just before a level of it is read for the so-manieth time."""
    read, reads = reader.read_level, []

    def cutting(self, level, region):
        if self.info.path.name == "b.tif":
            reads.append(region)
            if len(reads) == number:
                os.truncate(self.info.path, left)
        return read(self, level, region)

    monkeypatch.setattr(reader, "read_level", cutting)
    return reads


@pytest.mark.parametrize(
    ("kind", "number", "left"),
    [
        ("tiles", 1, 0), ("tiles", 3, 300_000), ("plain tiles", 4, 8), ("strips", 3, 5000),
        ("plain strips", 2, 300_000), ("OpenSlide", 4, 200_000),
    ],
)  # fmt: skip
@pytest.mark.parametrize("check", [(), ("--check",)])
def test_import_leaves_it_out(here, monkeypatch, kind, number, left, check):
    reads = cut_at_read(monkeypatch, slides_of(here, kind, monkeypatch), number, left)
    result = invoke("import", "slides", "--annotations", "geojson", *check)
    assert result.exit_code == 0 and len(reads) >= number, result.output
    (line,) = [line for line in (result.stdout if check else result.stderr).splitlines() if "left out until" in line]
    assert "b.tif" in line and ("cut" in line or "damaged" in line)
    if not check:
        assert [record.slide_id for record in Dataset(here / "dataset").slides()] == ["a", "c"]


def test_import_leaves_out_what_is_cut_while_it_is_painted(here, monkeypatch):
    slides_of(here, "tiles", monkeypatch)
    paint = painting.paint_slide

    def cutting(item, advance, **how):
        if item.record.slide_id == "b":
            os.truncate(here / "slides" / "b.tif", 300_000)
        return paint(item, advance, **how)

    monkeypatch.setattr(painting, "paint_slide", cutting)
    result = invoke("import", "slides", "--annotations", "geojson")
    assert result.exit_code == 0 and result.stderr.count("was cut or changed while it was read") == 1
    assert [record.slide_id for record in Dataset(here / "dataset").slides()] == ["a", "c"]
    assert not list((here / "dataset").rglob("b.*"))


@pytest.mark.parametrize(
    ("kind", "number", "left"),
    [
        ("tiles", 9, 300_000),
        pytest.param("strips", 2, 8, marks=pytest.mark.engine),
        pytest.param("plain strips", 7, 600_000, marks=pytest.mark.engine),
        pytest.param("OpenSlide", 3, 0, marks=pytest.mark.engine),
    ],
)
def test_predict_goes_on_with_the_others(here, monkeypatch, kind, number, left):
    """Nothing of it is kept: as soon as it is whole again, it is predicted as if nothing had been."""
    reader = slides_of(here, kind, monkeypatch)
    make_model(here / "m")
    whole = here / "whole.tif"
    shutil.copy(here / "slides" / "b.tif", whole)
    with monkeypatch.context() as only_now:
        reads = cut_at_read(only_now, reader, number, left)
        result = invoke("predict", "slides", "--model", "m", "--device", "cpu", "--out", "p")
    assert len(reads) >= number
    told = [line for line in result.stderr.splitlines() if line.startswith("warning") and "b.tif" in line]
    assert result.exit_code == 1 and len(told) == 1, result.output
    assert len(result.stderr.splitlines()) == 2  # and how many were left out
    written = sorted(path.name for path in (here / "p").glob("*.geojson"))
    assert written == ["a.geojson", "c.geojson"]
    shutil.copy(whole, here / "slides" / "b.tif")
    again = invoke("predict", "slides", "--model", "m", "--device", "cpu", "--out", "p")
    assert again.exit_code == 0 and "goes on" not in again.output, again.output
    if kind != "OpenSlide":  # as the others show the same, without any loss
        labels = [tifffile.imread(here / "p" / f"{name}.labels.ome.tif") for name in "ab"]
        assert np.array_equal(*labels) and labels[0].any()


def test_a_slide_that_becomes_another_one_without_any_error_is_noticed(here, monkeypatch):
    slides_of(here, "plain strips", monkeypatch)
    make_model(here / "m")
    read = TiffReader.read_level

    def changing(self, level, region):
        with (here / "slides" / "b.tif").open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            file.write(bytes(1000))
        return read(self, level, region)

    monkeypatch.setattr(TiffReader, "read_level", changing)
    result = invoke("predict", "slides", "--model", "m", "--device", "cpu", "--out", "p")
    assert result.exit_code == 1 and "b.tif" in result.stderr and "changed while it was read" in result.stderr
    assert not (here / "p" / "b.geojson").exists()
