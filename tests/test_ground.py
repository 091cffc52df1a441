"""Predictions of another um/px than the dataset's, judged on the dataset's pixels."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders import resampled_labels
from dmmn_qp.folders.counted_labels import LabelOpener
from dmmn_qp.folders.evaluation import Ground, read_evaluation
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PROBABILITIES_SUFFIX
from dmmn_qp.folders.resampled_labels import ResampledLabels, open_resampled
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap
from dmmn_qp.vectors.sources import ArrayLabels
from tests.conftest import fails, invoke
from tests.projects import make_project, make_slide

CLASSES = ClassMap.from_colors([("light", (1, 2, 3)), ("dark", (4, 5, 6))])


def taken(own, there, downsample, wanted):
    """Which source columns (and rows) pixels are taken from, by a source whose labels are their own numbers."""
    source = ArrayLabels(np.tile(np.arange(1, own + 1, dtype=np.uint8), (own, 1)))
    ground = Ground(downsample=wanted, shape=(there, there))
    resampled = ResampledLabels(source, downsample, ground)
    across = resampled.read(Region(0, 0, there, there))[0] - 1
    down = ResampledLabels(ArrayLabels(source.labels.T.copy()), downsample, ground).read(Region(0, 0, 1, there))[:, 0]
    assert resampled.shape == (there, there) and (down - 1 == across).all()
    return across.tolist()


@pytest.mark.parametrize(
    ("own", "there", "downsample", "wanted", "columns"),
    [
        # predicted at half the um/px: the centre of pixel 0, level-0 px 1, is the border of 0 and 1: the right one
        (6, 3, 1.0, 2.0, [1, 3, 5]),
        # at a third: the centre of pixel 0, 1.5, lies in source pixel 1, the middle one
        (6, 2, 1.0, 3.0, [1, 4]),
        # at twice the um/px: each source pixel twice
        (3, 6, 2.0, 1.0, [0, 0, 1, 1, 2, 2]),
        # at 1.5 times: centres 0.5, 1.5, 2.5, 3.5, 4.5, 5.5 of 1.5 px each
        (4, 6, 1.5, 1.0, [0, 1, 1, 2, 3, 3]),
        # 2.5 to 1.75 level-0 px: centres 0.875, 2.625, 4.375, 6.125, 7.875, 9.625
        (4, 6, 2.5, 1.75, [0, 1, 1, 2, 3, 3]),
        # the last pixel's centre, 10, lies beyond the slide's 9 px: the last there is
        (9, 3, 1.0, 4.0, [2, 6, 8]),
        # floating point: 0.1 / 0.3 is no third, but 1.5 of these is
        (9, 3, 0.1, 0.3, [1, 4, 7]),
    ],
)
def test_pixels_are_taken_by_their_centres(own, there, downsample, wanted, columns):
    assert taken(own, there, downsample, wanted) == columns


@pytest.mark.parametrize("wanted", [0.7, 1.0, 3.3, 40.0])
def test_windows_are_parts_of_the_whole(wanted, monkeypatch):
    """Read in any windows, also such as leave the slide, and in parts that are small, the labels are the same."""
    labels = np.random.default_rng(1).integers(1, 255, (90, 110)).astype(np.uint8)
    shape = int(np.ceil(90 / wanted)), int(np.ceil(110 / wanted))
    ground = Ground(downsample=wanted, shape=shape)
    with open_resampled(lambda: nullcontext(ArrayLabels(labels)), 1.0, ground) as source:
        whole = source.read(Region(0, 0, shape[1], shape[0]))
        monkeypatch.setattr(resampled_labels, "_ROWS_AT_ONCE", 7)
        for x, y, width, height in ((0, 0, 1, shape[0]), (-2, -3, 9, 5), (shape[1] - 1, shape[0] - 1, 4, 4)):
            padded = np.pad(whole, 5)[y + 5 : y + 5 + height, x + 5 : x + 5 + width]
            assert (source.read(Region(x, y, width, height)) == padded).all()
        assert not source.read(Region(-9, -9, 3, 3)).any()


class Watched(ArrayLabels):
    """Labels that remember how many of them were read together."""

    most = 0

    def read(self, window):
        Watched.most = max(Watched.most, window.height)
        return ArrayLabels.read(self, window)


def test_so_many_rows_are_read_together_whatever_the_ratio():
    source = Watched(np.ones((6000, 3), np.uint8))
    ResampledLabels(source, 1.0, Ground(downsample=30.0, shape=(200, 1))).read(Region(0, 0, 1, 200))
    assert 1 < Watched.most <= 512


@pytest.fixture
def elsewhere(here):
    """A dataset of 0.5 um/px, with 100 x 100 px of each of two classes."""
    slide = make_slide(here / "slides" / "s.tif")
    make_project(here / "p", {slide: (("dark", (0, 0, 100, 100)), ("light", (100, 0, 200, 100)))})
    assert invoke("import", "p", "--out", "dataset", "--mpps", "0.5").exit_code == 0
    return here


def predict(folder, labels, mpp, probabilities=None):
    Path(folder).mkdir()
    write_label_pyramid(Path(folder) / f"s.{LABELS_SUFFIX}", [labels], labels.shape, mpp, CLASSES)
    if probabilities is not None:
        path = Path(folder) / f"s.{PROBABILITIES_SUFFIX}"
        names = [(c.name, c.color) for c in CLASSES.classes]
        write_probability_pyramid(path, [probabilities], labels.shape, mpp, *zip(*names, strict=True))
    write_json(Path(folder) / RUN_FILE, {})


@pytest.mark.parametrize(("mpp", "side", "dark"), [(1.0, 128, 30), (0.75, 171, 40), (0.25, 512, 120), (0.5, 256, 60)])
def test_a_model_of_other_pixels_is_judged_on_those_of_the_dataset(elsewhere, mpp, side, dark):
    """The first 30 of 128, 40 of 171, 120 of 512 columns are the first 60 of the dataset's 256."""
    labels = np.full((side, side), 1, np.uint8)
    labels[:, :dark] = 2
    predict("other", labels, mpp)
    result = invoke("evaluate", "--predictions", "other", "--split", "train", "--out", "e")
    assert result.exit_code == 0, result.output
    evaluation = read_evaluation(Path("e"))
    (model,) = evaluation.models
    found = model.of("annotated").pooled
    assert found.pixels == 20_000
    assert {c.name: c.iou.value for c in found.classes} == {"dark": 0.6, "light": pytest.approx(100 / 140)}
    (raster,) = model.rasters
    if mpp == 0.5:
        assert raster.resampled_to is None and "judged" not in result.output
        return
    assert raster.downsample == mpp / 0.5
    assert raster.resampled_to == Ground(downsample=1.0, shape=(256, 256))
    assert f"have pixels of {mpp:g} um, the dataset of 0.5 um" in result.output.replace("\n", " ")
    assert any("judged on those of the dataset" in line for line in evaluation.warnings)
    (region,) = model.worst
    assert (region.x_px, region.width_px, region.wrong_pixels) == (0, 256, 4000)
    with LabelOpener().predicted(model.predictions, raster) as opened:
        assert opened.shape == (256, 256) and (opened.read(Region(59, 0, 2, 1)) == [[2, 1]]).all()
    page = (Path("e") / "evaluation.html").read_text()
    assert "judged on those of the dataset" in page


def test_probabilities_come_with_their_labels(elsewhere):
    labels = np.full((128, 128), 2, np.uint8)
    chances = np.stack([np.full((128, 128), 51, np.uint8), np.full((128, 128), 204, np.uint8)])
    predict("other", labels, 1.0, chances)
    assert invoke("evaluate", "--predictions", "other", "--split", "train", "--out", "e").exit_code == 0
    calibration = read_evaluation(Path("e")).models[0].of("annotated").calibration
    assert [(b.pixels, b.accuracy) for b in calibration.bins if b.pixels] == [(20_000, 0.5)]


@pytest.mark.parametrize(("side", "mpp"), [(100, 1.0), (128, 0.9)])
def test_what_does_not_show_the_whole_slide_is_refused(elsewhere, side, mpp):
    predict("other", np.ones((side, side), np.uint8), mpp)
    line = fails("evaluate", "--predictions", "other", "--split", "train")
    assert f"has {side} x {side} px and has pixels of {mpp / 0.5:g} level-0 px" in line and "256 x 256" in line


@pytest.mark.parametrize("told", ["Infinity", "5e-324", "1e-30", "1e300", "1" + 400 * "0"])
def test_a_pixel_size_that_cannot_be_is_an_error_of_one_line(elsewhere, told):
    predict("other", np.ones((64, 64), np.uint8), 1.0)
    made = json.dumps({"run_id": "r", "model": "m", "model_run": "t", "request": {"um_per_px": 0}})
    Path("other", RUN_FILE).write_text(f'{{"predictions": {{"s": {made}}}}}'.replace(": 0}", f": {told}}}"))
    assert "predict again with --overwrite" in fails("evaluate", "--predictions", "other", "--split", "train")


def test_a_slide_of_another_pixel_size_when_it_was_predicted(elsewhere):
    """What counts are level-0 px: 1.0 um of a slide of 0.25 um/px are 4 of them, whatever the dataset says."""
    labels = np.full((64, 64), 1, np.uint8)
    labels[:, :15] = 2
    predict("other", labels, 1.0)
    made = {"run_id": "r", "model": "m", "model_run": "t", "request": {"um_per_px": 0.25}}
    Path("other", RUN_FILE).write_text(json.dumps({"predictions": {"s": made}}))
    assert invoke("evaluate", "--predictions", "other", "--split", "train", "--out", "e").exit_code == 0
    (raster,) = read_evaluation(Path("e")).models[0].rasters
    assert raster.downsample == 4.0
