"""Losses, weights, draws, metrics, augmentation: tables checked by hand."""

import math

import numpy as np
import pytest
import torch

from dmmn_qp.errors import DatasetError
from dmmn_qp.labels.draws import class_balanced_draws, class_weights, shuffled_draws
from dmmn_qp.labels.metrics import Metrics, confusion_matrix, pair_counts
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.labels.random_splits import choose_splits
from dmmn_qp.labels.splits import split_of_word
from dmmn_qp.networks.losses import partial_cross_entropy

HALF = math.log(2)  # cross entropy of two equal logits


def test_equation_1_divides_by_all_pixels():
    logits = torch.zeros(1, 2, 2, 2)
    target = torch.tensor([[[1, 0], [0, 2]]])
    weights = torch.tensor([0.25, 0.75])
    # (0.25 + 0.75) * log 2 over N = 4 pixels
    assert partial_cross_entropy(logits, target, weights, "patch").item() == pytest.approx(HALF / 4)
    assert partial_cross_entropy(logits, target, weights, "labelled").item() == pytest.approx(HALF)


@pytest.mark.parametrize("mean", ["patch", "labelled"])
def test_unlabelled_pixels_have_no_gradient(mean):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[0, 1, 2] = 3
    partial_cross_entropy(logits, target, torch.ones(3), mean).backward()
    touched = logits.grad.abs().sum(dim=1).nonzero().tolist()
    assert touched == [[0, 1, 2]]


@pytest.mark.parametrize("mean", ["patch", "labelled"])
def test_patch_without_labels_gives_zero(mean):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = partial_cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long), torch.ones(3), mean)
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


def test_equation_2():
    assert class_weights(np.array([10, 30, 60]), "paper") == pytest.approx([0.9, 0.7, 0.4])
    assert class_weights(np.array([10]), "paper") == pytest.approx([1.0])
    assert class_weights(np.array([1, 4]), "inverse-sqrt") == pytest.approx([4 / 3, 2 / 3])


def test_official_weights_follow_from_equation_2():
    shares = 1 - np.array([0.841, 0.866, 0.831, 0.828, 0.829, 0.805])
    weights = class_weights((shares * 6.852e9).astype(np.int64), "paper")
    assert weights == pytest.approx([0.841, 0.866, 0.831, 0.828, 0.829, 0.805], abs=1e-3)


def patch(*counts):
    return PatchRef("s", "train", 0, 0, counts)


def test_shuffled_draws_pass_over_every_patch():
    draws = shuffled_draws(5, 12, seed=1, epoch=1)
    for start in (0, 5):
        assert sorted(d.patch for d in draws[start : start + 5]) == list(range(5))
    assert draws == shuffled_draws(5, 12, seed=1, epoch=1)
    assert draws != shuffled_draws(5, 12, seed=1, epoch=2)
    assert len({d.seed for d in draws}) == 12


def test_balanced_draws_take_turns():
    patches = [patch(0, 100, 0), patch(0, 100, 0), patch(0, 100, 0), patch(50, 0, 50), patch(99, 1, 0)]
    draws = class_balanced_draws(patches, 20, seed=0, epoch=1)
    per_class = [sum(d.patch in (0, 1, 2, 4) for d in draws), sum(d.patch == 3 for d in draws)]
    assert per_class == [10, 10]
    assert all(d.patch != 4 for d in draws)  # 1 % is not more than 1 %


def test_class_that_fills_no_patch_is_drawn_all_the_same():
    draws = class_balanced_draws([patch(0, 1000, 0), patch(0, 999, 1)], 10, seed=0, epoch=1)
    assert sum(d.patch == 1 for d in draws) >= 5


TRUTH = np.array([[1, 1, 2], [2, 0, 2]], np.uint8)
PREDICTED = np.array([[1, 2, 2], [2, 1, 1]], np.uint8)


def test_metrics_by_hand():
    confusion = confusion_matrix(TRUTH, PREDICTED, 3)
    assert confusion.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    metrics = Metrics.from_confusion(confusion)
    assert metrics.iou[:2] == pytest.approx([1 / 3, 2 / 4]) and math.isnan(metrics.iou[2])
    assert metrics.recall[:2] == pytest.approx([1 / 2, 2 / 3])
    assert metrics.precision[:2] == pytest.approx([1 / 2, 2 / 3])
    assert metrics.mean_iou == pytest.approx(5 / 12)
    assert metrics.accuracy == pytest.approx(3 / 5)


def test_class_never_predicted_has_precision_zero():
    metrics = Metrics.from_confusion(np.array([[4, 0], [2, 0]]))
    assert metrics.precision.tolist() == [pytest.approx(4 / 6), 0.0]
    assert metrics.iou.tolist() == [pytest.approx(4 / 6), 0.0]


def test_class_without_true_pixels_is_in_no_mean():
    """One stray pixel of it among 100 right ones costs its place in the other class alone."""
    metrics = Metrics.from_confusion(np.array([[99, 0, 1], [0, 50, 0], [0, 0, 0]]))
    assert metrics.mean_iou == pytest.approx((0.99 + 1) / 2)
    assert metrics.mean_recall == pytest.approx((0.99 + 1) / 2)
    assert metrics.mean_precision == 1
    assert all(math.isnan(figures[2]) for figures in (metrics.iou, metrics.recall, metrics.precision))


def test_columns_beyond_the_classes_are_misses():
    metrics = Metrics.from_confusion(np.array([[3, 0, 1, 0], [1, 4, 0, 1]]))
    assert metrics.recall.tolist() == [pytest.approx(3 / 4), pytest.approx(4 / 6)]
    assert metrics.precision.tolist() == [pytest.approx(3 / 4), 1]
    assert metrics.iou.tolist() == [pytest.approx(3 / 5), pytest.approx(4 / 6)]
    assert metrics.accuracy == pytest.approx(7 / 10)


def test_pairs_are_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    true, found = rng.integers(0, 256, (2, 70, 30), np.uint8)
    monkeypatch.setattr("dmmn_qp.labels.metrics._AT_ONCE", 97)
    counts = pair_counts(true, found)
    assert counts.sum() == true.size
    for t, f in [(0, 0), (255, 255), (int(true[0, 0]), int(found[0, 0])), (3, 200)]:
        assert counts[t, f] == ((true == t) & (found == f)).sum()


def test_nothing_labelled():
    metrics = Metrics.from_confusion(confusion_matrix(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8), 2))
    assert math.isnan(metrics.mean_iou) and math.isnan(metrics.accuracy)


@pytest.mark.parametrize(("word", "split"), [("train", "train"), (" Validation ", "val"), ("TEST", "test")])
def test_split_words(word, split):
    assert split_of_word(word, "S") == split


def test_unknown_split_word():
    with pytest.raises(DatasetError, match='slide "S" has split "later"'):
        split_of_word("later", "S")


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 2, 2))]
)
def test_split_sizes(n, sizes):
    splits = choose_splits({f"s{i}": np.array([100, 100]) for i in range(n)}, seed=3)
    assert tuple(list(splits.values()).count(s) for s in ("train", "val", "test")) == sizes


def test_split_keeps_every_class_in_training():
    pixels = {"a": np.array([5, 0]), "b": np.array([5, 7]), "c": np.array([5, 0])}
    for seed in range(10):
        splits = choose_splits(pixels, seed)
        assert splits["b"] == "train"
        assert sorted(splits.values()) == ["test", "train", "val"] or sorted(splits.values()) == [
            "train",
            "train",
            "val",
        ]
