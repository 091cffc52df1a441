"""What the default costs: a trained full-stem model's labels, with and without shared work, on the demo's slides."""

import numpy as np
import pytest
import torch
from PIL import Image

from dmmn_qp.folders.model import load_model
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.predicting.predictor import Predictor, choose_context
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.transformed import Crop
from tests.conftest import DEMO, REPOSITORY
from tests.predicting import predict_whole

MODEL = REPOSITORY / "tests" / "data" / "full-stem"
SIDE = 1536
CONTEXTS = ("patch", "shared-coarsest", "shared")


@pytest.fixture(scope="module")
def trained():
    return load_model(MODEL)


@pytest.fixture(scope="module")
def found(trained):
    """Labels by slide and context."""
    card, network = trained

    def labels(name, context):
        def reopen():
            return open_slide(DEMO / "slides" / f"{name}.tif", frame=[Crop(x=512, y=512, width=SIDE, height=SIDE)])

        return predict_whole(reopen, Predictor(card, network, torch.device("cpu"), context=context))["labels"]

    return {name: {context: labels(name, context) for context in CONTEXTS} for name in ("val-1", "test-1")}


def mean_iou(labels, name, classes):
    with Image.open(DEMO / "truth" / f"{name}.png") as picture:
        truth = np.asarray(picture)[512 : 512 + SIDE, 512 : 512 + SIDE]
    return Metrics.from_confusion(confusion_matrix(truth, labels, classes)).mean_iou


def test_default_is_to_share(trained):
    card, network = trained
    assert (card.network.architecture, card.network.stem) == ("dmmn-m3", "full")
    assert choose_context(network, card.patch_spec, "auto") == "shared"


def test_model_tells_classes_apart(trained, found):
    """Else agreement would mean nothing."""
    for name, labels in found.items():
        assert np.bincount(labels["patch"].ravel())[1:].max() < 0.8 * SIDE**2
        assert mean_iou(labels["patch"], name, len(trained[0].class_map)) > 0.2


@pytest.mark.parametrize(("context", "least"), [("shared-coarsest", 0.9999), ("shared", 0.995)])
def test_shared_agrees_with_patch(trained, found, context, least):
    for name, labels in found.items():
        assert (labels[context] == labels["patch"]).mean() >= least
        ious = [mean_iou(labels[which], name, len(trained[0].class_map)) for which in (context, "patch")]
        assert abs(ious[0] - ious[1]) <= 0.003


def test_shared_is_not_patch_to_the_last_pixel(found):
    """Zero padding at each target's border does something, so the figures above measure it."""
    assert any((labels["shared"] != labels["patch"]).any() for labels in found.values())
