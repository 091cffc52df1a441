"""Temperature scaling: fitted on validation slides, kept in the card, and never of influence on a label."""

import json
import shutil
from math import log

import numpy as np
import pytest
import torch

from dmmn_qp.files.locks import locked
from dmmn_qp.folders.calibrated import Calibrated
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import load_card, set_calibrated
from dmmn_qp.labels.calibration import expected_calibration_error, reliability_sums
from dmmn_qp.labels.temperature import confidences, fitted_temperature, log_loss
from dmmn_qp.models.export import describe_export
from dmmn_qp.networks.tempering import class_chances, tempered
from dmmn_qp.predicting.array import predict_pixels
from dmmn_qp.predicting.kept import Kept
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.regions import Region
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features

T = 2.5


def test_temperature_by_hand():
    """3 of 4 are right, each with logits 2 : 0; so e**(2 / T) must be 3."""
    logits = np.array([[2, 0]] * 4, np.float32)
    classes = np.array([0, 0, 0, 1])
    assert fitted_temperature(logits, classes, 0.1, 10) == pytest.approx(2 / log(3), rel=1e-6)
    assert confidences(logits, 2 / log(3)) == pytest.approx(0.75)
    assert log_loss(logits, classes, 2 / log(3)) == pytest.approx(-(3 * log(0.75) + log(0.25)) / 4)
    assert fitted_temperature(logits, np.zeros(4, np.int64), 0.1, 10) == pytest.approx(0.1)  # all right
    assert fitted_temperature(logits, np.ones(4, np.int64), 0.1, 10) == pytest.approx(10)  # all wrong


def test_temperature_has_the_least_loss_and_loss_is_cross_entropy():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (700, 5)).astype(np.float32)
    classes = np.where(rng.random(700) < 0.6, logits.argmax(1), rng.integers(0, 5, 700))
    best = fitted_temperature(logits, classes, 0.1, 10)
    for temperature in (1.0, best, 3.0):
        expected = torch.nn.functional.cross_entropy(torch.tensor(logits) / temperature, torch.tensor(classes))
        assert log_loss(logits, classes, temperature) == pytest.approx(float(expected), rel=1e-5)
        assert log_loss(logits, classes, best) <= log_loss(logits, classes, temperature)
    assert 1.1 < best < 9


@pytest.mark.parametrize(
    ("confidence", "right", "error"),
    [
        ([0.9] * 4, [1, 1, 0, 0], 0.4),
        ([0.8, 0.8, 0.8, 0.8, 0.8], [1, 1, 1, 1, 0], 0.0),
        ([0.55, 0.95], [1, 1], 0.25),  # (0.45 + 0.05) / 2: of two bins
        ([0.55, 0.56], [0, 1], 0.055),  # in one bin they make up for each other: |1.11 - 1| / 2
        ([1.0, 1.0], [1, 0], 0.5),
    ],
)
def test_calibration_error_by_hand(confidence, right, error):
    sums = reliability_sums(np.array(confidence), np.array(right, bool), bins=10)
    assert expected_calibration_error(sums) == pytest.approx(error)


def test_tempering_one_softmax_is_dividing_its_logits_and_the_likeliest_class_stays():
    logits = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0)) * 5
    own = logits[:, 1:]  # the first output is of no class
    assert torch.equal(class_chances(logits, 5), own.softmax(1))
    assert tempered(own.softmax(1), T).allclose(class_chances(logits, 5, T), atol=1e-6)
    mean = torch.stack([own.softmax(1), own.flip(-1).softmax(1)]).mean(0)
    assert torch.equal(tempered(mean, T).argmax(1), mean.argmax(1))
    assert tempered(mean, None) is mean
    certain = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    assert tempered(certain, T).isfinite().all()


def calibrated(temperature=T):
    figures = {"error_before": 0.2, "error_after": 0.1, "loss_before": 2, "loss_after": 1, "pixels": 9, "slides": 1}
    return Calibrated(temperature=temperature, created="2026-01-01T00:00:00+00:00", **figures)


@pytest.fixture
def model(workspace, here):
    """The folder of a model of its own, calibrated by hand, in a folder with the dataset."""
    (folder,) = (workspace / "models").iterdir()
    shutil.copytree(folder, here / "m")
    set_calibrated(here / "m", load_card(here / "m").weights_sha256, calibrated())
    return here / "m"


@pytest.mark.parametrize("views", [1, 3])
def test_probabilities_go_by_the_temperature_and_labels_do_not(model, workspace, views):
    (plain,) = (workspace / "models").iterdir()
    pixels, options = two_tissues(256, 256), PredictOptions(probabilities=True, uncertainty=True, views=views)
    before, after = (predict_pixels(pixels, 0.5, folder, options) for folder in (plain, model))
    assert np.array_equal(before.labels, after.labels)
    powers = np.maximum(before.probabilities / 255, 1e-9) ** (1 / T)
    expected = powers / powers.sum(0) * 255
    middling = (before.probabilities > 12).all(0)  # where a byte tells enough of the smaller one
    assert middling.sum() > 50
    assert np.abs(after.probabilities - expected)[:, middling].max() < 4
    assert np.array_equal(after.confidence, after.probabilities.max(0))
    assert after.entropy.mean() > before.entropy.mean() + 5  # less sure


def test_a_prediction_at_another_temperature_is_another_one(model, two_tissue_slides):
    slide = two_tissue_slides / "slides" / "a.tif"
    write_features(model.parent / "roi.geojson", [rectangle(0, 0, 256, 256, None)])
    asked = ("predict", slide, "--model", "m", "--roi", "roi.geojson")
    assert invoke(*asked, "--probabilities").exit_code == 0
    assert invoke("models", "calibrate", "m", "--remove").exit_code == 0
    assert load_card(model).calibrated is None
    assert "with probabilities at temperature 2.5 instead of 1" in fails(*asked, "--probabilities")
    skipped = invoke(*asked)  # labels and polygons are the same
    assert skipped.exit_code == 0 and "--overwrite" in skipped.output
    request = json.loads((model.parent / "predictions" / "run.json").read_text())["predictions"]["a"]["request"]
    assert request["temperature"] == T
    assert "not calibrated" in fails("models", "calibrate", "m", "--remove")


def test_a_model_that_is_kept_is_not_taken_at_another_temperature(model):
    kept, options = Kept(), PredictOptions(probabilities=True)
    first = LazyModel(model, options, kept).predictor
    assert LazyModel(model, options, kept).predictor is first
    set_calibrated(model, load_card(model).weights_sha256, calibrated(1.5))
    assert LazyModel(model, options, kept).predictor.card.temperature == 1.5


def test_temperature_is_fitted_to_the_annotated_pixels_of_validation_slides(model, two_tissue_slides, workspace):
    """A third of the dark tissue of the validation slide is called light, of which the model knows nothing."""
    here, splits = model.parent, {r.slide_id: r.split for r in Dataset(workspace / "dataset").slides()}
    (apart,) = [slide_id for slide_id, split in splits.items() if split == "val"]
    shutil.copytree(two_tissue_slides / "geojson", here / "geojson")
    drawn = [rectangle(40, 40, 300, 290, "dark"), rectangle(40, 330, 300, 140, "light")]
    write_features(here / "geojson" / f"{apart}.geojson", [*drawn, rectangle(420, 40, 300, 430, "light")])
    (here / "splits.csv").write_text("slide,split\n" + "".join(f"{i},{s}\n" for i, s in splits.items()))
    slides = ("import", two_tissue_slides / "slides", "--annotations", "geojson", "--split-file", "splits.csv")
    assert invoke(*slides).exit_code == 0
    weights = (model / "weights.safetensors").read_bytes()
    result = invoke("models", "calibrate", "m")
    assert result.exit_code == 0, result.output
    found = load_card(model).calibrated
    assert (model / "weights.safetensors").read_bytes() == weights
    with LabelRaster(Dataset(here / "dataset").mask_path(apart)) as mask:
        rows, columns = mask.shape
        assert found.pixels == np.count_nonzero(mask.read(Region(0, 0, columns, rows))) and found.slides == 1
    assert found.loss_after < found.loss_before and found.error_after < found.error_before
    assert found.temperature > 1
    assert f"temperature {found.temperature:.3f}" in invoke("models", "show", "m").output
    assert describe_export(load_card(model))["output"]["temperature"] == found.temperature


def test_slides_of_the_training_calibrate_nothing(model, workspace):
    shutil.copytree(workspace / "dataset", model.parent / "dataset")
    dataset = Dataset("dataset")
    (apart,) = [record.fingerprint for record in dataset.slides("val")]
    card = json.loads((model / "model.json").read_text())
    card["provenance"]["training_fingerprints"].append(apart)
    (model / "model.json").write_text(json.dumps(card))
    assert "was trained on all of them" in fails("models", "calibrate", "m")


def test_a_model_in_training_is_not_calibrated(model, workspace):
    """Its training writes weights and card, and no card of before may come after them."""
    shutil.copytree(workspace / "dataset", model.parent / "dataset")
    with locked(model, "a training", "wait for its end"):
        for more in ([], ["--remove"]):
            assert "a training" in fails("models", "calibrate", "m", *more)
    assert load_card(model).temperature == T
    assert "no model" in fails("models", "calibrate", "dataset", "--remove")
    assert not [path.name for path in model.parent.iterdir() if path.name.startswith(".")]
