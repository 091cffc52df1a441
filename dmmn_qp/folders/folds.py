"""The folder of a cross-validation: ``folds.json`` and ``folds.csv``, and a model folder for each fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from dmmn_qp.errors import DatasetError
from dmmn_qp.files import write_json
from dmmn_qp.files.tables import write_table
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.labels.spread import Spread
from dmmn_qp.specs import MAX_CLASSES, FileModel, explain
from dmmn_qp.text import shorten

FOLDS: Final = "folds.json"
"""Marks the folder of a cross-validation as ours."""

TABLE: Final = "folds.csv"

DATASETS: Final = "datasets"
"""Folder in it of the datasets of its folds: the same slides in other splits."""

MAX_FOLDS: Final = 100

MEAN_ROW: Final = "mean of classes"

MAX_BYTES: Final = 64 * 2**20
"""Largest ``folds.json``: 100 folds of 254 classes take 30 MiB."""


class FoldResult(FileModel):
    """What a model made of the slides that were held out.

    Attributes:
        confusion: Annotated grid px by true class (row) and predicted class (column).
        validation_mean_iou: mIoU on the slides that chose its epoch.
        seconds: How long it was trained.
    """

    confusion: tuple[tuple[NonNegativeInt, ...], ...] = Field(max_length=MAX_CLASSES)
    validation_mean_iou: float | None = None
    seconds: float = 0.0

    @property
    def metrics(self) -> Metrics:
        """Figures on the slides that were held out."""
        return Metrics.from_confusion(np.array(self.confusion, np.int64))


class FoldRecord(FileModel):
    """A fold.

    Attributes:
        held_out: Slides that neither taught nor chose anything.
        validation: Slides that choose the best epoch.
        result: What came of it; None before it is finished.
    """

    held_out: tuple[str, ...]
    validation: tuple[str, ...]
    result: FoldResult | None = None


class CrossValidation(FileModel):
    """Content of ``folds.json``.

    Attributes:
        dataset: Where the dataset was.
        dataset_digest: Its content.
        without_test: Whether slides for test took no part.
        options: Options of the trainings, as they were asked for.
        classes: The classes.
        folds: The folds, fold 1 first.
    """

    format_version: Literal[1] = 1
    dataset: str
    dataset_digest: str
    without_test: bool
    options: dict[str, Any]
    classes: tuple[str, ...] = Field(min_length=1, max_length=MAX_CLASSES)
    folds: tuple[FoldRecord, ...] = Field(min_length=2, max_length=MAX_FOLDS)

    @model_validator(mode="after")
    def _square(self) -> CrossValidation:
        size = len(self.classes)
        for record in self.folds:
            rows = () if record.result is None else record.result.confusion
            if rows and (len(rows) != size or any(len(row) != size for row in rows)):
                raise ValueError(f"a confusion matrix is not of {size} x {size} classes")
        return self

    @property
    def is_finished(self) -> bool:
        """Whether every fold has a result."""
        return all(record.result is not None for record in self.folds)

    def with_result(self, number: int, result: FoldResult) -> CrossValidation:
        """The same with the result of a fold, counted from 1."""
        folds = list(self.folds)
        folds[number - 1] = folds[number - 1].model_copy(update={"result": result})
        return self.model_copy(update={"folds": tuple(folds)})

    def rows(self) -> list[FoldRow]:
        """A row for each class, and one for the mean of the classes, over the folds that are finished."""
        done = [record.result.metrics for record in self.folds if record.result is not None]
        if not done:
            return []
        pooled = Metrics.from_confusion(np.sum([metrics.confusion for metrics in done], axis=0))
        of_classes = [
            FoldRow(
                class_name=name,
                iou=Spread.of(m.iou[i] for m in done),
                recall=Spread.of(m.recall[i] for m in done),
                precision=Spread.of(m.precision[i] for m in done),
                pooled_iou=float(pooled.iou[i]),
                of_folds=tuple(float(m.iou[i]) for m in done),
            )
            for i, name in enumerate(self.classes)
        ]
        whole = FoldRow(
            class_name=MEAN_ROW,
            iou=Spread.of(m.mean_iou for m in done),
            recall=Spread.of(m.mean_recall for m in done),
            precision=Spread.of(m.mean_precision for m in done),
            pooled_iou=pooled.mean_iou,
            of_folds=tuple(m.mean_iou for m in done),
        )
        return [*of_classes, whole]


@dataclass(frozen=True, slots=True)
class FoldRow:
    """Figures of a class over the folds.

    Attributes:
        class_name: The class, or `MEAN_ROW`.
        iou: Intersection over union.
        recall: Recall.
        precision: Precision.
        pooled_iou: IoU of the pixels of all folds together; NaN where there are none.
        of_folds: IoU of each fold; NaN where it holds none out.
    """

    class_name: str
    iou: Spread
    recall: Spread
    precision: Spread
    pooled_iou: float
    of_folds: tuple[float, ...]


def read_folds(folder: Path) -> CrossValidation | None:
    """What a folder says of its cross-validation; None where it holds none.

    Raises:
        DatasetError: ``folds.json`` is damaged or of another version.
    """
    path = folder / FOLDS
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES // 2**20} MiB")
        return CrossValidation.model_validate_json(content)
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise DatasetError(
            f'"{path}" is damaged or of another version ({shorten(reason, 99)}); pass --overwrite to begin anew, or '
            "another --out"
        ) from error


def write_folds(folder: Path, validation: CrossValidation) -> None:
    """Writes ``folds.json``, and the table of what is finished."""
    write_json(folder / FOLDS, validation.model_dump(mode="json"))
    rows = validation.rows()
    numbers = [f"fold_{i}" for i, record in enumerate(validation.folds, 1) if record.result is not None]
    names = [f"{figure}_{part}" for figure in ("iou", "recall", "precision") for part in ("mean", "spread")]
    write_table(
        folder / TABLE,
        ["class", *names, "iou_pooled", "folds", *numbers],
        (_cells(row) for row in rows),
    )


def _cells(row: FoldRow) -> Sequence[object]:
    pairs = [value for figure in (row.iou, row.recall, row.precision) for value in (figure.mean, figure.spread)]
    values = [*pairs, row.pooled_iou, row.iou.number, *row.of_folds]
    return [row.class_name, *("" if v is None or v != v else v if isinstance(v, int) else round(v, 6) for v in values)]
