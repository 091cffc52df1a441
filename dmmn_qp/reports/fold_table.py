"""What a cross-validation came to, as a table for the terminal and some lines."""

from __future__ import annotations

from dmmn_qp.folders.folds import CrossValidation
from dmmn_qp.labels.spread import Spread

_HEADER = ("class", "IoU", "spread", "lowest", "highest", "pooled", "folds")


def fold_table(validation: CrossValidation) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: IoU of each class over the folds, and of the mean of the classes."""
    rows = [
        (
            row.class_name,
            *map(_shown, (row.iou.mean, row.iou.spread, row.iou.lowest, row.iou.highest, row.pooled_iou)),
            str(row.iou.number),
        )
        for row in validation.rows()
    ]
    return _HEADER, rows


def fold_lines(validation: CrossValidation) -> list[str]:
    """What the table is of."""
    done = [record.result for record in validation.folds if record.result is not None]
    chosen = Spread.of(r.validation_mean_iou for r in done if r.validation_mean_iou is not None)
    lines = [
        "IoU: mean over the folds, on slides that were held out. spread: standard deviation.",
        "pooled: of the pixels of all folds together. folds: those that hold the class out.",
    ]
    if chosen.mean is not None:
        lines.append(f"On the slides that chose the epochs, which flatters, mean mIoU is {chosen.mean:.3f}")
    return lines


def _shown(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
