"""The figures of an evaluation as lines for a terminal of 80 columns, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from dmmn_qp.labels.metrics import NamedMetrics
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import printable

NOT_PREDICTED: Final = "(not predicted)"
"""Name of the last column of a confusion matrix, where there are such pixels."""

_LINE: Final = 80
_CELL: Final = 6
_LONGEST_LABEL: Final = 30
_MOST_LISTED: Final = 5


def listed(names: Sequence[str]) -> str:
    """Names in one line, the first few of many."""
    shown = ", ".join(map(printable, names[:_MOST_LISTED]))
    return shown + (f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else "")


def table_lines(named: NamedMetrics, *, skipped: bool) -> Iterator[str]:
    """The means, a row for each class, and the confusion matrix.

    Classes have numbers, by which the matrix names its columns: a name may be of any length. A matrix with more columns
    than a line holds is cut into several, one below the other.

    Args:
        named: The figures.
        skipped: Whether pixels without a prediction were left out.
    """
    metrics = named.metrics
    yield (
        f"  mIoU {_figure(metrics.mean_iou)}  mean recall {_figure(metrics.mean_recall)}  "
        f"mean precision {_figure(metrics.mean_precision)}  accuracy {_figure(metrics.accuracy)}"
    )
    if named.unpredicted:
        share = 100 * named.unpredicted / named.labelled
        how = "left out" if skipped else "counted as missed"
        yield f"  not predicted: {named.unpredicted:,} px ({share:.1f} %), {how}"
        if not skipped:
            yield "    (--skip-unpredicted leaves them out)"
    names = [f"{number} {printable(name)}" for number, name in enumerate((*named.classes, *named.others), start=1)]
    width = max(len("class"), *map(len, names[: len(named.classes)]))
    yield f"  {'class':<{width}}{'IoU':>9}{'recall':>9}{'precision':>11}"
    for i, name in enumerate(names[: len(named.classes)]):
        figures = (_figure(metrics.iou[i]), _figure(metrics.recall[i]), _figure(metrics.precision[i]))
        yield f"  {name:<{width}}{figures[0]:>9}{figures[1]:>9}{figures[2]:>11}"
    yield from _confusion_lines(named, names)


def _confusion_lines(named: NamedMetrics, names: Sequence[str]) -> Iterator[str]:
    """The confusion matrix; columns of what the truth lacks are shown where anything was predicted as them."""
    confusion, n = named.metrics.confusion, len(named.classes)
    columns = [c for c in range(confusion.shape[1]) if c < n or confusion[:, c].any()]
    none = confusion.shape[1] - 1
    heads = {c: "none" if c == none else str(c + 1) for c in columns}
    yield "  confusion, % of the true class (rows: true, columns: predicted, by number)"
    labels = [printable(name, _LONGEST_LABEL) for name in names[:n]]
    width = max(map(len, labels))
    at_once = (_LINE - 2 - width) // _CELL
    totals = confusion.sum(axis=1)
    for start in range(0, len(columns), at_once):
        part = columns[start : start + at_once]
        yield f"  {'':<{width}}" + "".join(f"{heads[c]:>{_CELL}}" for c in part)
        for i, label in enumerate(labels):
            cells = (f"{100 * confusion[i, c] / totals[i]:.1f}" if totals[i] else "-" for c in part)
            yield f"  {label:<{width}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
    for c in columns:
        if n <= c < none:
            yield f"  {names[c]}: predicted, but not among the true classes ({confusion[:, c].sum():,} px)"
    if none in columns:
        yield "  none: not predicted"


def figures_as_json(named: NamedMetrics) -> dict[str, Any]:
    """All figures; None where a class has none.

    The matrix has a row for each class and a column for each of ``columns``: the same classes, those that the truth
    does not have, and `NOT_PREDICTED` where there are such pixels.
    """
    metrics = named.metrics
    confusion, columns = metrics.confusion, [*named.classes, *named.others, NOT_PREDICTED]
    if not confusion[:, -1].any():
        confusion, columns = confusion[:, :-1], columns[:-1]
    return {
        "pixels": int(confusion.sum()),
        "mean_iou": _value(metrics.mean_iou),
        "mean_recall": _value(metrics.mean_recall),
        "mean_precision": _value(metrics.mean_precision),
        "accuracy": _value(metrics.accuracy),
        "classes": {
            name: {
                "iou": _value(metrics.iou[i]),
                "recall": _value(metrics.recall[i]),
                "precision": _value(metrics.precision[i]),
                "true_pixels": int(confusion[i].sum()),
                "predicted_pixels": int(confusion[:, i].sum()),
            }
            for i, name in enumerate(named.classes)
        },
        "confusion": {
            "classes": list(named.classes),
            "columns": columns,
            "rows_true_columns_predicted": confusion.tolist(),
        },
        "unpredicted_pixels": named.unpredicted,
    }


def _figure(value: float | np.float64) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _value(x: float | np.float64) -> float | None:
    return None if math.isnan(x) else round(float(x), 6)


def numbered_classes(class_map: ClassMap) -> str:
    """The classes of a map with their numbers, in one line."""
    return ", ".join(f"{c.label} {printable(c.name)}" for c in class_map.classes)
