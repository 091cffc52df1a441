"""Cross-validation: cases are never divided, no model is judged on what it saw, and nothing is done twice."""

import csv
import json
from math import nan

import numpy as np
import pytest

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.divided import write_divided
from dmmn_qp.folders.folds import CrossValidation, FoldRecord, FoldResult, read_folds
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.folds import choose_folds
from dmmn_qp.labels.metrics import confusion_matrix
from dmmn_qp.labels.spread import Spread
from dmmn_qp.predicting.array import predict_pixels
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.regions import Region
from dmmn_qp.reports.fold_table import fold_table
from dmmn_qp.training.learner import Learner
from dmmn_qp.training.options import PRESETS, TrainOptions
from dmmn_qp.workflows import folds as workflow
from tests.conftest import fails, invoke, rectangle, tiny_training, two_tissues, write_features, write_tiff
from tests.predicting import SwitchedOffError, switched_off

CLASSES = ("a", "b", "c")
SLIDES = ("p1_a", "p1_b", "p2_a", "p3_a", "p4_a")


def cases(*pixels):
    return {f"case {i}": np.array(of_case, np.int64) for i, of_case in enumerate(pixels)}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("pixels", "number"),
    [
        (cases(*[(5, 5, 5)] * 5), 5),
        (cases(*[(5, 1, 9)] * 10), 5),
        (cases(*[(3, 2, 1)] * 7), 3),
        (cases((9, 0, 0), (9, 0, 1), (0, 5, 1), (1, 5, 0), (9, 1, 1)), 5),
        (cases((9, 9, 9), (9, 9, 0), (9, 9, 0), (9, 9, 0), (9, 9, 0)), 4),  # the first alone has the third class
        (cases((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 1, 1)), 5),
        (cases(*[(1, 0, 0)] * 4), 4),  # two classes are nowhere
    ],
)
def test_each_case_is_held_out_once_and_every_class_can_be_learned(pixels, number, seed):
    folds = choose_folds(pixels, CLASSES, number, seed)
    total = sum(pixels.values())
    alone = {case for case, own in pixels.items() if ((own == total) & (own > 0)).any()}
    assert sorted(case for fold in folds for case in fold.held_out) == sorted(pixels.keys() - alone)
    assert max(len(f.held_out) for f in folds) - min(len(f.held_out) for f in folds) <= 1
    for fold in folds:
        assert fold.validation and not set(fold.held_out) & set(fold.validation)
        taught = sum(own for case, own in pixels.items() if case not in (*fold.held_out, *fold.validation))
        assert (taught[total > 0] > 0).all()
    assert choose_folds(pixels, CLASSES, number, seed) == folds
    without = choose_folds(pixels, CLASSES, number, seed, validated=False)
    assert [fold.held_out for fold in without] == [fold.held_out for fold in folds]
    assert not any(fold.validation for fold in without)


@pytest.mark.parametrize(
    ("pixels", "number", "said"),
    [
        (cases(*[(1, 1, 1)] * 4), 5, "there are 4 to hold out; pass --folds 4"),
        (
            cases(*[(1, 1, 0)] * 4, (1, 1, 1)),
            5,
            '"case 4" alone has "c", and is for training in every fold; pass --folds 4',
        ),
        (
            cases((1, 1, 1), (1, 1, 1)),
            2,
            "others to learn from and to choose the best epoch by; there are 2 to hold out; annot",
        ),
        (cases(*[(1, 1, 1)] * 3), 2, "there are 3 to hold out; pass --folds 3"),  # one would be left for both
        (cases((1, 0, 0), (0, 1, 0), (0, 0, 1)), 2, "annotate more slides"),
    ],
)
def test_too_few_cases_are_refused_with_a_way_out(pixels, number, said):
    with pytest.raises(DatasetError) as error:
        choose_folds(pixels, CLASSES, number, 0)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "pixels",
    [
        cases((2, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0)),  # in two folds, of two only one is for training
        cases((1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)),  # and of the others one chooses the epoch
    ],
)
def test_a_class_that_no_division_can_keep_is_named(pixels):
    with pytest.raises(DatasetError, match=r'class "[abc]" is on so few cases'):
        choose_folds(pixels, CLASSES, 2, 0)


def test_spread_by_hand():
    assert Spread.of([0.5, nan, 0.7]) == Spread(2, 0.6, pytest.approx(0.02**0.5), 0.5, 0.7)
    assert Spread.of([0.5]) == Spread(1, 0.5, None, 0.5, 0.5)
    assert Spread.of([nan]) == Spread(0)


def validation_of(*confusions):
    records = [
        FoldRecord(held_out=("s",), validation=(), result=FoldResult(confusion=confusion)) for confusion in confusions
    ]
    base = {"dataset": "d", "dataset_digest": "e", "without_test": False, "options": {}}
    return CrossValidation(classes=("dark", "light"), folds=tuple(records), **base)


def test_table_by_hand():
    """IoU of dark 8 / 10 and 4 / 10, together 12 / 20; light is held out by the first fold alone, 8 / 10."""
    header, rows = fold_table(validation_of(((8, 2), (0, 8)), ((4, 6), (0, 0))))
    assert header == ("class", "IoU", "spread", "lowest", "highest", "pooled", "folds")
    assert rows[0] == ("dark", "0.600", "0.283", "0.400", "0.800", "0.600", "2")
    assert rows[1] == ("light", "0.800", "-", "0.800", "0.800", "0.500", "1")
    assert rows[2] == ("mean of classes", "0.600", "0.283", "0.400", "0.800", "0.550", "2")


def test_a_matrix_of_other_classes_is_damage(tmp_path):
    content = validation_of(((8, 2), (0, 8)), ((4, 6), (0, 0))).model_dump(mode="json")
    content["folds"][0]["result"]["confusion"] = [[1]]
    (tmp_path / "folds.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="2 x 2 classes"):
        read_folds(tmp_path)
    assert read_folds(tmp_path / "elsewhere") is None


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Five small slides of four cases, imported."""
    folder = tmp_path_factory.mktemp("cases")
    (folder / "slides").mkdir()
    for seed, name in enumerate(SLIDES):
        write_tiff(folder / "slides" / f"{name}.tif", two_tissues(256, 512, seed=seed))
        drawn = [rectangle(10, 10, 200, 220, "dark"), rectangle(290, 10, 200, 220, "light")]
        write_features(folder / "geojson" / f"{name}.geojson", drawn)
    source = (folder / "slides", "--annotations", folder / "geojson")
    result = invoke("import", *source, "--case-pattern", "^[^_]+", "--out", folder / "dataset")
    assert result.exit_code == 0, result.output
    return folder / "dataset"


@pytest.fixture(scope="module")
def command(dataset):
    """What trains two folds in no time, and saves its state after every step."""
    path = dataset.parent / "quick.toml"
    path.write_text("[train]\nsave_minutes = 0\n")
    return ("train", "--dataset", dataset, "--folds", 2, "--config", path, *tiny_training(epochs=1, steps=3))


@pytest.fixture(scope="module")
def whole(command, dataset):
    """A cross-validation that nothing stopped."""
    result = invoke(*command, "--out", dataset.parent / "whole")
    assert result.exit_code == 0, result.output
    return dataset.parent / "whole", result.output


def test_cases_stay_together_and_models_are_judged_on_what_they_did_not_see(whole, dataset):
    out, said = whole
    validation, slides = read_folds(out), {name: seed for seed, name in enumerate(SLIDES)}
    assert sorted(s for fold in validation.folds for s in fold.held_out) == sorted(slides)
    for i, fold in enumerate(validation.folds, 1):
        own = Dataset(out / "datasets" / f"fold-{i}")
        splits = {record.slide_id: record.split for record in own.slides()}
        assert splits["p1_a"] == splits["p1_b"]
        assert {s for s, split in splits.items() if split == "test"} == set(fold.held_out)
        assert {s for s, split in splits.items() if split == "val"} == set(fold.validation)
        assert all(patch.split == splits[patch.slide_id] for patch in own.patches())
        card = json.loads((out / f"fold-{i}" / "model.json").read_text())
        taught = {record.fingerprint for record in own.slides("train")}
        assert set(card["provenance"]["training_fingerprints"]) == taught
        expected = np.zeros((2, 2), np.int64)
        for slide_id in fold.held_out:
            pixels, options = two_tissues(256, 512, seed=slides[slide_id]), PredictOptions(precision="fp32")
            labels = predict_pixels(pixels, 0.5, out / f"fold-{i}", options).labels
            with LabelRaster(Dataset(dataset).mask_path(slide_id)) as mask:
                expected += confusion_matrix(mask.read(Region(0, 0, 512, 256)), labels, 2)
        assert np.array_equal(fold.result.confusion, expected) and expected.sum() > 0
    with (out / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["dark", "light", "mean of classes"]
    assert float(rows[2]["iou_mean"]) == pytest.approx(validation.rows()[2].iou.mean, abs=1e-6)
    assert "mean of classes" in said and "fold 2: held out" in said


def test_no_seed_divides_a_case(dataset):
    for seed in range(8):
        options = TrainOptions(preset="scratch", seed=seed)
        asked = workflow.FoldsRequest(dataset, dataset.parent / "none", 4 if seed % 2 else 2, options)
        for fold in workflow.divide(asked, Reporter()).folds:
            for chosen in (fold.held_out, fold.validation):
                assert ("p1_a" in chosen) == ("p1_b" in chosen)


def test_slides_without_annotations_stay_as_they_are(dataset, tmp_path):
    write_divided(Dataset(dataset), tmp_path / "other", {"p4_a": "test"})
    rows = (tmp_path / "other" / "patches.csv").read_text().splitlines(keepends=True)
    (tmp_path / "other" / "patches.csv").write_text("".join(row for row in rows if not row.startswith("p4_a")))
    asked = workflow.FoldsRequest(tmp_path / "other", tmp_path / "none", 3, TrainOptions(preset="scratch"))
    found = workflow.divide(asked, Reporter())
    assert sorted(s for fold in found.folds for s in fold.held_out) == sorted(SLIDES[:-1])
    splits = workflow._splits(found.folds[0], Dataset(tmp_path / "other"), asked)
    assert "p4_a" not in splits and splits.keys() == set(SLIDES[:-1])


@pytest.mark.engine  # two trainings more
def test_after_a_kill_the_same_command_goes_on_where_it_was(whole, command, dataset, monkeypatch):
    """Switched off in the second step of the second training, it neither trains the first again nor loses the step."""
    out, steps, step = dataset.parent / "killed", [], Learner.step

    def counting(self, *args):
        steps.append(1)
        if len(steps) == 5:
            raise SwitchedOffError
        return step(self, *args)

    monkeypatch.setattr(Learner, "step", counting)
    switched_off(*command, "--out", out)
    assert read_folds(out).folds[0].result is not None and read_folds(out).folds[1].result is None
    steps[:] = [0] * 10
    result = invoke(*command, "--out", out)
    assert result.exit_code == 0, result.output
    assert "1 of 2 folds are finished" in result.output
    assert len(steps) == 10 + 2  # of three steps one was done
    before, after = read_folds(whole[0]), read_folds(out)
    for i, (one, other) in enumerate(zip(before.folds, after.folds, strict=True), 1):
        assert one.result.confusion == other.result.confusion
        weights = [folder / f"fold-{i}" / "weights.safetensors" for folder in (whole[0], out)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_is_finished_is_not_trained_again_and_nothing_else_takes_its_place(whole, command, dataset, monkeypatch):
    out = dataset.parent / "whole"
    monkeypatch.setattr(workflow, "train", None)
    monkeypatch.setattr(workflow, "predicted_annotations", None)
    again = invoke(*command, "--out", out)
    assert again.exit_code == 0 and again.output.endswith(whole[1][whole[1].index("mean of classes") :]), again.output
    assert "other options (seed)" in fails(*command, "--out", out, "--seed", 1)
    assert "goes on by the command that began it" in fails(*command, "--resume")
    assert "no fold would hold it out" in fails(*command, "--from", out / "fold-1")
    assert "one process" in fails(*command, "--devices", 2)
    assert "pass --folds 5" in fails("train", "--dataset", dataset, "--without-test")


def test_one_of_an_earlier_version_is_the_same_where_it_did_the_same():
    """It knew no copies of validation patches."""
    folds = (FoldRecord(held_out=("a",), validation=("b",)), FoldRecord(held_out=("b",), validation=("a",)))
    base = {"dataset": "d", "dataset_digest": "0", "without_test": False, "classes": CLASSES, "folds": folds}
    for preset, differences in (("scratch", ""), ("paper", "other options (balance_validation)")):
        options = TrainOptions(**PRESETS[preset]).model_dump(mode="json")
        known = {name: value for name, value in options.items() if name != "balance_validation"}
        before, wanted = (CrossValidation(options=of_run, **base) for of_run in (known, options))
        assert workflow._differences(before, wanted) == differences


def test_slides_for_test_stay_out_where_that_is_asked_for(command, dataset):
    apart = ", ".join(record.slide_id for record in Dataset(dataset).slides("test"))
    shown = invoke(*command, "--dry-run").output
    assert f"take part like all others (--without-test leaves them out): {apart}" in shown
    assert "2 folds need" in fails(*command, "--dry-run", "--without-test")  # of three cases one would be left
