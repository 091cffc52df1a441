"""Rasters as OME-Zarr and DICOM beside the OME-TIFF: the same pixels, made with a prediction or added to it later."""

import json
import warnings

import numpy as np
import pytest

import dmmn_qp.outputs.writers as writers
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import ModelCard, NetworkOptions, save_model
from dmmn_qp.outputs.levels import SMALLEST_LEVEL_PX
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.outputs.zarr_pyramids import write_channels_zarr, write_label_zarr
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import fails, invoke, write_tiff
from tests.dicom_slides import write_whole_dicom
from tests.predicting import no_picture, writing

zarr = pytest.importorskip("zarr")
highdicom = pytest.importorskip("highdicom")

CLASSES = ClassMap.from_colors([("a", (0, 0, 255)), ('b "<c>', (255, 0, 0))])

ZARR = {kind: f"s.{kind}.ome.zarr" for kind in ("labels", "probabilities", "uncertainty")}


def read_tiff(path, page=0):
    with LabelRaster(path, page) as raster:
        rows, columns = raster.shape
        return raster.read(Region(0, 0, columns, rows))


def tree(folder):
    """Path in the folder -> bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def labels():
    blocks = np.random.default_rng(0).integers(0, 3, (37, 63)).astype(np.uint8)  # of odd sides, so that levels cut them
    found = np.repeat(np.repeat(blocks, 33, 0), 33, 1)[:1197, :2051]
    found[:512, :512] = 0
    return found


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_and_their_levels(labels, version, tmp_path):
    path = tmp_path / ZARR["labels"]
    write_label_zarr(path, (labels[i : i + 300] for i in range(0, 1197, 300)), labels.shape, 0.5, CLASSES, version)
    group = zarr.open_group(path, mode="r")
    told = group.attrs["ome"] if version == "0.5" else group.attrs.asdict()
    scale = told["multiscales"][0]
    assert (told if version == "0.5" else scale)["version"] == version
    assert [(axis["name"], axis["unit"]) for axis in scale["axes"]] == [("y", "micrometer"), ("x", "micrometer")]
    assert [one["path"] for one in scale["datasets"]] == ["0", "1", "2"] and max(labels.shape) // 4 < SMALLEST_LEVEL_PX
    for n, one in enumerate(scale["datasets"]):
        assert (group[one["path"]][:] == labels[:: 2**n, :: 2**n]).all()
        sizes, moved = (change[change["type"]] for change in one["coordinateTransformations"])
        assert sizes == [0.5 * 2**n] * 2 and moved == [(2**n - 1) * 0.25] * 2
    about = told["image-label"]
    assert about["properties"] == [{"label-value": 1, "class": "a"}, {"label-value": 2, "class": 'b "<c>'}]
    assert about["colors"][1] == {"label-value": 2, "rgba": [255, 0, 0, 255]}
    names = tree(path)
    assert (("0/c/0/0" if version == "0.5" else "0/0/1") in names) and "0/0/0" not in names, "tiles of 0 are left out"
    write_label_zarr(tmp_path / "again", iter([labels]), labels.shape, 0.5, CLASSES, version)
    assert tree(tmp_path / "again") == names, "not the same bytes whatever the strips"


def test_channels_are_means(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 1500, 40)).astype(np.uint8)
    path = tmp_path / ZARR["probabilities"]
    write_channels_zarr(path, [pixels], (1500, 40), 1.0, ["a", "b"], [(1, 2, 3), (255, 0, 16)], "0.5")
    group = zarr.open_group(path, mode="r")
    assert (group["0"][:] == pixels).all()
    four = pixels.reshape(2, 750, 2, 20, 2).astype(int).sum(axis=(2, 4))
    assert (group["1"][:] == (four + 2) // 4).all()
    told = group.attrs["ome"]
    assert [(c["label"], c["color"]) for c in told["omero"]["channels"]] == [("a", "010203"), ("b", "FF0010")]
    assert told["multiscales"][0]["axes"][0] == {"name": "c", "type": "channel"}
    assert told["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] == [1.0, 2.0, 2.0]


def test_what_fails_leaves_nothing(labels, tmp_path):
    with pytest.raises(ValueError, match="rows"):
        write_label_zarr(tmp_path / "x", iter([labels]), (3000, 2051), 0.5, CLASSES, "0.5")
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def place(here, monkeypatch):
    """A model, and a slide that it can predict."""
    network = NetworkOptions(architecture="unet", width=1)
    spec = PatchSpec(size_px=64, mpps=(1.0,))
    card = ModelCard(name="m", network=network, class_map=CLASSES, patch_spec=spec, created="now")
    (here / "m").mkdir()
    save_model(here / "m", card, card.build())
    (here / "slides").mkdir()
    pixels = np.random.default_rng(2).integers(0, 256, (150, 200, 3)).astype(np.uint8)
    write_tiff(here / "slides/s.tif", pixels)
    write_whole_dicom(here / "scan", [pixels])
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    return here


def predict(*options, slide="slides/s.tif"):
    result = invoke("predict", slide, "--model", "m", "--mpp", 0.5, "--device", "cpu", "--out", "p", *options)
    return " ".join(result.output.split()), result.exit_code


def test_zarr_is_written_added_and_removed(place):
    """Added later it is the same as written with the prediction, which is not made again."""
    said, code = predict("--labels", "zarr", "--probabilities", "--uncertainty")
    assert code == 0, said
    for kind, path in ZARR.items():
        found = zarr.open_group(place / "p" / path, mode="r")["0"][:]
        pages = [read_tiff(place / f"p/s.{kind}.ome.tif", page) for page in range(2 if kind == "probabilities" else 1)]
        assert (found == (pages[0] if kind == "labels" else np.stack(pages))).all() and found.any()
    before = {kind: tree(place / "p" / path) for kind, path in ZARR.items()}
    text = (place / "p/README.txt").read_text()
    assert all(f"<slide>.{path.removeprefix('s.')}\n" in text for path in ZARR.values())
    assert predict("--probabilities", "--uncertainty", "--overwrite")[1] == 0
    assert not any((place / "p" / path).exists() for path in ZARR.values())
    assert "ome.zarr" not in (place / "p/README.txt").read_text()
    run = json.loads((place / "p/run.json").read_text())["predictions"]
    said, code = predict("--probabilities", "--uncertainty", "--labels", "zarr")
    assert code == 0 and "made of its rasters, without predicting: s.labels.ome.zarr, s.prob" in said
    assert {kind: tree(place / "p" / path) for kind, path in ZARR.items()} == before
    assert json.loads((place / "p/run.json").read_text())["predictions"] == run
    assert "ome.zarr" in (place / "p/README.txt").read_text() and not [*place.glob("p/.s.part")]
    assert "left as they are" in predict("--labels", "zarr")[0]
    assert "s.labels.ome.zarr" in predict("--labels", "zarr-0.4")[0]
    assert (place / "p" / ZARR["labels"] / ".zattrs").is_file(), "not the version that was asked for"
    assert (
        zarr.open_group(place / "p" / ZARR["labels"], mode="r")["0"][:] == read_tiff(place / "p/s.labels.ome.tif")
    ).all()


def test_zarr_comes_with_polygons_that_are_made_anew(place):
    assert predict()[1] == 0
    said, code = predict("--labels", "zarr", "--simplify-um", 2)
    assert code == 0 and "made anew from its labels" in said
    assert (place / "p" / ZARR["labels"] / "zarr.json").is_file()
    assert "left as they are" in predict("--labels", "zarr", "--simplify-um", 2)[0]


def test_whoever_reads_labels_reads_the_tiff(place):
    """A folder with OME-Zarr in it holds the same slides as one without, and is none itself."""
    assert predict("--labels", "zarr", "--out", "slides")[1] == 0
    assert [slide.slide_id for slide in slides_to_predict(["slides"], place / "none")] == ["s"]
    assert invoke("cohort", "slides").exit_code == 0
    rows = (place / "cohort/cohort.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["slide", "s", "s"]
    assert invoke("compare", "slides", "slides").exit_code == 0
    assert "name the .ome.tif beside it" in fails("compare", f"slides/{ZARR['labels']}", "slides")


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [(("--labels", "zarr"), "zarr", "zarr"), (("--dicom-seg",), "highdicom", "dicom")],
)
def test_without_the_extra_one_line_says_so(place, options, module, extra, monkeypatch):
    found = writers.find_spec
    monkeypatch.setattr(writers, "find_spec", lambda name: None if name == module else found(name))
    said, code = predict(*options)
    assert code == 1 and f"{module}, which is not installed" in said and f"[{extra}]" in said
    assert not (place / "p").exists()


def test_dicom_segmentation_of_a_predicted_slide(place):
    """It is that of the label raster, added later too, and where it lies beside the slide it is no slide."""
    said, code = predict("--dicom-seg", "--out", "scan", slide="scan")
    assert code == 0, said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = highdicom.seg.segread(place / "scan/scan.seg.dcm").get_total_pixel_matrix(combine_segments=True)
    assert (read == read_tiff(place / "scan/scan.labels.ome.tif")).all() and read.any()
    (place / "scan/scan.seg.dcm").unlink()
    said, code = predict("--dicom-seg", "--out", "scan", slide="scan")
    assert code == 0 and "without predicting: scan.seg.dcm" in said and (place / "scan/scan.seg.dcm").is_file()
    said, code = predict("--dicom-seg", "--out", "scan", slide="scan")
    assert code == 0 and "left as they are" in said, "the segmentation beside the slide is taken for another slide"


def test_slides_that_are_not_dicom(place):
    said, code = predict("--dicom-seg")
    assert code == 1 and "none of these is" in said
    result = invoke("predict", "slides/s.tif", "scan", "--model", "m", "--mpp", 0.5, "--out", "p", "--dicom-seg")
    said = " ".join(result.output.split())
    assert result.exit_code == 0 and "s: it gets no .seg.dcm (the slide is not DICOM)" in said
    assert [p.name for p in sorted((place / "p").glob("*.dcm"))] == ["scan.seg.dcm"]


def test_a_header_that_says_too_little_costs_the_segmentation_alone(place):
    write_whole_dicom(place / "bare", [np.zeros((150, 200, 3), np.uint8)], FrameOfReferenceUID=None)
    said, code = predict("--dicom-seg", slide="bare")
    assert code == 0 and "lacks FrameOfReferenceUID" in said and (place / "p/bare.geojson").is_file()
    assert not (place / "p/bare.seg.dcm").exists()
