"""Hits, true and predicted pixels of each class: all figures of an evaluation follow from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Tallies = NDArray[Any]
"""(..., 3, C) numbers: of each class the pixels that are right, that are true, and that were predicted as it. What was
predicted as something that is no true class, or not at all, is among the true pixels alone.
"""

Floats = NDArray[np.float64]


def tallies_of(confusion: NDArray[Any]) -> Tallies:
    """Tallies of confusion matrices.

    Args:
        confusion: (..., C, C + n), see `dmmn_qp.labels.metrics.Confusion`.
    """
    classes = confusion.shape[-2]
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([hits, confusion.sum(axis=-1), confusion.sum(axis=-2)[..., :classes]], axis=-2)


def parts(tallies: Tallies) -> tuple[Floats, Floats, Floats]:
    """(..., C) each: the pixels that are right, that are true, and that were predicted as a class."""
    hits, true, predicted = (tallies[..., i, :].astype(np.float64) for i in range(3))
    return hits, true, predicted


def quotient(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """The quotient, NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        divided = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    return np.where(denominator == 0, np.nan, divided)


def class_iou(tallies: Tallies) -> Floats:
    """(..., C) intersection over union (Eq. 3); NaN for a class without true pixels, as all figures of classes."""
    hits, true, predicted = parts(tallies)
    return _of_true(quotient(hits, true + predicted - hits), true)


def class_recall(tallies: Tallies) -> Floats:
    """(..., C) share of the true pixels that were found (Eq. 4)."""
    hits, true, _ = parts(tallies)
    return quotient(hits, true)


def class_precision(tallies: Tallies) -> Floats:
    """(..., C) share of the predicted pixels that are right (Eq. 5); 0 for a class that was never predicted."""
    hits, true, predicted = parts(tallies)
    return _of_true(np.where(predicted > 0, quotient(hits, predicted), 0.0), true)


def class_dice(tallies: Tallies) -> Floats:
    """(..., C) twice the intersection over the sum of both."""
    hits, true, predicted = parts(tallies)
    return _of_true(quotient(2 * hits, true + predicted), true)


CLASS_FIGURES: Final[dict[str, Callable[[Tallies], Floats]]] = {
    "iou": class_iou,
    "recall": class_recall,
    "precision": class_precision,
    "dice": class_dice,
}
"""Figures of each class: (..., 3, C) -> (..., C)."""


def mean_of_classes(figures: Floats) -> Floats:
    """(...) mean over the classes that have true pixels; NaN where none has."""
    defined = ~np.isnan(figures)
    return quotient(np.where(defined, figures, 0.0).sum(axis=-1), defined.sum(axis=-1))


def frequency_weighted_iou(tallies: Tallies) -> Floats:
    """(...) IoU of each class, weighted by its share of the true pixels."""
    true = tallies[..., 1, :]
    return quotient((np.nan_to_num(class_iou(tallies)) * true).sum(axis=-1), true.sum(axis=-1))


def accuracy(tallies: Tallies) -> Floats:
    """(...) share of the true pixels that are right."""
    return quotient(tallies[..., 0, :].sum(axis=-1), tallies[..., 1, :].sum(axis=-1))


def kappa(tallies: Tallies) -> Floats:
    """(...) Cohen's kappa; NaN where chance alone would be right everywhere."""
    _, true, predicted = parts(tallies)
    total = true.sum(axis=-1)
    right = accuracy(tallies)
    by_chance = quotient((quotient(true, total[..., None]) * predicted).sum(axis=-1), total)
    return quotient(right - by_chance, 1 - by_chance)


MEANS: Final[dict[str, Callable[[Tallies], Floats]]] = {
    "mean_iou": lambda tallies: mean_of_classes(class_iou(tallies)),
    "mean_recall": lambda tallies: mean_of_classes(class_recall(tallies)),
    "mean_precision": lambda tallies: mean_of_classes(class_precision(tallies)),
    "mean_dice": lambda tallies: mean_of_classes(class_dice(tallies)),
    "frequency_weighted_iou": frequency_weighted_iou,
    "accuracy": accuracy,
    "kappa": kappa,
}
"""Figures of all classes together: (..., 3, C) -> (...)."""


def _of_true(figures: Floats, true: Floats) -> Floats:
    return np.where(true > 0, figures, np.nan)
