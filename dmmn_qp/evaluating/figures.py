"""Figures of what was counted, with intervals over slides, or over cases where these are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.evaluating.options import DISTANCE_LIMIT_UM, EvaluateOptions
from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    BoundaryFigures,
    Calibration,
    CalibrationBin,
    ClassFigures,
    Figure,
    Figures,
    ObjectFigures,
)
from dmmn_qp.labels.boundaries import boundary_iou, distance_percentile_um, in_one_um, mean_distance_um
from dmmn_qp.labels.calibration import expected_calibration_error
from dmmn_qp.labels.metrics import Confusion
from dmmn_qp.labels.objects import matched_iou, object_f1
from dmmn_qp.labels.resampling import Statistic, by_sample, drawn_anew, interval
from dmmn_qp.labels.tallies import CLASS_FIGURES, MEANS, tallies_of
from dmmn_qp.specs import MM2_OF_UM2

_SAME_UM: Final = 0.05
"""Pixels of slides that differ by no more, relatively, count as equal."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The slides of which figures are, and what is drawn anew for their intervals.

    Attributes:
        names: The sample of each slide: its case, or itself.
        pixel_um: um/px of each slide's rasters.
        weights: How often each sample is in each resample; empty for no intervals.
        confidence: Part of the resamples in an interval.
    """

    names: tuple[str, ...]
    pixel_um: tuple[float, ...]
    weights: NDArray[np.float64]
    confidence: float

    @classmethod
    def of(cls, names: Sequence[str], pixel_um: Sequence[float], options: EvaluateOptions) -> Samples:
        """Draws samples anew as the options say."""
        count = len(set(names))
        weights = drawn_anew(count, options.resamples if count > 1 else 0, options.seed)
        return cls(tuple(names), tuple(pixel_um), weights, options.confidence)

    @property
    def relative_um(self) -> NDArray[np.float64]:
        """(slides,) um/px of each slide in those of the finest: 1 where all have nearly the same.

        So the pixels count that the confusion matrix shows, on slides such as the paper's of .498 and .502 um/px.
        """
        um = np.array(self.pixel_um, np.float64)
        relative: NDArray[np.float64] = um / um.min()
        return relative if relative.max() > 1 + _SAME_UM else np.ones_like(relative)

    def by_area(self, pixels: NDArray[Any]) -> NDArray[np.float64]:
        """Numbers of pixels as areas, so that a slide does not weigh more because its pixels are smaller.

        Args:
            pixels: (slides, ...).

        Returns:
            The same in pixels of the slide of the finest.
        """
        areas = np.square(self.relative_um).reshape(-1, *(1,) * (pixels.ndim - 1))
        weighted: NDArray[np.float64] = pixels * areas
        return weighted

    def figures(self, values: NDArray[Any], statistic: Statistic) -> list[Figure]:
        """A figure, or one for each class, with its interval.

        Args:
            values: (slides, ...) what it is made of, as sums.
            statistic: The figure of sums.
        """
        found = np.atleast_1d(statistic(values.sum(axis=0)))
        low = high = np.full(found.shape, np.nan)
        if len(self.weights):
            ends = interval(by_sample(values, self.names), statistic, self.weights, self.confidence)
            low, high = (np.atleast_1d(end) for end in ends)
        return [Figure(value=_known(f), low=_known(lo), high=_known(hi)) if not isnan(f) else Figure()
                for f, lo, hi in zip(found, low, high, strict=True)]  # fmt: skip

    def figure(self, values: NDArray[Any], statistic: Statistic) -> Figure:
        """One figure with its interval; see `figures`."""
        return self.figures(values, statistic)[0]


def figures_of(
    confusions: Sequence[Confusion],
    classes: Sequence[str],
    others: Sequence[str],
    samples: Samples,
    *,
    labelled: int,
    unpredicted: int,
) -> Figures:
    """All figures of confusion matrices.

    Args:
        confusions: Of each slide, (C, C + others + 1).
        classes: The true classes.
        others: Predicted classes that are none of them.
        samples: The slides.
        labelled: True pixels, those left out included.
        unpredicted: Those without a prediction.
    """
    stacked = np.stack(confusions)
    pooled = stacked.sum(axis=0)
    mm2 = np.tensordot(np.square(samples.pixel_um) * MM2_OF_UM2, stacked, axes=1)
    has_missed = bool(pooled[:, -1].any())
    columns = (*classes, *others, NOT_PREDICTED) if has_missed else (*classes, *others)
    tallies = samples.by_area(tallies_of(stacked))
    by_class = {name: samples.figures(tallies, figure) for name, figure in CLASS_FIGURES.items()}
    means = {name: samples.figure(tallies, figure) for name, figure in MEANS.items()}
    true, found = pooled.sum(axis=1), pooled.sum(axis=0)
    true_mm2, found_mm2 = mm2.sum(axis=1), mm2.sum(axis=0)
    return Figures(
        classes=tuple(
            ClassFigures(
                name=name,
                **{key: values[i] for key, values in by_class.items()},
                true_pixels=int(true[i]),
                predicted_pixels=int(found[i]),
                true_mm2=float(true_mm2[i]),
                predicted_mm2=float(found_mm2[i]),
            )
            for i, name in enumerate(classes)
        ),
        columns=columns,
        confusion=tuple(tuple(row[: len(columns)]) for row in pooled.tolist()),
        confusion_mm2=tuple(tuple(row[: len(columns)]) for row in mm2.tolist()),
        pixels=int(pooled.sum()),
        labelled_pixels=labelled,
        unpredicted_pixels=unpredicted,
        **means,
        without_truth=tuple(name for i, name in enumerate(classes) if not true[i]),
    )


def boundary_figures(
    sums: Sequence[NDArray[np.float64]], classes: Sequence[str], has_truth: NDArray[np.bool_], samples: Samples
) -> tuple[BoundaryFigures, ...]:
    """Figures of borders of each class that has true pixels.

    Args:
        sums: `BoundarySums` of each slide.
        classes: The classes.
        has_truth: Which of them have true pixels.
        samples: The slides.
    """
    percentile = partial(distance_percentile_um, limit_um=DISTANCE_LIMIT_UM)
    figures = []
    for i in np.flatnonzero(has_truth).tolist():
        values = in_one_um(np.stack([of_slide[i] for of_slide in sums]), samples.relative_um)
        figures.append(
            BoundaryFigures(
                name=classes[i],
                boundary_iou=samples.figure(values, boundary_iou),
                mean_distance_um=samples.figure(values, mean_distance_um),
                p95_distance_um=samples.figure(values, percentile),
            )
        )
    return tuple(figures)


def object_figures(
    sums: Sequence[NDArray[np.float64]], classes: Sequence[str], has_truth: NDArray[np.bool_], samples: Samples
) -> tuple[ObjectFigures, ...]:
    """Figures of objects of each class that has true pixels; see `boundary_figures`."""
    stacked = np.stack(sums)
    pooled = stacked.sum(axis=0)
    f1, iou = (samples.figures(stacked, statistic) for statistic in (object_f1, matched_iou))
    return tuple(
        ObjectFigures(
            name=classes[i],
            true=int(pooled[i, 0]),
            predicted=int(pooled[i, 1]),
            matched=int(pooled[i, 2]),
            f1=f1[i],
            matched_iou=iou[i],
        )
        for i in np.flatnonzero(has_truth).tolist()
    )


def calibration_of(sums: Mapping[str, NDArray[np.float64]], samples: Samples) -> Calibration | None:
    """Calibration of the slides with probabilities; None where there is nothing.

    Args:
        sums: `ReliabilitySums` of each of them.
        samples: The same slides.
    """
    if not sums or not (stacked := np.stack([*sums.values()]))[:, 0].any():
        return None
    pixels, stacked = stacked[:, 0].sum(axis=0), samples.by_area(stacked)
    counts, confidence, right = stacked.sum(axis=0)
    edges = np.linspace(0, 1, len(counts) + 1)
    bins = tuple(
        CalibrationBin(
            low=edges[i],
            high=edges[i + 1],
            pixels=int(pixels[i]),
            confidence=min(1.0, confidence[i] / n) if n else None,
            accuracy=right[i] / n if n else None,
        )
        for i, n in enumerate(counts)
    )
    return Calibration(
        bins=bins, expected_error=samples.figure(stacked, expected_calibration_error), slides=tuple(sums)
    )


def _known(value: float) -> float | None:
    return None if isnan(value) else float(value)
