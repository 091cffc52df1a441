"""Losses, weights, draws, metrics, augmentation: tables checked by hand."""

import math

import numpy as np
import pytest
import torch

from dmmn_qp.augment import Augmentation
from dmmn_qp.balance import class_balanced_draws, class_weights, shuffled_draws
from dmmn_qp.errors import DatasetError
from dmmn_qp.losses import partial_cross_entropy
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.patches import PatchRef
from dmmn_qp.splits import draw_splits, split_of_word

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


def test_nothing_labelled():
    metrics = Metrics.from_confusion(confusion_matrix(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8), 2))
    assert math.isnan(metrics.mean_iou) and math.isnan(metrics.accuracy)


def change(angle=0.0, zoom=1.0, flip=False, gain=(1, 1, 1), offset=0.0):
    return Augmentation(angle, zoom, flip, np.array(gain, np.float32), offset)


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (change(), lambda a: a),
        (change(angle=math.pi / 2), np.rot90),
        (change(angle=math.pi), lambda a: np.rot90(a, 2)),
        (change(flip=True), lambda a: a[::-1]),
        (change(angle=math.pi / 2, flip=True), lambda a: np.rot90(a)[::-1]),
    ],
)
def test_quarter_turns_and_flips_are_exact(moved, expected):
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    margin = moved.margin_px(4)
    assert np.array_equal(moved.move(np.pad(labels, margin), 4, labels=True), expected(labels))
    pixels = np.stack([np.pad(labels, margin)] * 3, axis=-1)
    assert np.abs(moved.move(pixels, 4, labels=False)[..., 1].astype(int) - expected(labels)).max() <= 1


def test_zoom_is_about_the_centre():
    source = np.pad(np.full((2, 2), 9, np.uint8), 11)  # 2 px in the middle
    assert (change(zoom=0.5).move(source, 8, labels=True) == 9).sum() == 16


def test_drawn_changes_stay_inside_their_margin():
    for seed in range(50):
        drawn = Augmentation.draw(np.random.default_rng(seed))
        margin = drawn.margin_px(32)
        inside = drawn.move(np.ones((32 + 2 * margin,) * 2, np.uint8), 32, labels=True)
        assert inside.all()  # nothing from beyond the source
        assert 0.8 <= drawn.zoom <= 1.25


def test_magnifications_stay_concentric():
    """A disc about the patch's centre is about that centre at every magnification after any change."""
    for seed in range(5):
        drawn = Augmentation.draw(np.random.default_rng(seed))
        margin = drawn.margin_px(64)
        side = 64 + 2 * margin
        y, x = np.mgrid[:side, :side] + 0.5 - side / 2
        for radius in (20, 10, 5):
            disc = drawn.move(((np.hypot(x, y) < radius) * 255).astype(np.uint8), 64, labels=True) > 0
            ys, xs = np.nonzero(disc)
            assert abs(ys.mean() - 31.5) < 0.5 and abs(xs.mean() - 31.5) < 0.5
            assert disc.sum() == pytest.approx(math.pi * (radius / drawn.zoom) ** 2, rel=0.15)


def test_recolouring_is_per_channel_and_bounded():
    recolored = change(gain=(1, 2, 0.5), offset=0.1)
    pixels = np.array([[[0, 128, 255]]], np.uint8)
    expected = [0.1, (128 / 255 - 0.5) * 2 + 0.6, 0.5 * 0.5 + 0.6]
    assert recolored.recolor(pixels)[0, 0] == pytest.approx([round(255 * v) for v in expected], abs=1)
    assert recolored.recolor(np.full((2, 2, 3), 255, np.uint8)).max() == 255


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
    splits = draw_splits({f"s{i}": np.array([100, 100]) for i in range(n)}, seed=3)
    assert tuple(list(splits.values()).count(s) for s in ("train", "val", "test")) == sizes


def test_split_keeps_every_class_in_training():
    pixels = {"a": np.array([5, 0]), "b": np.array([5, 7]), "c": np.array([5, 0])}
    for seed in range(10):
        splits = draw_splits(pixels, seed)
        assert splits["b"] == "train"
        assert sorted(splits.values()) == ["test", "train", "val"] or sorted(splits.values()) == [
            "train",
            "train",
            "val",
        ]
