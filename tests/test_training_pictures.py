"""Pictures, logs and reports show a training and never stop it; and they say what the console says."""

import csv
import html
import json
import re
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ModelError
from dmmn_qp.figures import pixels_of, plain_text, seen_colors
from dmmn_qp.folders.model import is_whole, load_card, load_model
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.reports.batch_sheet import SheetCell, draw_batch_sheet
from dmmn_qp.reports.training_report import PatchVerdict, area_colors, draw_curves, draw_verdict
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.training import log, stage
from dmmn_qp.training.events import EventFile
from dmmn_qp.training.judging import ShownPatches
from dmmn_qp.training.log import draw_confusion
from dmmn_qp.training.state import STATE
from tests.conftest import fails, invoke, rectangle, tiny_training, two_tissues, write_features, write_tiff

TINY = tiny_training(epochs=2, steps=1, events=True)

NAMES = ["$a_b$", "_hidden", r"\frac{", "$", "肿瘤", "x" * 200, "two\nlines"]
"""What Matplotlib takes for a formula, leaves out, cannot draw, or has no room for."""


def class_map(n):
    return ClassMap.from_colors((NAMES[i] if i < len(NAMES) else f"class {i}", (i, 9, 200)) for i in range(n))


@pytest.fixture
def train(workspace, here):
    return ["train", "--dataset", workspace / "dataset", *TINY, "--out", "m"]


@pytest.mark.parametrize("n", range(1, 41))
def test_any_figure_has_the_pixels_that_its_canvas_has(n):
    """Sizes of confusion matrices with 1 to 40 classes, some of which lie between two pixels."""
    side = 1.6 + 0.75 * n
    figure = Figure(figsize=(side + 0.6, side), dpi=30)
    rows, columns, channels = pixels_of(figure).shape
    assert abs(rows - 30 * side) <= 1 and abs(columns - 30 * (side + 0.6)) <= 1 and channels == 3


@pytest.mark.parametrize("loss", [120.5, 0.0052, 0.000321])
def test_no_word_beside_the_curves_is_cut(loss):
    """Numbers of more digits need more room."""
    history = [{"epoch": e, "loss": loss / e, "val_mean_iou": 0.5, "val_iou a": 0.5} for e in (1, 2)]
    curve = draw_curves(history, ClassMap.from_colors([("a", (1, 2, 3))]), best_epoch=1)[0].decode()
    (across,) = re.findall(r"<!-- training loss -->\s*<g [^>]*translate\(([-\d.]+) [^>]*rotate\(-90\)", curve)
    assert float(across) > 10  # of the line on which its letters stand, 10 points high


@pytest.mark.parametrize("n", [1, 2, 9, 39, pytest.param(254, marks=pytest.mark.engine)])
def test_pictures_of_any_number_of_classes(n, recwarn):
    classes = class_map(n)
    picture = draw_confusion(np.eye(n, dtype=np.int64), classes.names)
    assert 150 < picture.shape[0] < 2200 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    row = {"epoch": 1, "loss": 1.0, "val_mean_iou": 0.5, **{f"val_iou {name}": 0.5 for name in classes.names}}
    assert all(curve.rstrip().endswith(b"</svg>") for curve in draw_curves([row], classes, best_epoch=1))
    cell = SheetCell("$x", torch.zeros((1, 3, 64, 64), dtype=torch.uint8), torch.zeros((64, 64), dtype=torch.uint8))
    sheet = draw_batch_sheet([[cell, cell]], ["$_"], classes, PatchSpec(size_px=64, mpps=(0.5,)))
    assert Image.open(BytesIO(sheet)).height > 100
    assert not list(recwarn)


def test_names_are_drawn_in_one_line():
    with plain_text():
        assert not Figure().text(0, 0, "$a$").get_parse_math()


def test_an_error_of_any_kind_in_what_only_shows_is_one_line(capsys):
    reporter = Reporter()
    for error in (
        OSError(28, "No space left"),
        ValueError("two\nlines"),
        MemoryError(),
        ModelError("ours"),
        KeyError("k"),
    ):
        with reporter.optional(f"picture {type(error).__name__}"):
            raise error
    for _ in range(2):
        with reporter.optional("once"):
            raise ValueError
    told = capsys.readouterr().err.splitlines()
    assert [line.split("(", 1)[1] for line in told] == [
        *("No space left)", "ValueError: two lines)", "MemoryError)", "ours)", "KeyError: 'k')"),
        "ValueError)",
    ]
    assert told[-1] == "warning: once is left out, all else goes on (ValueError)"
    with pytest.raises(KeyboardInterrupt), reporter.optional("Ctrl-C"):
        raise KeyboardInterrupt


def broken(error):
    def call(*_, **__):
        raise error

    return call


def test_nothing_that_shows_a_training_stops_it(train, here, monkeypatch):
    """All of it broken, each in another way, and the model in place before any of it is tried."""
    real = log.TrainingLog.epoch

    def epoch(self, *args):
        assert is_whole(here / "m")
        return real(self, *args)

    monkeypatch.setattr(log.TrainingLog, "epoch", epoch)
    monkeypatch.setattr(log, "draw_confusion", broken(ValueError("cannot reshape")))
    monkeypatch.setattr(log, "draw_verdict", broken(MemoryError()))
    monkeypatch.setattr(log, "write_table", broken(OSError("full")))
    monkeypatch.setattr(EventFile, "scalar", broken(RuntimeError("torn")))
    monkeypatch.setattr(stage, "write_report", broken(RecursionError("deep")))
    result = invoke(*train)
    assert result.exit_code == 0, result.output
    assert load_card(here / "m").validation["epoch"] in (1, 2) and not (here / "m" / STATE).exists()
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == len(result.stderr.splitlines())
    assert sum("is left out" in line or "all else goes on" in line for line in warned) == 5
    for reason in ("cannot reshape", "MemoryError", "full", "torn", "deep"):
        assert sum(reason in line for line in warned) == 1


def test_events_that_cannot_begin(train, here, monkeypatch):
    monkeypatch.setattr(EventFile, "__init__", broken(PermissionError("no")))
    result = invoke(*train)
    assert result.exit_code == 0 and result.stderr.count("is left out") == 1, result.stderr
    assert (here / "m" / "report.html").is_file() and (here / "m" / "history.csv").is_file()


def test_tensorboard_is_an_extra(train, here, monkeypatch):
    """Without it the training leaves all else; asked for, it says before anything begins how to get it."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "dmmn_qp.training.events")
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    said = fails(*train, "--tensorboard")
    assert "--tensorboard needs TensorBoard; " in said and "[tensorboard]" in said and "pass --no-tensorboard" in said
    assert not (here / "m").exists()
    for instead in (["--dry-run"], ["--folds", "2", "--dry-run"]):
        assert "--tensorboard needs TensorBoard; " in fails(*train, "--tensorboard", *instead)
    result = invoke(*train)
    assert result.exit_code == 0 and "left out" not in result.stderr, result.stderr
    assert (here / "m" / "report.html").is_file() and (here / "m" / "history.csv").is_file()
    assert not (here / "m" / "events").exists()


def test_no_events_where_none_are_wanted(train, here):
    assert invoke(*train, "--no-tensorboard").exit_code == 0
    assert not (here / "m" / "events").exists()


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory):
    """Makes a folder with two slides of 512 x 512 px, annotated with n classes in squares."""

    def make(n):
        folder = tmp_path_factory.mktemp(f"classes-{n}")
        (folder / "slides").mkdir()
        for name in "ab":
            write_tiff(folder / "slides" / f"{name}.tif", two_tissues(512, 512, seed=ord(name)))
            squares = [rectangle(i % 3 * 160 + 10, i // 3 * 160 + 10, 150, 150, f"class {i}") for i in range(n)]
            write_features(folder / "geojson" / f"{name}.geojson", squares)
        (folder / "split.csv").write_text("slide,split\na,train\nb,val\n")
        return ("import", folder / "slides", "--annotations", folder / "geojson", "--split-file", folder / "split.csv")

    return make


def test_training_with_nine_classes(many_classes, here):
    made = invoke(*many_classes(9))
    assert made.exit_code == 0, made.output
    result = invoke("train", *TINY, "--epochs", 1, "--out", "m")
    assert result.exit_code == 0 and "left out" not in result.stderr, result.output
    assert len(load_model(here / "m")[0].class_map) == 9
    assert "class 8" in (here / "m" / "report.html").read_text("utf-8")


def test_a_single_class_cannot_be_learnt(many_classes, here):
    """Its dataset can be made, for others to be compared with."""
    assert invoke(*many_classes(1)).exit_code == 0
    for dry in ([], ["--dry-run"]):
        assert 'has the single class "class 0", which a network would predict everywhere' in fails("train", *TINY, *dry)
    assert not (here / "models").exists()


def with_scores(monkeypatch, scores):
    """Lets each validation find as many of ten pixels of each of two classes right."""
    real, left = stage.validate, list(scores)

    def validate(*args):
        hits = left.pop(0)
        found = np.array([[hits, 10 - hits], [10 - hits, hits]])
        return replace(real(*args), metrics=Metrics.from_confusion(found))

    monkeypatch.setattr(stage, "validate", validate)


def iou(hits):
    return hits / (20 - hits)


def test_the_report_says_what_the_console_said(train, here, monkeypatch):
    """The figures are those of the validation that chose the epoch, and the time is that at the end."""
    with_scores(monkeypatch, [8, 7])
    result = invoke(*train)
    told = re.search(r'best validation mIoU ([\d.]+) \("dark" everywhere: 0.250\), after (.+)', result.stdout)
    assert told and float(told[1]) == pytest.approx(iou(8), abs=5e-4)
    page = html.unescape((here / "m" / "report.html").read_text("utf-8"))
    tiles = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))
    assert tiles["validation mIoU"] == told[1] and tiles["time"] == told[2] and tiles["epoch kept"] == "1 of 2"
    assert tiles["mean recall"] == "0.800"
    last = list(csv.DictReader((here / "m" / "history.csv").read_text("utf-8").splitlines()))[-1]
    assert json.loads((here / "m" / "run.json").read_text("utf-8"))["seconds"] >= float(last["seconds"])
    assert load_card(here / "m").validation["mean_iou"] == pytest.approx(iou(8))


@pytest.mark.parametrize(("scores", "kept"), [([7, 5, 6], 0), ([5, 5, 6], 2)])
def test_the_model_that_training_starts_from_competes(train, workspace, here, monkeypatch, scores, kept):
    source = workspace / "models" / "dmmn-m3-1"
    with_scores(monkeypatch, scores)
    result = invoke(*train, "--from", source)
    assert result.exit_code == 0, result.output
    assert 'starts from model "dmmn-m3-1"; classes matched by name: dark, light' in result.stdout
    assert f"val mIoU before the first step {iou(scores[0]):.3f}" in result.stdout
    assert ("no epoch was better" in result.stderr) is (kept == 0)
    card, network = load_model(here / "m")
    assert card.validation["epoch"] == kept and card.validation["mean_iou"] == pytest.approx(iou(max(scores)))
    told = card.provenance["started_from"]
    assert (told["model"], told["matched"], told["new"]) == ("dmmn-m3-1", ["dark", "light"], [])
    assert told["mean_iou"] == pytest.approx(iou(scores[0]))
    assert told["weights_sha256"] == load_card(source).weights_sha256
    before = load_model(source)[1].state_dict()
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items()) is (kept == 0)
    page = (here / "m" / "report.html").read_text("utf-8")
    assert f"with mIoU {iou(scores[0]):.3f} before the first step" in page and "dark, light" in page
    assert ("its weights were kept" in page) is (kept == 0)
    assert len((here / "m" / "history.csv").read_text().splitlines()) == 3


def verdict(truth, predicted, color=(100, 100, 100)):
    truth, predicted = np.array(truth, np.uint8), np.array(predicted, np.uint8)
    labelled = truth > 0
    right = float((truth == predicted)[labelled].mean()) if labelled.any() else 0.0
    images = np.full((1, *truth.shape, 3), color, np.uint8)
    return PatchVerdict("s", (0, 0), images, truth, predicted, right)


def test_one_patch_of_each_class_and_the_most_wrong():
    """Patch 1 is led by class 1 as patch 0 is, and is better; class 3 leads nowhere; class 4 is nowhere."""
    shown = ShownPatches()
    for number, (truth, predicted) in enumerate(
        (
            ([[1, 1], [1, 2]], [[1, 2], [2, 2]]),  # half
            ([[1, 1], [1, 0]], [[1, 1], [1, 3]]),  # all
            ([[2, 2], [3, 2]], [[2, 2], [1, 2]]),  # three quarters, nothing of class 3
            ([[0, 2], [3, 2]], [[1, 2], [3, 1]]),  # two thirds, all of class 3, half of class 2
            ([[0, 0], [0, 0]], [[1, 1], [1, 1]]),  # nothing is annotated
            ([[1, 1], [1, 1]], [[2, 2], [2, 2]]),  # none
            ([[1, 1], [1, 2]], [[1, 1], [1, 2]]),  # all, and all of class 2, which does not lead
        )
    ):
        shown.add(number, verdict(truth, predicted))
    assert {label: patch.number for label, patch in shown.best.items()} == {1: 1, 2: 2, 3: 3}
    assert [patch.number for patch in shown.worst] == [5, 0, 3, 2]
    assert shown.best[3].predicted.tolist() == [[1, 2], [3, 1]]


def test_swatches_have_the_colours_of_the_areas():
    """Class 1 lies over two colours of tissue; class 2 is nowhere, so it is shown as over glass."""
    classes = ClassMap.from_colors([("a", (200, 0, 0)), ("b", (0, 0, 200))])
    verdicts = [verdict([[1, 1]], [[1, 1]], (100, 100, 100)), verdict([[0, 1]], [[1, 1]], (200, 200, 200))]
    seen = area_colors(verdicts, classes)
    one, other = (draw_verdict(v, classes)[0, -1].astype(int) for v in verdicts)
    assert np.allclose(seen[0], (4 * one + 3 * other) / 7, atol=1) and seen[1] == (114, 114, 224)
    assert area_colors([], classes)[1] == (114, 114, 224)
    none = np.zeros((256, 3), np.uint8)
    assert seen_colors(np.array([[[9, 8, 7]]], np.uint8), np.array([[5]], np.uint8), none)[5].tolist() == [9, 8, 7]
