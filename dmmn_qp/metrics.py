"""Segmentation metrics from a confusion matrix (paper, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.specs import UNLABELLED

Confusion = NDArray[np.int64]
"""(C, C): rows are true classes, columns predicted ones; entry [i, j] counts pixels of label i+1 predicted j+1."""


def confusion_matrix(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], n_classes: int) -> Confusion:
    """Counts the pixels that carry a true label.

    Args:
        truth: Labels, 0 = unlabelled (not counted).
        predicted: Labels of the same shape, 1 .. C wherever the truth is labelled.
        n_classes: C.
    """
    labelled = truth != UNLABELLED
    pairs = (truth[labelled].astype(np.int64) - 1) * n_classes + (predicted[labelled].astype(np.int64) - 1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one confusion matrix; NaN for a class that has no defined value.

    Attributes:
        confusion: The matrix.
        iou: (C,) intersection over union; NaN for a class neither true nor predicted anywhere.
        recall: (C,) share of the class's true pixels that were found; NaN for a class without true pixels.
        precision: (C,) share of the predicted pixels that are right; 0 for a true class that was never predicted,
            NaN for a class neither true nor predicted.
    """

    confusion: Confusion
    iou: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]

    @classmethod
    def from_confusion(cls, confusion: Confusion) -> Metrics:
        """Computes the figures."""
        hits = np.diag(confusion).astype(float)
        true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
        union = true + predicted - hits
        with np.errstate(invalid="ignore", divide="ignore"):
            iou, recall, precision = hits / union, hits / true, hits / predicted
        precision[(predicted == 0) & (true > 0)] = 0.0
        return cls(confusion, iou, recall, precision)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that have a value; NaN when none has."""
        return _nan_mean(self.iou)

    @property
    def mean_recall(self) -> float:
        """Mean over the classes that have a value; NaN when none has."""
        return _nan_mean(self.recall)

    @property
    def mean_precision(self) -> float:
        """Mean over the classes that have a value; NaN when none has."""
        return _nan_mean(self.precision)

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right; NaN when there are none."""
        total = self.confusion.sum()
        return float(np.trace(self.confusion) / total) if total else float("nan")


def _nan_mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
