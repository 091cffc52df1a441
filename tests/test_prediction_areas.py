"""Tissue and regions of interest through the command line: what lies outside is left out, and costs nothing."""

import json

import numpy as np
import pytest
import tifffile
import torch

from dmmn_qp.folders.model import ModelCard, NetworkOptions, load_card, save_model
from dmmn_qp.folders.predictions import PROBABILITIES_SUFFIX, UNCERTAINTY_SUFFIX
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import slide
from dmmn_qp.predicting.areas import area_to_predict
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides.direct_tiff import DirectTiffReader
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import invoke, rectangle, write_features, write_tiff
from tests.predicting import switched_off, writing
from tests.test_prediction_resume import command, labels_of, make_model, texture, written_strips

SIDE = 1024
BACKGROUND = 1


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A slide with tissue in its upper left quarter, areas on it, and a model whose first class is background."""
    folder = tmp_path_factory.mktemp("material")
    make_model(folder / "m")
    pixels = np.full((SIDE, SIDE, 3), (244, 243, 245), np.uint8)
    pixels[:400, :350] = texture(400, 350) // 2 + np.array([90, 0, 90], np.uint8)
    write_tiff(folder / "s.tif", pixels)
    areas = [rectangle(100.5, 70, 300, 90, "Region 1"), rectangle(700, 600, 64, 64, "Region 2")]
    write_features(folder / "roi.geojson", [*areas, rectangle(0, 300, 300, 300, "other")])
    write_features(folder / "elsewhere.geojson", [rectangle(10, 10, 40, 40, "Region 1")])
    result = invoke(*command(folder), "--context", "patch", "--out", folder / "whole")
    assert result.exit_code == 0, result.output
    return folder


def expected_inside(material, **options):
    """Pixels of the slide that `Area.mask` has inside."""
    roi = options.pop("roi", None)
    target = SlideToPredict("s", SlideView(material / "s.tif"), roi=roi)
    with target.open() as opened:
        grid = load_card(material / "m").patch_spec.grid_of(opened.info.mpp)
        area = area_to_predict(opened, target, grid, PredictOptions(**options))
    return area.mask(Region(0, 0, SIDE, SIDE), grid)


CASES = [
    (("--tissue-only", "--tissue-margin-um", "10"), {"tissue_only": True, "tissue_margin_um": 10}),
    (("--roi", "roi.geojson"), {"roi": "roi.geojson"}),
    (("--roi", "roi.geojson", "--roi-class", "Region*"), {"roi": "roi.geojson", "roi_class": "Region*"}),
    (
        ("--roi", "roi.geojson", "--roi-class", "Region*", "--tissue-only"),
        {"roi": "roi.geojson", "roi_class": "Region*", "tissue_only": True},
    ),
]


@pytest.mark.parametrize(
    ("words", "options", "outside"), [(*case, ("unlabelled", "background")[i % 2]) for i, case in enumerate(CASES)]
)
def test_labels_inside_and_outside(here, material, words, options, outside):
    words = [material / word if word == "roi.geojson" else word for word in words]
    options = {**options, **({"roi": material / "roi.geojson"} if "roi" in options else {})}
    inside = expected_inside(material, **options)
    assert 0 < inside.mean() < 0.9
    rasters = ("--probabilities", "--uncertainty")
    result = invoke(*command(material), *words, "--outside", outside, "--context", "patch", *rasters)
    assert result.exit_code == 0, result.output
    labels = labels_of(here / "predictions/s.labels.ome.tif")
    assert (labels[~inside] == (0 if outside == "unlabelled" else BACKGROUND)).all()
    assert (labels[inside] >= 1).all()
    assert np.array_equal(labels[inside], labels_of(material / "whole/s.labels.ome.tif")[inside])
    chances = tifffile.imread(here / f"predictions/s.{PROBABILITIES_SUFFIX}", level=0)
    assert not chances[:, ~inside].any()  # the label of what is not predicted is nobody's probability
    assert (chances[:, inside].sum(0, dtype=int) > 250).all()
    assert not tifffile.imread(here / f"predictions/s.{UNCERTAINTY_SUFFIX}", level=0)[~inside].any()


def test_outline_of_the_tissue(here, material):
    result = invoke(*command(material), "--tissue-outline")
    assert result.exit_code == 0, result.output
    (outline,) = read_geojson(here / "predictions/s.tissue.geojson").annotations
    assert outline.geometry.intersection(_box(0, 0, 350, 400)).area > 0.95 * 350 * 400
    assert outline.geometry.area < 600 * 550  # 100 um beyond it
    assert labels_of(here / "predictions/s.labels.ome.tif").min() >= 1  # shown, but everything is predicted


def _box(*bounds):
    import shapely

    return shapely.box(*bounds)


def test_what_is_left_out_is_not_read(here, material, monkeypatch):
    plain, read = DirectTiffReader.read_level, []

    def read_level(self, level, region):
        read.append(region)
        return plain(self, level, region)

    def pixels_read(*options):
        read.clear()
        with monkeypatch.context() as patch:
            patch.setattr(DirectTiffReader, "read_level", read_level)
            patch.delitem(WRITERS, "overview.png")
            patch.setitem(WRITERS, "geojson", writing("geojson", lambda path, predicted: path.write_text("{}")))
            assert invoke(*command(material), *options).exit_code == 0
        return sum(region.width * region.height for region in read)

    whole = pixels_read("--out", "whole")
    write_features(here / "corner.geojson", [rectangle(10, 10, 40, 40, "x")])
    part = pixels_read("--roi", "corner.geojson", "--out", "part")
    assert whole >= SIDE**2 and part <= whole / 3


def test_a_small_region_costs_no_whole_block(here, monkeypatch):
    """Of 8 x 8 targets two are wanted, in the third row; 256 px of tissue are seen around them."""
    torch.manual_seed(0)
    card = ModelCard(
        name="p",
        network=NetworkOptions(architecture="dmmn-p", width=2, encoder="efficientnet-lite0"),
        class_map=ClassMap.from_colors([("a", (1, 2, 3)), ("b", (4, 5, 6))]),
        patch_spec=PatchSpec(size_px=64, stride_px=64, mpps=(0.5,)),
        created="now",
    )
    (here / "p").mkdir()
    save_model(here / "p", card, card.build())
    write_tiff(here / "s.tif", texture(512, 512))
    write_features(here / "roi.geojson", [rectangle(70, 130, 110, 50, "x")])
    seen, plain = [], slide.predict_fields

    def predict_fields(fields, targets, *others):
        seen.append((fields[0].shape[:2], targets.shape))
        return plain(fields, targets, *others)

    monkeypatch.setattr(slide, "predict_fields", predict_fields)
    result = invoke(*command(here, model="p"), "--roi", "roi.geojson", "--out", "part")
    assert result.exit_code == 0, result.output
    assert seen == [((64 + 512, 128 + 512), (1, 2))]
    labels = labels_of(here / "part" / "s.labels.ome.tif")
    rows, columns = np.nonzero(labels)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (130, 180, 70, 180)


def test_other_regions_begin_again(here, material, monkeypatch):
    first = ("--roi", material / "roi.geojson", "--roi-class", "Region*")
    with written_strips(monkeypatch, stop_before=2):
        switched_off(*command(material), *first)
    with written_strips(monkeypatch) as numbers:
        result = invoke(*command(material), "--roi", material / "elsewhere.geojson")
    assert result.exit_code == 0 and "begins again" in result.output, result.output
    assert numbers == [1, 2, 3, 0]  # those without a target first
    inside = expected_inside(material, roi=material / "elsewhere.geojson")
    labels = labels_of(here / "predictions/s.labels.ome.tif")
    assert np.array_equal(labels > 0, inside) and inside.sum() == 40 * 40


def test_slide_without_tissue_is_finished_all_the_same(here, material):
    write_tiff(here / "s.tif", np.full((300, 300, 3), 244, np.uint8))
    (here / "m").symlink_to(material / "m")
    result = invoke(*command(here), "--tissue-only")
    assert result.exit_code == 0, result.output
    assert not labels_of(here / "predictions/s.labels.ome.tif").any()
    assert json.loads((here / "predictions/s.geojson").read_text())["features"] == []
    assert not list((here / "predictions").glob(".*"))
