"""Training as a whole: it goes on after any stop to the same weights, in one process or two, from models too."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from dmmn_qp.cli.config import load_config, train_options
from dmmn_qp.errors import TrainingError
from dmmn_qp.folders.model import WEIGHTS, is_whole, load_card, load_model
from dmmn_qp.networks import ARCHITECTURES, Architecture, build_network
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training import stage
from dmmn_qp.training.checks import check_loss
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.state import STATE, load_state, save_state
from tests.browser import Browser, needs_chromium
from tests.conftest import REPOSITORY, fails, invoke
from tests.official_files import official_state, write_checkpoint

TINY = """
[train]
preset = "scratch"
width = 2
epochs = 2
steps_per_epoch = 3
batch_size = 2
jitter_px = 32
workers = 0
precision = "fp32"
save_minutes = 0
"""

KILLED = """
import os, signal, sys
from dmmn_qp import cli
from dmmn_qp.training import output, stage
name, last = sys.argv.pop(1), int(sys.argv.pop(1))
users = [module for module in (stage, output) if hasattr(module, name)]
real, calls = getattr(users[0], name), 0
def call(*args, **kwargs):
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
for module in users:
    setattr(module, name, call)
cli.run()
"""
"""The command line, killed at the n-th call of a function of the training."""


@pytest.fixture
def tiny(workspace, here):
    (here / "tiny.toml").write_text(TINY)
    return ["train", "--dataset", workspace / "dataset", "--config", "tiny.toml"]


def python(*words, check=True):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert not check or result.returncode == 0, result.stderr
    return result


def weights_of(folder):
    return load_file(folder / WEIGHTS)


def history_of(folder):
    with (folder / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def same_weights(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.engine
def test_kills_change_nothing(tiny, here):
    """Killed while a state is written, within an epoch, and between a model's weights and its card."""
    python("-m", "dmmn_qp", *tiny, "--out", "straight")
    for name, call in (("save_state", 3), ("save_model", 1), ("write_report", 1)):
        command = ["train", "--resume"] if (here / "killed").exists() else tiny
        assert python("-c", KILLED, name, call, *command, "--out", "killed", check=False).returncode == -signal.SIGKILL
        assert (here / "killed" / STATE).is_file()
    assert "interrupted training" in fails(*tiny, "--out", "killed")
    python("-m", "dmmn_qp", "train", "--resume", "--out", "killed")
    assert not (here / "killed" / STATE).exists()
    assert history_of(here / "killed") == history_of(here / "straight")
    assert same_weights(weights_of(here / "killed"), weights_of(here / "straight"))
    assert (here / "killed" / "report.html").is_file() and any((here / "killed" / "events").iterdir())
    assert "no interrupted training" in fails("train", "--resume", "--out", here / "killed")


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from dmmn_qp import cli
from dmmn_qp.folders import model
from dmmn_qp.training import stage
stage.is_whole = lambda folder: False  # so that the second epoch is kept whatever it reaches
replace, cards = Path.replace, 0
def call(self, target):
    global cards
    cards += Path(target).name == model.CARD
    if cards == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = call
cli.run()
"""
"""The command line, killed when the weights of the second epoch are in place and their card is not."""


@pytest.mark.engine
def test_kill_between_weights_and_card(tiny, here):
    """Nobody takes them for a model, and the training goes on to one, even where no later epoch is better."""
    assert python("-c", KILLED_BETWEEN, *tiny, "--out", "killed", check=False).returncode == -signal.SIGKILL
    card = load_card(here / "killed")
    assert card.validation["epoch"] == 1 and weights_of(here / "killed") and not is_whole(here / "killed")
    assert "train --resume --out" in fails("models", "show", "killed")
    state = load_state(here / "killed")
    assert state.epoch == 2
    state.best = 2.0  # no mIoU is higher
    save_state(here / "killed", state)
    result = invoke("train", "--resume", "--out", "killed")
    assert result.exit_code == 0, result.output
    assert load_model(here / "killed")[0].validation["epoch"] == 2 and is_whole(here / "killed")


@pytest.mark.engine
def test_kill_before_the_beginning_is_saved(workspace, tiny, here):
    """Nothing is in the way of another try, and what was to be replaced is still there."""
    assert python("-c", KILLED, "save_state", 1, *tiny, "--out", "new", check=False).returncode == -signal.SIGKILL
    assert not (here / "new").exists()
    shutil.copytree(workspace / "models" / "dmmn-m3-1", here / "old")
    killed = python("-c", KILLED, "save_state", 1, *tiny, "--out", "old", "--overwrite", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert same_weights(weights_of(here / "old"), weights_of(workspace / "models" / "dmmn-m3-1"))
    assert invoke(*tiny, "--out", "old", "--overwrite").exit_code == 0


@pytest.mark.engine
def test_ctrl_c_stops_between_steps_and_says_how_to_go_on(tiny, here):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    (here / "tiny.toml").write_text(TINY.replace("steps_per_epoch = 3", "steps_per_epoch = 500"))
    command = [sys.executable, "-m", "dmmn_qp", *map(str, tiny), "--out", "stopped"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    state, deadline = here / "stopped" / STATE, time.monotonic() + 120
    first = None
    while time.monotonic() < deadline:  # until the first step is saved, beside the beginning
        written = state.stat().st_mtime_ns if state.exists() else None
        first = first or written
        if written != first:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert "dmmn-qp train --resume --out stopped" in errors
    assert torch.load(state, weights_only=True)["step"] >= 1


def test_options_cannot_change_on_resume(tiny):
    assert "leave out --epochs, --overwrite" in fails("train", "--resume", "--epochs", 3, "--overwrite")
    assert "no interrupted training" in fails("train", "--resume")


def test_damaged_state(tiny, here):
    (here / "m").mkdir()
    (here / "m" / STATE).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert "damaged" in fails("train", "--resume", "--out", "m")
    assert not (here / "pwned").exists()


@pytest.mark.engine
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_full_disk_leaves_the_last_state(tiny, here, monkeypatch):
    """The third state does not fit any more; what was saved before goes on to the end."""
    saved, save = [], torch.save

    def limited(content, file):
        saved.append(content["step"])
        if len(saved) == 3:
            with Path("/dev/full").open("wb") as full:
                save(content, full)
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", limited)
        assert "no space is left on the disk" in fails(*tiny, "--out", "m")
    assert torch.load(here / "m" / STATE, weights_only=True)["step"] == saved[1]
    result = invoke("train", "--resume", "--out", "m")
    assert result.exit_code == 0, result.output


@pytest.mark.engine
def test_two_processes_are_one(tiny, here):
    """The same loss curve with the same global batch; without batch norm, whose statistics are each process's own."""
    (here / "tiny.toml").write_text(TINY + 'norm = "none"\n')
    python("-m", "dmmn_qp", *tiny, "--out", "one")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dmmn_qp"]
    printed = python(*launcher, *tiny, "--out", "two").stdout
    assert printed.count("Wrote two") == 1
    one, two = history_of(here / "one"), history_of(here / "two")
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)
        assert float(a["val_mean_iou"]) == pytest.approx(float(b["val_mean_iou"]), abs=0.02)


@pytest.mark.engine
def test_two_processes_with_unequal_parts_of_the_validation(workspace, here):
    """Batch norm and 5 validation patches: no process waits for a call that the other does not make."""
    shutil.copytree(workspace / "dataset", here / "dataset")
    rows = (here / "dataset" / "patches.csv").read_text().splitlines()
    last = max(i for i, row in enumerate(rows) if ",val," in row)
    (here / "dataset" / "patches.csv").write_text("\n".join(rows[:last] + rows[last + 1 :]) + "\n")
    (here / "tiny.toml").write_text(TINY)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "dmmn_qp"]
    python(*launcher, "train", "--config", "tiny.toml", "--epochs", 2, "--steps-per-epoch", 1, "--out", "m")
    assert len(history_of(here / "m")) == 2 and not (here / "m" / STATE).exists()


def test_batch_that_cannot_be_divided(tiny):
    assert "multiple of 4" in fails(*tiny, "--devices", 4, "--batch-size", 6)


def test_no_validation_slide(two_tissue_slides, tiny, here):
    slide, geojson = two_tissue_slides / "slides" / "a.tif", two_tissue_slides / "geojson" / "a.geojson"
    assert invoke("import", slide, "--annotations", geojson).exit_code == 0
    command = ("train", "--config", "tiny.toml", "--epochs", 1)
    assert "--validate-on train" in fails(*command)
    assert not (here / "models").exists()
    result = invoke(*command, "--validate-on", "train")
    assert result.exit_code == 0 and "flatters" in result.stderr, result.output


def test_dry_run_writes_nothing(tiny, here):
    result = invoke(*tiny, "--dry-run")
    assert result.exit_code == 0, result.output
    (here / "shown.toml").write_text(result.stdout, encoding="utf-8")  # as > shown.toml does
    assert train_options(load_config(here / "shown.toml"), {}).steps_per_epoch == 3
    (here / "shown.toml").unlink()
    for text in ("steps_per_epoch = 3", "s a step", "GiB of memory", "dark", "nothing was written"):
        assert text in result.output
    assert [path.name for path in here.iterdir()] == ["tiny.toml"]


def test_start_from_a_model_with_other_classes(workspace, tiny, here):
    """Outputs follow their classes by name; the encoder stays as it is when it is frozen."""
    source = workspace / "models" / "dmmn-m3-1"
    annotations = here / "geojson"
    annotations.mkdir()
    for name in "abc":
        text = (workspace / "dataset" / "annotations" / f"{name}.geojson").read_text()
        (annotations / f"{name}.geojson").write_text(text.replace('"light"', '"bright"'))
    slides = Path(json.loads((workspace / "dataset" / "dataset.json").read_text())["slides"][0]["path"]).parent
    assert invoke("import", slides, "--annotations", annotations).exit_code == 0
    command = ["train", "--config", "tiny.toml", "--from", source, "--learning-rate", 1e-9, "--out", "tuned"]
    result = invoke(*command, "--freeze", "encoder")
    assert result.exit_code == 0, result.output
    card = load_card(here / "tuned")
    assert card.network == load_card(source).network  # and not the width that the file asks for
    assert set(card.class_map.names) == {"dark", "bright"}
    old, new = load_model(source)[1].state_dict(), load_model(here / "tuned")[1].state_dict()
    bias = "network.final.2.bias"
    assert new[bias][card.class_map.names.index("dark")] == pytest.approx(
        old[bias][load_card(source).class_map.names.index("dark")].item(), abs=1e-6
    )
    encoder = [key for key in old if ".encoders." in key or key.startswith("stems.")]
    assert encoder and all(torch.equal(old[key], new[key]) for key in encoder)


def test_start_from_the_authors_model(tiny, workspace, here):
    """Its output 0 is left behind; conventions, licence and the weights of known classes are not."""
    file = write_checkpoint(here / "c.pkl", official_state(2))
    names = "a,light,b,dark,c,d"
    assert (
        invoke("models", "import-official", file, "--preset", "msk-breast", "--out", "m", "--classes", names).exit_code
        == 0
    )
    result = invoke(*tiny, "--from", "m", "--learning-rate", 1e-9, "--out", "tuned")
    assert result.exit_code == 0, result.output
    source, card = load_card(here / "m"), load_card(here / "tuned")
    assert (card.network.reserved_outputs, card.network.width, card.class_map.names) == (0, 2, ("dark", "light"))
    assert (card.input, card.licence, card.attribution) == (source.input, "CC-BY-NC-4.0", source.attribution)
    old, new = (weights_of(here / name)["network.final.2.bias"] for name in ("m", "tuned"))
    assert torch.allclose(new, old[[4, 2]], atol=1e-6)
    assert invoke("predict", "a", "--dataset", workspace / "dataset", "--model", "tuned").exit_code == 0


def test_network_that_is_new_here_learns_and_is_tuned(tiny, here, monkeypatch):
    """One that no other file knows, with layers of other names, from training to starting with it, frozen or not."""
    monkeypatch.setitem(ARCHITECTURES, "new", Architecture(OneBlock, paper_width=4, divisor=1, max_magnifications=1))
    assert invoke(*tiny, "--architecture", "new", "--out", "m").exit_code == 0
    tune = (*tiny, "--from", "m", "--freeze", "encoder")
    monkeypatch.setattr(stage, "is_whole", lambda folder: False)  # so that the last epoch is kept whatever it reaches
    result = invoke(*tune)
    assert result.exit_code == 0, result.output
    old, new = (weights_of(here / name) for name in ("m", "models/new-1"))  # called after its own network
    same = {key for key in old if torch.equal(old[key], new[key])}
    assert same == {key for key in old if "head" not in key}  # the stems are encoders too
    monkeypatch.setattr(OneBlock, "encoders", [])
    assert "--freeze encoder would freeze nothing of OneBlock" in fails(*tune)
    monkeypatch.delattr(OneBlock, "encoders")
    assert "OneBlock does not say which of its parts are `encoders` and `output`" in fails(*tune)


class OneBlock(nn.Module):
    def __init__(self, classes, width, magnifications, norm, in_channels):
        super().__init__()
        self.features = nn.Conv2d(in_channels, width, 3, padding=1)
        self.head = nn.Conv2d(width, classes, 1)

    encoders = property(lambda self: [self.features])
    output = property(lambda self: self.head)

    def forward(self, images):
        return self.head(self.features(images[0]).relu())


def test_start_from_another_geometry(workspace, tiny, here, two_tissue_slides):
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    assert invoke("import", slides, "--annotations", geojson, "--mpps", "0.5,1").exit_code == 0
    assert "--mpps 0.5,1,2" in fails("train", "--from", workspace / "models" / "dmmn-m3-1")


@pytest.mark.engine
@needs_chromium
def test_report_in_chromium(workspace, tmp_path):
    page = workspace / "models" / "dmmn-m3-1" / "report.html"
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        shown = browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
        assert len(shown) >= 3 and all(shown)
        assert browser.evaluate("document.scripts.length") == 0
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "dark" in browser.evaluate("document.body.innerText")
        assert browser.requests() == [page.as_uri()]
        assert browser.problems() == []


def test_events_for_tensorboard(workspace):
    events = EventAccumulator(str(workspace / "models" / "dmmn-m3-1" / "events")).Reload()
    history = history_of(workspace / "models" / "dmmn-m3-1")
    assert [e.value for e in events.Scalars("validation/mean_iou")] == pytest.approx(
        [float(row["val_mean_iou"]) for row in history]
    )
    assert [e.step for e in events.Scalars("train/loss")] == [10, 20, 30, 40, 50, 60]
    assert len(events.Images("validation/confusion")) == len(events.Images("validation/patches")) == 2


@pytest.mark.parametrize("architecture", ["dmmn-m3", "dmmn-m2s"])
def test_branches_answer_for_their_own_fields(architecture):
    network = build_network(architecture, classes=3, width=2, magnifications=3, size_px=64, stem="half")
    module = SupervisedBranches(network, 3, 2)
    images = [torch.rand(2, 3, 64, 64) for _ in range(3)]
    outputs = module(images)
    assert [tuple(x.shape) for x in outputs] == [(2, 3, 64, 64)] * 3
    assert torch.equal(outputs[0], network(images))
    changed = module([images[0], images[1] + 0.5, images[2]])
    assert not torch.equal(outputs[1], changed[1]) and torch.equal(outputs[2], changed[2])
    assert module.stemmed.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("architecture", ["segnet", "unet", "dmmn-s2", "dmmn-ms"])
def test_networks_without_such_branches_have_one_output(architecture):
    network = build_network(architecture, classes=3, width=2, magnifications=3, size_px=64)
    assert len(SupervisedBranches(network, 3, 2)([torch.rand(1, 3, 64, 64) for _ in range(3)])) == 1


@pytest.mark.parametrize(("fits", "advice"), [(2, "--batch-size 2"), (0, "--width")])
def test_gpu_memory_that_does_not_suffice(tiny, monkeypatch, fits, advice):
    forward = SupervisedBranches.forward

    def limited(self, images):
        if images[0].shape[0] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    monkeypatch.setattr(SupervisedBranches, "forward", limited)
    assert advice in fails(*tiny, "--batch-size", 5)


def test_loss_that_is_no_number():
    check_loss(0.5, 1, TrainOptions())
    with pytest.raises(TrainingError, match="--learning-rate"):
        check_loss(math.nan, 3, TrainOptions())
    with pytest.raises(TrainingError, match="fp32"):
        check_loss(math.inf, 3, TrainOptions(precision="bf16"))
