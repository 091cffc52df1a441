"""`dmmn-qp models`: what is said of a model."""

import json

import pytest

from dmmn_qp.checkpoint import (
    CARD,
    WEIGHTS,
    InputConvention,
    ModelCard,
    NetworkOptions,
    load_card,
    load_model,
    save_model,
)
from dmmn_qp.dataset import Dataset, LabelRaster
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.qupath.geojson import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.specs import ClassMap, PatchSpec
from tests.conftest import CMU_1, DEMO, REPOSITORY, fails, invoke


@pytest.fixture
def model(here):
    card = ModelCard(
        name="two tissues",
        network=NetworkOptions(architecture="dmmn-ms", width=2, norm="batch", stem="half", reserved_outputs=1),
        class_map=ClassMap.from_colors([("dark", (90, 20, 110)), ("light*", (230, 200, 255))]),
        patch_spec=PatchSpec(size_px=128, mpps=(0.25, 0.5), stride_px=64),
        input=InputConvention(channels="BGR", mean=(0.5, 0.25, 0), std=(1, 2, 3), reduction="decimate"),
        validation={"epoch": 3, "mean_iou": 0.81234, "iou": {"dark": 0.75, "light*": None}},
        provenance={"run_id": "abc", "slides": ["a", "b"]},
        created="2026-01-01T00:00:00+00:00",
        licence="CC0-1.0",
        attribution="Somebody",
    )
    (here / "m").mkdir()
    save_model(here / "m", card, card.build())
    return here / "m"


def test_show_says_all_of_it(model):
    result = invoke("models", "show", "m")
    assert result.exit_code == 0, result.output
    parameters = sum(p.numel() for p in load_model(model)[1].parameters())
    for said in (
        "two tissues",
        "dmmn-ms, width 2, batch norm, computes at half the resolution",
        f"{parameters:,} parameters, 3 outputs; the first of no class and never predicted",
        "1  dark    #5A146E\n",
        "2  light*  #E6C8FF  not exported",
        "0.25, 0.5 um/px, each 128 x 128 px",
        "of the 64 um given, for a target of 32 um",
        "BGR 0 .. 255 / 255, minus mean 0.5, 0.25, 0, divided by std 1, 2, 3",
        "every 2nd, 4th ... pixel",
        "epoch 3",
        "mean_iou 0.812",
        "iou: dark 0.750, light* -",
        "CC0-1.0",
        "Somebody",
        "slides a, b",
        "2026-01-01",
        "MiB in m",
    ):
        assert said in result.stdout, said


def test_show_as_json(model):
    shown = json.loads(invoke("models", "show", "m", "--json").stdout)
    assert shown["card"] == json.loads((model / CARD).read_text())
    assert shown["size_bytes"] == sum(path.stat().st_size for path in model.iterdir())
    assert shown["field_um"] == 64 and 0 < shown["context_um"] <= 64


def test_show_of_something_else(model, here):
    assert "is not a model" in fails("models", "show", "none")
    assert "is not a model" in fails("models", "show", ".")
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:-9])
    assert "damaged" in fails("models", "show", "m")
    (model / CARD).write_text('{"architecture": "resnet50"}')
    assert "model card" in fails("models", "show", "m")


def test_shrunk_model_is_half_as_large_and_predicts_as_before(workspace, here):
    source = workspace / "models" / "dmmn-m3-1"
    result = invoke("models", "shrink", source, "--out", "small")
    assert result.exit_code == 0, result.output
    assert (here / "small" / WEIGHTS).stat().st_size < 0.6 * (source / WEIGHTS).stat().st_size
    slide = json.loads((workspace / "dataset" / "dataset.json").read_text())["slides"][0]["path"]
    for model, out in ((source, "before"), ("small", "after")):
        assert invoke("predict", slide, "--model", model, "--out", out, "--precision", "fp32").exit_code == 0
    labels = []
    for out in ("before", "after"):
        (path,) = (here / out).glob("*.labels.ome.tif")
        with LabelRaster(path) as raster:
            labels.append(raster.read(Region(0, 0, 768, 512)))
    assert (labels[0] == labels[1]).mean() > 0.995
    assert "exists" in fails("models", "shrink", source, "--out", "small")


def test_weights_that_half_precision_cannot_hold(model):
    card, network = load_model(model)
    counters = [b for name, b in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counters
    counters[0].fill_(10**6)  # a count of steps is kept as it is, however long the training
    save_model(model, card, network)
    assert invoke("models", "shrink", "m", "--out", "long").exit_code == 0
    next(network.parameters()).data.fill_(1e6)
    save_model(model, card, network)
    assert "beyond half precision" in fails("models", "shrink", "m", "--out", "small")


def test_the_shipped_model_knows_the_demo_slides(here):
    """Small enough to ship, and it finds on the test slide what the truth map holds."""
    model = REPOSITORY / "models" / "demo"
    assert sum(path.stat().st_size for path in model.iterdir()) < 3_000_000
    slide = DEMO / "slides" / "test-1.tif"
    assert invoke("predict", slide, "--model", model, "--out", "p").exit_code == 0
    whole = Region(0, 0, 3072, 3072)
    with (
        LabelRaster(here / "p" / "test-1.labels.ome.tif") as found,
        LabelRaster(DEMO / "truth" / "test-1.png") as truth,
    ):
        confusion = confusion_matrix(truth.read(whole), found.read(whole), 6)
    assert load_card(model).class_map.names == Dataset(imported(here)).class_map.names
    assert Metrics.from_confusion(confusion).mean_iou > 0.7


def imported(here):
    assert invoke("import", DEMO / "project.qpproj", "--out", here / "dataset").exit_code == 0
    return here / "dataset"


def test_the_shipped_model_runs_on_a_real_slide(here):
    result = invoke("predict", CMU_1, "--model", REPOSITORY / "models" / "demo")
    assert result.exit_code == 0, result.output
    assert not read_geojson(here / "predictions" / "CMU-1-Small-Region.geojson").warnings
