"""`dmmn-qp train` with the preset fast, through the command line: rounds of a head on a pretrained encoder."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from dmmn_qp.console import Reporter
from dmmn_qp.features.computing import tiles_over
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_card, load_model
from dmmn_qp.networks.dmmn_p import CELL_PX, DmmnP
from dmmn_qp.regions import Region
from dmmn_qp.training.frozen import HeadTraining
from dmmn_qp.training.launch import make_fabric
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.plan import make_module, make_plan
from dmmn_qp.training.state import STATE
from dmmn_qp.training.undrawn import open_cells
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.test_training import KILLED, history_of, python, same_weights, weights_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(workspace, tmp_path_factory):
    """A folder with the model ``m`` of the preset fast, and what was said."""
    folder = tmp_path_factory.mktemp("fast")
    result = invoke("train", "--dataset", workspace / "dataset", "--out", folder / "m", "--precision", "fp32")
    assert result.exit_code == 0, result.output
    return folder, result


def test_a_model_after_three_rounds(trained, workspace):
    folder, result = trained
    card = load_card(folder / "m")
    assert (card.network.architecture, card.network.encoder, card.network.views) == ("dmmn-p", "efficientnet-lite0", 3)
    assert (card.network.norm, card.network.stem) == ("none", "full")
    assert card.validation["mean_iou"] > 0.95 and card.validation["steps"] > 0
    assert card.input.mean == (127, 127, 127) and card.input.beyond == "mirror"
    assert [row["epoch"] for row in history_of(folder / "m")] == ["1", "2", "3"]
    assert "round 1/3" in result.stdout and "self-training with" in result.stdout
    assert not (folder / "m" / STATE).exists()
    report = (folder / "m" / "report.html").read_text("utf-8")
    assert "round kept" in report and "steps of the head" in report
    options = json.loads((folder / "m" / "run.json").read_text())["configuration"]
    assert (options["epochs"], options["norm"], options["stem"], options["width"]) == (0, "none", "full", 64)


def test_it_predicts(trained, workspace, here):
    folder, _ = trained
    slide = here / "s.tif"
    write_tiff(slide, two_tissues(520, 776, seed=9))
    assert invoke("predict", slide, "--model", folder / "m", "--out", "p").exit_code == 0
    labels = tifffile.imread("p/s.labels.ome.tif")
    labels = labels if labels.ndim == 2 else labels[0]
    truth = np.where(np.arange(776) < 388, 1, 2)
    assert (labels == truth).mean() > 0.97
    assert (labels[:, :376] == 1).all() and (labels[:, 400:] == 2).all()  # no stripe at the right and lower border


def test_what_the_encoder_has_seen_is_not_looked_at_again(trained, workspace, here, monkeypatch):
    folder, _ = trained

    def refuse(*_):
        raise AssertionError("looked again")

    monkeypatch.setattr(DmmnP, "see", refuse)
    command = ("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--out", "again")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert same_weights(weights_of(Path("again")), weights_of(folder / "m"))
    assert history_of(Path("again")) == history_of(folder / "m")


@pytest.mark.engine
def test_a_kill_changes_nothing(trained, workspace, here):
    folder, _ = trained
    command = ("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--out", "killed")
    found = python("-c", KILLED, "save_as_model", 1, *command, check=False)
    assert found.returncode == -signal.SIGKILL and Path("killed", STATE).is_file()
    python("-m", "dmmn_qp", "train", "--resume", "--out", "killed")
    assert same_weights(weights_of(Path("killed")), weights_of(folder / "m"))
    assert history_of(Path("killed")) == history_of(folder / "m")


def test_one_round_without_self_training(workspace, here):
    command = ("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--out", "m")
    result = invoke(*command, "--self-training", 0, "--views", 1)
    assert result.exit_code == 0, result.output
    assert len(history_of(Path("m"))) == 1 and load_card(Path("m")).network.views == 1
    assert load_model(Path("m"))[1].network.views == 1
    assert "views should be 1, 3 or 8" in fails(*command, "--views", 2, "--overwrite")


def test_without_validation_slides_steps_are_chosen_by_leaving_slides_out(workspace, here):
    command = ("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--out", "m", "--views", 1)
    result = invoke(*command, "--self-training", 0, "--validate-on", "train")
    assert result.exit_code == 0, result.output
    assert "chosen on the training slides" in result.stderr
    assert load_card(Path("m")).validation["steps"] % 50 == 0


def test_then_the_whole_network_learns(workspace, here):
    options = ("--epochs", 1, "--steps-per-epoch", 2, "--batch-size", 2, "--workers", 0, "--self-training", 0)
    command = ("train", "--dataset", workspace / "dataset", *options, "--views", 1, "--precision", "fp32", "--out", "m")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "round 1/2" in result.stdout and "epoch 2/2" in result.stdout
    rows = history_of(Path("m"))
    assert [row["epoch"] for row in rows] == ["1", "2"] and float(rows[1]["learning_rate"]) < 1e-3


def test_an_encoder_that_has_learned_is_asked_anew(trained, workspace, here):
    """What the frozen one saw is of no use then, and nothing of it is kept."""
    head = head_training(Dataset(workspace / "dataset"))
    slide, tile = head.source._slides["a"], tiles_over([Region(0, 0, 512, 512)])
    (before,), (again,) = (list(head.source.maps.of_tiles(slide, tile)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(before, again, strict=True))
    with torch.no_grad():
        head._network.encoder.stem[0].weight.mul_(0.5)
    (after,) = head.source.maps.of_tiles(slide, tile)
    assert not torch.equal(before[0], after[0])


def test_stopped_by_hand_it_says_how_to_go_on(trained, workspace, here, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HeadTraining, "validate", stop)
    result = invoke("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--out", "m")
    assert result.exit_code == 130 and "go on with dmmn-qp train --resume --out m" in result.stderr
    assert Path("m", STATE).is_file()


def test_it_starts_from_a_model(trained, workspace, here):
    folder, _ = trained
    command = ("train", "--dataset", workspace / "dataset", "--precision", "fp32", "--from", folder / "m")
    result = invoke(*command, "--self-training", 0, "--out", "m")
    assert result.exit_code == 0, result.output
    assert "val mIoU before the first step" in result.stdout
    card = load_card(Path("m"))
    assert card.network.encoder == "efficientnet-lite0" and card.provenance["started_from"]["matched"]


def test_networks_from_scratch_need_epochs(workspace, here):
    line = fails("train", "--dataset", workspace / "dataset", "--preset", "scratch", "--epochs", 0)
    assert "learns nothing in 0 epochs" in line


def test_a_dry_run_estimates(workspace, here):
    result = invoke("train", "--dataset", workspace / "dataset", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "the encoder looks at" in result.stdout and "nothing was written" in result.stdout
    assert not list(here.iterdir())


# ---- where self-training may look


def head_training(dataset):
    plan = make_plan(dataset, TrainOptions(precision="fp32"), CPU, Reporter())
    network = make_module(plan, dataset).stemmed
    return HeadTraining(dataset, plan, network, make_fabric(plan.options, CPU), (), Reporter())


def open_mask_of(head, slide_id, rows, columns):
    """Which cells of a slide are open to self-training, as one mask."""
    whole = np.zeros((-(-rows // 1024) * 256, -(-columns // 1024) * 256), bool)
    labels = head._labels(head._plan.training, ("drawn", "corrected", "confirmed", "predicted"))
    found = open_cells(head._dataset, head._plan.training, list(labels), head._rng)
    for place, free in found.items():
        if place.slide_id == slide_id:
            y, x = place.tile.y // CELL_PX, place.tile.x // CELL_PX
            whole[y : y + 256, x : x + 256] = free
    return whole


def test_self_training_stays_off_what_is_drawn_ignored_or_apart(here):
    (here / "slides").mkdir()
    for seed, name in enumerate(("train", "val")):
        write_tiff(here / "slides" / f"{name}.tif", two_tissues(512, 768, seed=seed))
        features = [rectangle(40, 40, 200, 200, "dark"), rectangle(500, 40, 200, 200, "light")]
        features.append(rectangle(100, 300, 100, 100, "Ignore*"))
        write_features(here / "geojson" / f"{name}.geojson", features)
    (here / "splits.csv").write_text("slide,split\ntrain,train\nval,val\n")
    done = invoke("import", "slides", "--annotations", "geojson", "--split-file", "splits.csv")
    assert done.exit_code == 0, done.output
    head = head_training(Dataset(here / "dataset"))
    free = open_mask_of(head, "train", 512, 768)
    assert not open_mask_of(head, "val", 512, 768).any()
    assert free[60, 100] and free[100, 160]  # undrawn tissue
    assert not free[30, 30] and not free[30, 150]  # drawn
    assert not free[80, 30] and not free[75:100, 25:50].any()  # ignored
    assert not free[128:].any() and not free[:, 192:].any()  # beyond the slide


def test_no_more_than_was_drawn_is_added(trained, workspace):
    lines = [line for line in trained[1].stdout.splitlines() if "self-training with" in line]
    assert len(lines) == 2
    for line in lines:
        added, drawn = (int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit())
        assert 0 < added <= max(drawn, 2000)


def test_weights_hold_no_normalisation(trained):
    names = load_file(trained[0] / "m" / "weights.safetensors").keys()
    assert not [name for name in names if "running" in name] and "network.encoder.stem.0.weight" in names
    assert (trained[0] / "m" / "weights.safetensors").stat().st_size < 13 * 2**20
