"""Which slide a name stands for: in tables, and in the names of annotations and areas."""

import json
import shutil
import unicodedata
from pathlib import PurePosixPath

import pytest
import tifffile

from dmmn_qp.cli.qupath import called_slides
from dmmn_qp.errors import DatasetError, SlideError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.slides.names import NamedSlide, SlideNames, files_by_name
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features, write_tiff

SLIDES = [
    NamedSlide(PurePosixPath("/s/a.svs"), ("a", "Case A")),
    NamedSlide(PurePosixPath("/s/x.svs"), ("x",)),
    NamedSlide(PurePosixPath("/s/x.ome.tif"), ("x.ome",)),
    NamedSlide(PurePosixPath("/s/y.OME.TIFF"), ("y.OME",)),
    NamedSlide(PurePosixPath("/s/1/d.svs"), ("d",)),
    NamedSlide(PurePosixPath("/s/2/d.svs"), ("d-2",)),
    NamedSlide(PurePosixPath("/s/T 10% #2.svs"), ("T 10_ _2",)),
    NamedSlide(PurePosixPath("/s/S.12.svs"), ("S.12",)),
    NamedSlide(PurePosixPath("/s/\u00e4.svs"), ("\u00e4",)),
    NamedSlide(PurePosixPath("/s/twice.svs"), ("twice",)),
    NamedSlide(PurePosixPath("/s/twice.svs"), ("twice-2",)),
    NamedSlide(PurePosixPath("/s/case.svs"), ("case",)),
    NamedSlide(PurePosixPath("/s/Case.svs"), ("Case-2",)),
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a", [0]),
        ("a.svs", [0]),
        ("A.SVS", [0]),
        ("Case A", [0]),
        ("D:\\scans\\old\\a.svs", [0]),
        ("/elsewhere/a", [0]),
        ("x", [1]),
        ("x.ome", [2]),
        ("x.ome.tif", [2]),
        ("y", [3]),
        ("d-2", [5]),
        ("E:\\s\\2\\d.svs", [5]),
        ("1/d", [4]),
        ("T 10% #2", [6]),
        ("T 10% #2.svs", [6]),
        ("T 10_ _2", [6]),
        ("file:/D:/s/T%2010%25%20%232.svs", [6]),
        ("S.12", [7]),
        ("S", []),
        ("a\u0308.svs", [8]),
        ("twice", [9, 10]),
        ("twice-2", [10]),
        ("case", [11]),
        ("Case.svs", [12]),
        ("a.tif", []),
        ("b", []),
        ("", []),
        ("/", []),
    ],
)
def test_slides_called(name, meant):
    assert SlideNames(SLIDES).called(name, "here", DatasetError) == meant


def test_one_name_of_two_files_is_an_error():
    for name in ("d", "d.svs", "9/d.svs"):
        with pytest.raises(DatasetError, match=r'here: ".*" may be slide "/s/1/d.svs" or "/s/2/d.svs"; write the name'):
            SlideNames(SLIDES).called(name, "here", DatasetError)


def test_contradictions_count_by_slide_not_by_spelling():
    rows = [("row 2", "a", 1), ("row 3", "a.svs", 1), ("row 4", "q", 1)]
    assert SlideNames(SLIDES).values_by_slide(rows, SlideError) == ({0: 1}, [("row 4", "q")])
    with pytest.raises(SlideError, match=r'row 5: slide "s/a\.svs" is 2, but 1 further up'):
        SlideNames(SLIDES).values_by_slide([*rows, ("row 5", "s/a.svs", 2)], SlideError)


# Through the command line


@pytest.fixture
def ome(here):
    """slides/c.ome.tif, which does not say its pixel size, and geojson/c.geojson, as QuPath names it."""
    (here / "slides").mkdir()
    tifffile.imwrite(here / "slides" / "c.ome.tif", two_tissues(256, 256), photometric="rgb", tile=(64, 64), ome=True)
    write_features(here / "geojson" / "c.geojson", [rectangle(0, 0, 200, 200, "a")])
    return ("import", "slides", "--annotations", "geojson")


def test_annotations_pixel_size_split_and_areas_of_an_ome_tiff(here, ome):
    (here / "mpp.csv").write_text("slide\tmpp\nc\t0.5\n", "utf-16")
    (here / "split.csv").write_text("Slide;Split\n\nC:\\x\\c.ome.tif ; Test\n")
    write_tiff(here / "slides" / "e.tif", two_tissues(256, 256))
    write_features(here / "geojson" / "e.geojson", [rectangle(0, 0, 200, 200, "a")])
    assert "pixel size" in fails(*ome, "--strict")
    result = invoke(*ome, "--mpp-csv", "mpp.csv", "--split-file", "split.csv")
    assert result.exit_code == 0, result.output
    record = Dataset(here / "dataset").record("c.ome")
    assert (record.mpp, record.split) == (0.5, "test")
    slide, _ = slides_to_predict(["slides"], here / "nothing", roi=here / "geojson")
    assert (slide.slide_id, slide.roi, slide.problem) == ("c.ome", here / "geojson" / "c.geojson", None)
    for name in ("c", "c.ome", "c.ome.tif"):
        (here / "list.csv").write_text(f"slide\n{name}\n")
        (slide,) = slides_to_predict(["list.csv"], here / "dataset")
        assert (slide.slide_id, slide.view.mpp.stored) == ("c.ome", 0.5)


def test_areas_of_a_name_that_is_composed_otherwise(here):
    (here / "slides").mkdir()
    write_tiff(here / "slides" / f"{unicodedata.normalize('NFD', 'ä')}.tif", two_tissues(256, 256))
    file = write_features(here / "geojson" / f"{unicodedata.normalize('NFC', 'ä')}.geojson", [])
    (slide,) = slides_to_predict(["slides"], here / "nothing", roi=here / "geojson")
    assert (slide.roi, slide.problem) == (file, None)


def test_a_more_exact_name_wins(here, ome):
    write_tiff(here / "slides" / "c.tif", two_tissues(256, 256))
    for name in ("c.tif", "c.ome"):
        write_features(here / "geojson" / f"{name}.geojson", [rectangle(0, 0, 200, 200, name)])
    assert "are both of slide" in fails(*ome, "--mpp", "0.5", "--strict")  # c.geojson and c.tif.geojson
    (here / "geojson" / "c.geojson").unlink()
    assert invoke(*ome, "--mpp", "0.5").exit_code == 0
    for slide_id, name in (("c.ome", "c.ome"), ("c", "c.tif")):
        drawn = json.loads((here / "dataset" / "annotations" / f"{slide_id}.geojson").read_text())["features"]
        assert [f["properties"]["classification"]["name"] for f in drawn] == [name]
    shutil.move(here / "geojson" / "c.tif.geojson", here / "geojson" / "c.geojson")
    of_ome, tif = slides_to_predict(["slides"], here / "nothing", roi=here / "geojson")
    assert (tif.roi.name, of_ome.roi.name) == ("c.geojson", "c.ome.geojson")
    (here / "geojson" / "c.ome.geojson").unlink()
    of_ome, tif = slides_to_predict(["slides"], here / "nothing", roi=here / "geojson")
    assert tif.roi.name == "c.geojson" and "are not in" in of_ome.problem


def test_annotations_that_may_be_of_two_slides(here):
    (here / "slides").mkdir()
    for name in ("a.tif", "a.tiff"):
        write_tiff(here / "slides" / name, two_tissues(256, 256))
    write_features(here / "geojson" / "a.geojson", [rectangle(0, 0, 200, 200, "a")])
    line = fails("import", "slides", "--annotations", "geojson")
    assert "a.geojson" in line and "a.tif" in line and "a.tiff" in line and "ending" in line


@pytest.mark.parametrize("name", ["c", "c.ome", "c.ome.tif", "C.OME.TIF"])
def test_a_slide_of_the_dataset_by_any_of_its_names(here, ome, name):
    assert invoke(*ome, "--mpp", "0.5").exit_code == 0
    (slide,) = slides_to_predict([name], here / "dataset")
    assert (slide.slide_id, slide.path, slide.problem) == ("c.ome", (here / "slides" / "c.ome.tif").resolve(), None)
    assert "does not exist" in fails("predict", f"elsewhere/{name}", "--model", "m")  # a path is a path


def test_the_file_that_goes_with_a_slide(tmp_path):
    """Of its name in file names, else of a name that stands for it alone."""
    slides = SlideNames(SLIDES)

    def file_of(number):
        found = slides.file_of(number, files_by_name(tmp_path), (".png", ".tif"), DatasetError)
        return found and found.name

    (tmp_path / "y.tif").touch()
    (tmp_path / "x.png").touch()  # of x.svs, and not of x.ome.tif
    assert [file_of(number) for number in (1, 2, 3)] == ["x.png", None, "y.tif"]
    (tmp_path / "y.OME.TIFF.png").touch()
    assert file_of(3) == "y.OME.TIFF.png"
    (tmp_path / "y.OME.tif").touch()
    assert file_of(3) == "y.OME.tif"
    (tmp_path / "d.png").touch()
    assert file_of(4) == "d.png"  # its very name in file names
    with pytest.raises(DatasetError, match=r'"/s/1/d.svs" or "/s/2/d.svs"'):
        file_of(5)


@pytest.mark.parametrize("name", ["c", "c.ome", "c.ome.tif"])
def test_slides_to_push_by_any_of_their_names(here, name):
    folder = here / "predictions"
    for slide_id in ("c.ome", "cc"):
        write_features(folder / f"{slide_id}.geojson", [])
    told = {"inputs": {"c.ome": {"path": "D:\\s\\c.ome.tif", "fingerprint": "f"}}}
    (folder / "run.json").write_text(json.dumps(told))
    assert called_slides([name, "cc"], folder) == ["c.ome", "cc"]
    assert "holds c.ome, cc" in fails("push", folder, "--into", "p", "--slide", "b")
