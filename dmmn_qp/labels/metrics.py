"""Segmentation metrics from a confusion matrix (paper, section 3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        pairs = true[start : start + _AT_ONCE].astype(np.uint16) * _VALUES + found[start : start + _AT_ONCE]
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
        hits = np.diag(confusion).astype(float)
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)[: hits.size]
        union = true + predicted - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, recall, precision = hits / union, hits / true, hits / predicted
        precision[predicted == 0] = 0.0
        for figures in (iou, recall, precision):
            figures[true == 0] = np.nan
        return cls(confusion, iou, recall, precision)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that have true pixels; NaN when none has."""
        return _nan_mean(self.iou)

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
        return _nan_mean(self.recall)

    @property
    def mean_precision(self) -> float:
        """Mean over the classes that have true pixels; NaN when none has."""
        return _nan_mean(self.precision)

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right; NaN when there are none."""
        total = self.confusion.sum()
        return float(np.trace(self.confusion) / total) if total else float("nan")


@dataclass(frozen=True, slots=True)
class NamedMetrics:
    """Figures of classes that truth and prediction may number differently.

    Attributes:
        classes: Names of the true classes, C of them; the rows of the matrix and its first columns.
        others: Names of predicted classes that the truth does not have; the columns that follow.
        metrics: The figures; the last column of the matrix, after the others, counts pixels without a prediction.
        unpredicted: True pixels without a prediction, whether they were counted or left out.
        labelled: True pixels, those that were left out included.
    """

    classes: tuple[str, ...]
    others: tuple[str, ...]
    metrics: Metrics
    unpredicted: int
    labelled: int


def compare_by_name(
    counts: Sequence[PairCounts],
    truth: Mapping[int, str],
    predicted: Sequence[Sequence[str]],
    *,
    exclude: Collection[str] = (),
    skip_unpredicted: bool = False,
) -> NamedMetrics:
    """Joins truth and predictions by the exact names of the classes.

    Args:
        counts: Of each slide.
        truth: Name of each true value from 1 on; several may share one. 0 is not counted.
        predicted: Of each slide, the names of the predicted labels from 1 on; several may share one.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether true pixels without a prediction do not count either; else they are misses.
    """
    classes = tuple(name for name in dict.fromkeys(truth.values()) if name not in exclude)
    others = tuple(dict.fromkeys(name for names in predicted for name in names if name not in classes))
    columns = {name: column for column, name in enumerate((*classes, *others))}
    rows = np.zeros((_VALUES, len(classes)), np.int64)
    for value, name in truth.items():
        if name in classes:
            rows[value, columns[name]] = 1
    confusion = np.zeros((len(classes), len(columns) + 1), np.int64)
    for of_slide, names in zip(counts, predicted, strict=True):
        joined = np.zeros((_VALUES, len(columns) + 1), np.int64)
        joined[UNLABELLED, -1] = 1
        for label, name in enumerate(names, start=1):
            joined[label, columns[name]] = 1
        confusion += rows.T @ of_slide @ joined
    unpredicted, labelled = int(confusion[:, -1].sum()), int(confusion.sum())
    if skip_unpredicted:
        confusion[:, -1] = 0
    return NamedMetrics(classes, others, Metrics.from_confusion(confusion), unpredicted, labelled)


def _nan_mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
