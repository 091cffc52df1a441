"""What came of a training, said so that its figures can be judged: beside what a constant class would reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from dmmn_qp.console import Reporter, duration
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.reports.class_findings import what_to_draw
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import count_of, shorten
from dmmn_qp.training.plan import TrainingPlan

FAILED_IOU: Final = 0.1
"""A class below has not been learned."""

_SAID: Final = 3
"""So many classes that failed are said; the figures of all are in the report."""


def miou_text(metrics: Metrics, when: str = "") -> str:
    """``val mIoU 0.612 (constant 0.168)``, the latter that of whoever says one class everywhere."""
    return f"val mIoU{when} {metrics.mean_iou:.3f} (constant {metrics.constant_mean_iou:.3f})"


def say_outcome(metrics: Metrics, plan: TrainingPlan, class_map: ClassMap, seconds: float, reporter: Reporter) -> None:
    """Says how good the kept model is, whether that is worth anything, and which classes failed."""
    most = shorten(class_map.names[metrics.constant_class])
    reporter.say(
        f'  best validation mIoU {metrics.mean_iou:.3f} ("{most}" everywhere: {metrics.constant_mean_iou:.3f}), after '
        f"{duration(seconds)}"
    )
    if metrics.is_worthless:
        reporter.warn(worthless_text(metrics, plan, class_map))
    failed = list(failed_classes(metrics, plan, class_map))
    for line in failed[:_SAID]:
        reporter.warn(line)
    if len(failed) > _SAID:
        reporter.warn(f"{count_of(len(failed) - _SAID, 'more class', 'more classes')} failed: see the report")


def advice(metrics: Metrics, plan: TrainingPlan, class_map: ClassMap) -> list[str]:
    """What is wrong with a model and what to do about it, a line each."""
    worthless = [worthless_text(metrics, plan, class_map)] if metrics.is_worthless else []
    return [*worthless, *failed_classes(metrics, plan, class_map)]


def worthless_text(metrics: Metrics, plan: TrainingPlan, class_map: ClassMap) -> str:
    """Why a model is worth nothing, and what to do."""
    most = shorten(class_map.names[metrics.constant_class])
    ways = [
        "train longer (--epochs)" if plan.epochs else "see whether the annotations are right",
        "annotate more",
        *(["take the preset fast"] if plan.options.preset != "fast" else []),
    ]
    return (
        f'this model is worthless: it is no better than saying "{most}" everywhere; {", ".join(ways[:-1])}, or '
        f"{ways[-1]}"
    )


def failed_classes(metrics: Metrics, plan: TrainingPlan, class_map: ClassMap) -> Iterator[str]:
    """The classes that were not learned, worst first, with what they were taken for and what to draw."""
    for i in np.argsort(metrics.iou, kind="stable"):
        if not metrics.iou[i] < FAILED_IOU:
            return
        others = metrics.confusion[i].copy()
        others[i] = 0
        taken_for = class_map.names[int(others.argmax())] if others.any() else None
        mostly = "" if taken_for is None else f', mostly taken for "{shorten(taken_for)}"'
        name = class_map.names[i]
        yield (
            f'"{shorten(name)}" failed: validation IoU {metrics.iou[i]:.2f}{mostly}; '
            f"{what_to_draw(name, taken_for, plan.training, class_map)}"
        )
