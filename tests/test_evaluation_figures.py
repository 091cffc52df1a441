"""The figures of an evaluation: against tables computed by hand, and against plain second implementations."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dmmn_qp.evaluating.figures import Samples, boundary_figures, calibration_of, figures_of
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.labels import boundaries
from dmmn_qp.labels.boundaries import (
    DISTANCE_BINS,
    BoundaryCounter,
    BoundaryRules,
    boundary_iou,
    distance_percentile_um,
    mean_distance_um,
)
from dmmn_qp.labels.calibration import expected_calibration_error, reliability_sums
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.labels.objects import ObjectCounter, matched_iou, object_f1
from dmmn_qp.labels.resampling import by_sample, drawn_anew, exchange_test, interval
from dmmn_qp.labels.tallies import CLASS_FIGURES, MEANS, tallies_of
from dmmn_qp.regions import Region


def pixels(seed, classes, n=400):
    """True and predicted classes of n pixels, 0 .. classes - 1, and `classes` for what is no true class."""
    rng = np.random.default_rng(seed)
    true = (
        rng.integers(0, classes, n) if seed % 3 else np.minimum(rng.integers(0, classes, n), rng.integers(0, classes))
    )
    found = np.where(rng.random(n) < 0.6, true, rng.integers(0, classes + seed % 2, n))
    return true, found


def plainly(true, found, classes):
    """Every figure, pixel by pixel, as scikit-learn defines them (``labels`` = the classes with true pixels)."""
    pairs = [*zip(true.tolist(), found.tolist(), strict=True)]
    n = len(pairs)
    right = sum(t == f for t, f in pairs) / n
    figures = {"accuracy": right, "iou": {}, "recall": {}, "precision": {}, "dice": {}}
    for c in range(classes):
        hits = sum(t == f == c for t, f in pairs)
        n_true, n_found = sum(t == c for t, _ in pairs), sum(f == c for _, f in pairs)
        if n_true:
            figures["iou"][c] = hits / sum(c in pair for pair in pairs)
            figures["recall"][c] = recall = hits / n_true
            figures["precision"][c] = precision = hits / n_found if n_found else 0.0
            figures["dice"][c] = 2 * precision * recall / (precision + recall) if hits else 0.0
    for name in ("iou", "recall", "precision", "dice"):
        figures[f"mean_{name}"] = sum(figures[name].values()) / len(figures[name])
    figures["frequency_weighted_iou"] = sum(figures["iou"][t] for t, _ in pairs) / n
    by_chance = sum((true == c).mean() * (found == c).mean() for c in range(classes + 1))
    figures["kappa"] = (right - by_chance) / (1 - by_chance) if by_chance < 1 else np.nan
    return figures


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 6))
def test_all_figures_are_those_of_a_plain_implementation(seed, classes):
    true, found = pixels(seed, classes)
    confusion = np.zeros((classes, classes + 1), np.int64)
    np.add.at(confusion, (true, found), 1)
    tallies, expected = tallies_of(confusion), plainly(true, found, classes)
    for name, figure in MEANS.items():
        assert figure(tallies) == pytest.approx(expected[name], nan_ok=True), name
    for name, figure in CLASS_FIGURES.items():
        values = [expected[name].get(c, np.nan) for c in range(classes)]
        assert figure(tallies) == pytest.approx(values, nan_ok=True), name
    metrics = Metrics.from_confusion(confusion)
    assert metrics.mean_iou == pytest.approx(expected["mean_iou"])
    assert metrics.accuracy == pytest.approx(expected["accuracy"])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6))
def test_all_figures_are_those_of_scikit_learn(seed, classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    true, found = pixels(seed, classes)
    confusion = sklearn.confusion_matrix(true, found, labels=range(classes + 1))[:classes]
    tallies = tallies_of(confusion)
    there = {"labels": np.unique(true), "average": "macro", "zero_division": 0}
    expected = {
        "mean_iou": sklearn.jaccard_score(true, found, **there),
        "mean_recall": sklearn.recall_score(true, found, **there),
        "mean_precision": sklearn.precision_score(true, found, **there),
        "mean_dice": sklearn.f1_score(true, found, **there),
        "frequency_weighted_iou": sklearn.jaccard_score(true, found, **{**there, "average": "weighted"}),
        "accuracy": sklearn.accuracy_score(true, found),
        "kappa": sklearn.cohen_kappa_score(true, found),
    }
    for name, figure in MEANS.items():
        assert figure(tallies) == pytest.approx(expected[name], nan_ok=True), name


def test_figures_by_hand():
    """Class c has no true pixel; one pixel of a was predicted as it, one of b not at all."""
    tallies = tallies_of(np.array([[6, 1, 1, 0], [2, 5, 0, 1], [0, 0, 0, 0]]))
    assert CLASS_FIGURES["iou"](tallies) == pytest.approx([6 / 10, 5 / 9, np.nan], nan_ok=True)
    assert CLASS_FIGURES["recall"](tallies) == pytest.approx([6 / 8, 5 / 8, np.nan], nan_ok=True)
    assert CLASS_FIGURES["precision"](tallies) == pytest.approx([6 / 8, 5 / 6, np.nan], nan_ok=True)
    assert CLASS_FIGURES["dice"](tallies) == pytest.approx([12 / 16, 10 / 14, np.nan], nan_ok=True)
    assert MEANS["frequency_weighted_iou"](tallies) == pytest.approx((6 / 10 + 5 / 9) / 2)
    by_chance = (8 * 8 + 8 * 6) / 16**2  # rows 8, 8; columns 8, 6
    assert MEANS["kappa"](tallies) == pytest.approx((11 / 16 - by_chance) / (1 - by_chance))
    assert all(np.isnan(figure(tallies_of(np.zeros((2, 3), int)))) for figure in MEANS.values())


SLIDES = np.array([[[9, 1], [2, 8]], [[5, 5], [5, 5]], [[1, 0], [0, 0]], [[7, 3], [0, 10]]])
"""Confusion matrices of four slides."""


def accuracies(sums):
    return MEANS["accuracy"](sums)


def test_an_interval_is_the_middle_of_what_resamples_give():
    tallies = tallies_of(SLIDES)
    weights = drawn_anew(4, 2000, 7)
    assert (weights.sum(axis=1) == 4).all() and weights.mean(axis=0) == pytest.approx(1, abs=0.1)
    low, high = interval(tallies, accuracies, weights, 0.9)
    plain = sorted(
        sum(w * np.trace(m) for w, m in zip(row, SLIDES, strict=True))
        / sum(w * m.sum() for w, m in zip(row, SLIDES, strict=True))
        for row in weights
    )
    assert (low, high) == pytest.approx((np.quantile(plain, 0.05), np.quantile(plain, 0.95)))
    again = interval(tallies, accuracies, drawn_anew(4, 2000, 7), 0.9)
    assert again == (low, high)  # a fixed seed
    of_classes = interval(tallies, CLASS_FIGURES["iou"], weights, 0.9)
    assert (of_classes[0] < of_classes[1]).all()


def test_one_slide_has_no_interval_and_no_test():
    tallies = tallies_of(SLIDES[:1])
    assert np.isnan(interval(tallies, accuracies, drawn_anew(1, 10, 0), 0.9)).all()
    assert np.isnan(exchange_test(tallies, tallies, accuracies, 0))


def test_slides_of_a_case_are_one_sample():
    assert by_sample(np.array([1, 2, 4, 8]), ["y", "x", "y", "x"]).tolist() == [5, 10]


def test_exchanging_by_hand():
    """Three slides of 10 px each: one model has 9, 8, 7 right, the other 5, 8, 6. All eight ways are tried."""
    right = [np.array([9, 8, 7]), np.array([5, 8, 6])]
    models = [np.stack([np.stack([r, np.full(3, 10), np.full(3, 10)], axis=1)], axis=2) for r in right]
    found = exchange_test(*models, accuracies, 0)
    ways = [
        sum(sign * d for sign, d in zip(signs, (4, 0, 1), strict=True))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    assert found == np.mean([abs(way) >= 5 for way in ways]) == 0.5
    assert exchange_test(models[0], models[0], accuracies, 0) == 1


def test_many_slides_are_exchanged_at_random_and_the_better_model_is_found():
    rng = np.random.default_rng(0)
    right = rng.integers(50, 60, (40, 1))
    models = [np.stack([right + better, np.full((40, 1), 100), np.full((40, 1), 100)], axis=1) for better in (3, 0)]
    assert exchange_test(*models, accuracies, 1) == pytest.approx(1 / 10_001)
    assert exchange_test(models[0], models[0], accuracies, 1) == 1


def blobs(seed, shape, classes=3, grain=3):
    """A map of classes with what does not count, and one that is like it."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.uniform_filter(rng.random(shape), grain) for _ in range(classes)]
    true = np.argmax(noise, axis=0).astype(np.uint8) + 1
    found = np.argmax([n + rng.normal(0, 0.05, shape) for n in noise], axis=0).astype(np.uint8) + 1
    uncounted = ndimage.uniform_filter(rng.random(shape), 5) > 0.62
    true[uncounted] = found[uncounted] = 0
    found[(rng.random(shape) < 0.02) & ~uncounted] = classes + 1
    return true, found


def objects_plainly(true, found, classes, min_px):
    sums = np.zeros((classes, 4))
    for c in range(1, classes + 1):
        areas = []
        for labels in (true, found):
            numbers, n = ndimage.label(labels == c)
            masks = [numbers == i for i in range(1, n + 1)]
            areas.append([m for m in masks if m.sum() >= min_px])
        sums[c - 1, :2] = [len(side) for side in areas]
        for t, f in itertools.product(*areas):
            iou = (t & f).sum() / (t | f).sum()
            if iou > 0.5:
                sums[c - 1, 2:] += [1, iou]
    return sums


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    grain=st.integers(1, 6),
    rows=st.sampled_from([1, 2, 5, 13, 40]),
    min_px=st.sampled_from([0, 4]),
)
def test_objects_are_those_of_the_whole_whatever_the_strips(seed, grain, rows, min_px):
    true, found = blobs(seed, (40, 30), grain=grain)
    counter = ObjectCounter(3, min_px)
    for y in range(0, 40, rows):
        counter.add(true[y : y + rows], found[y : y + rows])
    assert counter.finish() == pytest.approx(objects_plainly(true, found, 3, min_px))


def test_objects_by_hand():
    """Of class 1: a true area that was found, one that was missed, and one that was made up."""
    true = np.array([[1, 1, 0, 1], [1, 1, 2, 2], [2, 2, 2, 2]], np.uint8)
    found = np.array([[1, 1, 0, 2], [1, 2, 2, 2], [2, 2, 2, 1]], np.uint8)
    counter = ObjectCounter(2, 0)
    counter.add(true, found)
    sums = counter.finish()
    assert sums[0].tolist() == [2, 2, 1, 0.75]
    assert object_f1(sums)[0] == 0.5 and matched_iou(sums)[0] == 0.75
    assert np.isnan(object_f1(np.zeros((1, 4)))) and np.isnan(matched_iou(np.zeros((1, 4))))


def boundaries_plainly(true, found, c, rules):
    """Of one class: pixels of both and of either strip, and all distances in um."""
    rows, columns = true.shape
    strips, borders = [], []
    for labels in (true, found):
        every, near = [], np.zeros(true.shape, bool)
        for y, x in np.argwhere(labels > 0):
            sides = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            if any(0 <= v < rows and 0 <= u < columns and labels[v, u] not in (0, labels[y, x]) for v, u in sides):
                every.append((y, x))
        for y, x in np.argwhere(labels == c):
            near[y, x] = bool(every) and np.hypot(*(np.array(every) - (y, x)).T).min() <= rules.width_px - 1
        strips.append(near)
        borders.append(np.array([at for at in every if labels[at] == c]).reshape(-1, 2))
    distances = []
    for one, other in (borders, borders[::-1]):
        for point in one:
            d = np.hypot(*(other - point).T).min() * rules.mpp if len(other) else rules.limit_um
            distances.append(min(d, rules.limit_um))
    return (strips[0] & strips[1]).sum(), (strips[0] | strips[1]).sum(), distances


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    grain=st.integers(2, 9),
    strip=st.sampled_from([7, 16, 40]),
    few=st.sampled_from([0, 40_000]),
)
def test_boundaries_are_those_of_the_whole_whatever_the_strips(monkeypatch, seed, grain, strip, few):
    """And whether few border pixels are looked for or many."""
    monkeypatch.setattr(boundaries, "_FEW", few)
    true, found = blobs(seed, (40, 24), grain=grain)
    rules = BoundaryRules(width_um=1.5, limit_um=3.0, mpp=0.5)
    counter = BoundaryCounter(3, rules)
    halo = rules.halo_px
    for y in range(0, 40, strip):
        top, bottom = max(0, y - halo), min(40, y + strip + halo)
        counter.add(true[top:bottom], found[top:bottom], Region(0, y - top, 24, min(strip, 40 - y)))
    for c in (1, 2, 3):
        both, either, distances = boundaries_plainly(true, found, c, rules)
        sums = counter.sums[c - 1]
        assert (sums[0], sums[1], sums[3]) == (both, either, len(distances))
        assert mean_distance_um(sums) == pytest.approx(np.mean(distances) if distances else np.nan, nan_ok=True)
        if distances:
            ordered = np.sort(distances)[int(np.ceil(0.95 * len(distances))) - 1]
            assert distance_percentile_um(sums, 3.0) == pytest.approx(ordered, abs=3.0 / DISTANCE_BINS)


def test_boundaries_across_tiles():
    """A border 1,000 px long that lies 2 px beside the true one, and another across the tiles' seam at 1,024 px."""
    true = np.ones((60, 2100), np.uint8)
    found = true.copy()
    true[20:, :1000], found[22:, :1000] = 2, 2
    true[:, 1500:], found[:, 1500:] = 2, 2
    rules = BoundaryRules(width_um=4.0, limit_um=50.0, mpp=2.0)
    counter = BoundaryCounter(2, rules)
    counter.add(true, found, Region(0, 0, 2100, 60))
    whole = BoundaryCounter(2, rules)
    whole._add_tile(true, found, Region(0, 0, 2100, 60))
    assert counter.sums == pytest.approx(whole.sums)
    assert 0 < mean_distance_um(counter.sums)[0] < 4.0
    assert boundary_iou(counter.sums)[0] < 1


def test_identical_maps_have_perfect_borders():
    true, _ = blobs(3, (50, 50), grain=5)
    counter = BoundaryCounter(3, BoundaryRules(1.0, 5.0, 0.5))
    counter.add(true, true, Region(0, 0, 50, 50))
    assert boundary_iou(counter.sums).tolist() == [1, 1, 1]
    assert mean_distance_um(counter.sums).tolist() == [0, 0, 0]
    assert distance_percentile_um(counter.sums, 5.0) == pytest.approx(0, abs=5.0 / DISTANCE_BINS)


def test_calibration_by_hand():
    """Two bins: 0.4 and 0.5 of which one is right, and 0.9 twice, both right."""
    sums = reliability_sums(np.array([0.4, 0.5, 0.9, 0.9]), np.array([True, False, True, True]), bins=2)
    assert sums.tolist() == [[2, 2], [0.9, 1.8], [1, 2]]
    assert expected_calibration_error(sums) == pytest.approx((abs(0.9 - 1) + abs(1.8 - 2)) / 4)
    assert np.isnan(expected_calibration_error(np.zeros((3, 2))))


def test_slides_of_smaller_pixels_count_no_more():
    """Of two slides, whose pixels are 1 and 2 um wide: strips and pixels count by area, borders by their length."""
    samples = Samples.of(["a", "b"], [1.0, 2.0], EvaluateOptions(resamples=0))
    sums = np.zeros((2, 1, 4 + DISTANCE_BINS))
    sums[:, 0, :4] = [(4, 8, 10, 5), (1, 1, 4, 1)]
    sums[:, 0, 4] = 5, 1
    (found,) = boundary_figures([*sums], ["x"], np.array([True]), samples)
    assert found.boundary_iou.value == pytest.approx((4 + 4 * 1) / (8 + 4 * 1))
    assert found.mean_distance_um.value == pytest.approx((10 + 2 * 4) / (5 + 2 * 1))
    confusions = [np.array([[6, 4, 0]]), np.array([[1, 0, 0]])]  # right, of another class, not predicted
    figures = figures_of(confusions, ["x"], ["y"], samples, labelled=11, unpredicted=0)
    assert figures.accuracy.value == pytest.approx(10 / 14) and figures.pixels == 11
    assert figures.row_shares()[0] == pytest.approx((10 / 14, 4 / 14))
    of_probability = np.zeros((3, 10))
    of_probability[:, 5] = 10, 5.5, 10
    calibration = calibration_of({"a": of_probability, "b": of_probability * [[1], [1], [0]]}, samples)
    (bin_,) = [b for b in calibration.bins if b.pixels]
    assert (bin_.pixels, bin_.accuracy) == (20, pytest.approx(10 / 50))


def test_pixels_of_nearly_the_same_size_count_as_they_are_in_the_matrix():
    samples = Samples.of(["a", "b"], [0.498, 0.502], EvaluateOptions(resamples=0))
    confusions = [np.array([[6, 4, 0]]), np.array([[1, 0, 0]])]
    assert figures_of(confusions, ["x"], ["y"], samples, labelled=11, unpredicted=0).accuracy.value == 7 / 11
