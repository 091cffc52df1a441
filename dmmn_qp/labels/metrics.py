"""Segmentation metrics from a confusion matrix (paper, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.labels.meeting import pair_numbers
from dmmn_qp.labels.tallies import (
    accuracy,
    class_iou,
    class_precision,
    class_recall,
    mean_of_classes,
    tallies_of,
)
from dmmn_qp.specs import UNLABELLED

Confusion = NDArray[np.int64]
"""(C, C + n): rows are true classes; columns the same classes as predicted, then n others that are never right (classes
that the truth does not have, or no prediction). Entry [i, j] counts the pixels of true class i predicted as j.
"""

PairCounts = NDArray[np.int64]
"""(256, 256): pixels by true value (row) and predicted value (column), before either of them is given a class."""

_VALUES = 256
_AT_ONCE = 2**22
_SAME = 1e-9


def confusion_matrix(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> Confusion:
    """Counts the pixels that carry a true label, where truth and prediction number the classes alike.

    Args:
        truth: Labels, 0 = unlabelled (not counted).
        predicted: Labels of the same shape, 1 .. C wherever the truth is labelled.
        n_classes: C.
    """
    labelled = truth != UNLABELLED
    pairs = (truth[labelled].astype(np.int64) - 1) * n_classes + (predicted[labelled].astype(np.int64) - 1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def pair_counts(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> PairCounts:
    """Counts all pixels by what they are and what they were predicted as; memory does not grow with the arrays.

    Args:
        truth: Values.
        predicted: Values of the same shape.
    """
    counts = np.zeros(_VALUES**2, np.int64)
    true, found = truth.ravel(), predicted.ravel()
    for start in range(0, true.size, _AT_ONCE):
        pairs = pair_numbers(true[start : start + _AT_ONCE], found[start : start + _AT_ONCE])
        counts += np.bincount(pairs, minlength=counts.size)
    return counts.reshape(_VALUES, _VALUES)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one confusion matrix.

    A class without a single true pixel has no figures, whatever was predicted as it, and so is part of no mean: a stray
    pixel must not weigh as much as a class.

    Attributes:
        confusion: The matrix.
        iou: (C,) intersection over union; NaN for a class without true pixels.
        recall: (C,) share of the class's true pixels that were found; NaN likewise.
        precision: (C,) share of the predicted pixels that are right, 0 for a class that was never predicted; NaN
            likewise.
    """

    confusion: Confusion
    iou: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def from_confusion(cls, confusion: Confusion) -> Metrics:
        """Computes the figures."""
        tallies = tallies_of(confusion)
        return cls(confusion, class_iou(tallies), class_recall(tallies), class_precision(tallies))

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that have true pixels; NaN when none has."""
        return float(mean_of_classes(self.iou))

    @property
    def constant_class(self) -> int:
        """Index of the class that is best said everywhere, if one must be: that with most true pixels."""
        return int(self.confusion.sum(axis=1).argmax())

    @property
    def constant_mean_iou(self) -> float:
        """The mean IoU of whoever says `constant_class` everywhere; NaN when no class has true pixels."""
        true = self.confusion.sum(axis=1)
        return float(true.max() / true.sum() / (true > 0).sum()) if true.any() else float("nan")

    @property
    def is_worthless(self) -> bool:
        """Whether the mean IoU is no higher than without looking; never where there is nothing to tell apart."""
        return int((self.confusion.sum(axis=1) > 0).sum()) > 1 and self.mean_iou <= self.constant_mean_iou + _SAME

    @property
    def mean_recall(self) -> float:
        """Mean over the classes that have true pixels; NaN when none has."""
        return float(mean_of_classes(self.recall))

    @property
    def mean_precision(self) -> float:
        """Mean over the classes that have true pixels; NaN when none has."""
        return float(mean_of_classes(self.precision))

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right; NaN when there are none."""
        return float(accuracy(tallies_of(self.confusion)))


def confusion_by_name(
    counts: PairCounts, true: Mapping[int, str], found: Mapping[int, str], columns: Sequence[str], classes: int
) -> Confusion:
    """Joins true and predicted values by the exact names of their classes.

    Args:
        counts: Pixels by value.
        true: Name of each true value; several may share one. Values without a name do not count.
        found: Name of each predicted value, likewise.
        columns: The true classes that count, and predicted classes that the truth does not have.
        classes: How many of them are true.

    Returns:
        (classes, columns + 1); the last column counts what has no prediction.
    """
    places = {name: column for column, name in enumerate(columns)}
    rows, joined = np.zeros((_VALUES, classes), np.int64), np.zeros((_VALUES, len(columns) + 1), np.int64)
    for value, name in true.items():
        if places.get(name, classes) < classes:
            rows[value, places[name]] = 1
    joined[UNLABELLED, -1] = 1
    for value, name in found.items():
        joined[value, places[name]] = 1
    return np.asarray(rows.T @ counts @ joined)
