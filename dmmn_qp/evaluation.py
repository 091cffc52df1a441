"""`dmmn-qp evaluate`: predictions against annotations and full truth (paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmmn_qp.choices import Split
from dmmn_qp.dataset import LABELS_SUFFIX, Dataset, LabelRaster, SlideRecord
from dmmn_qp.errors import DatasetError
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.regions import Region
from dmmn_qp.reporting import Reporter
from dmmn_qp.specs import UNLABELLED, ClassMap

EVALUATION = "evaluation.json"
WINDOW = 2048
TRUTH_SUFFIXES = (".png", ".tif", ".tiff")


def evaluate(
    predictions: Path, dataset_folder: Path, split: Split, truth: Path | None, reporter: Reporter
) -> dict[str, Any]:
    """Compares the predicted labels of a split's slides with what is known of them.

    Args:
        predictions: Folder of `dmmn-qp predict`.
        dataset_folder: The dataset with the annotations' masks.
        split: Which slides.
        truth: Folder of ``<slide>.png`` label maps at the resolution of the predictions, or one such file; pixel
            values are the labels of the class map, 0 is not counted.
        reporter: Where to print the tables.

    Returns:
        ``{"annotated": figures, "truth": figures}``, the second only with ``truth``.

    Raises:
        DatasetError: There are no such slides, or a prediction or truth map is missing or does not fit.
    """
    dataset = Dataset(dataset_folder)
    records = dataset.slides(split)
    if not records:
        raise DatasetError(f'dataset "{dataset_folder}" has no slide for {split}; choose another with --split')
    result: dict[str, Any] = {"split": split, "slides": [r.slide_id for r in records]}
    masks = {r.slide_id: dataset.mask_path(r.slide_id) for r in records}
    result["annotated"] = _compare("annotated pixels", predictions, records, masks, dataset.class_map, reporter)
    if truth is not None:
        maps = {r.slide_id: _truth_map(truth, r, len(records)) for r in records}
        result["truth"] = _compare("full truth", predictions, records, maps, dataset.class_map, reporter)
    return result


def _truth_map(truth: Path, record: SlideRecord, n_slides: int) -> Path:
    if truth.is_file() and n_slides == 1:
        return truth
    for suffix in TRUTH_SUFFIXES:
        path = truth / f"{record.slide_id}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(
        f'no truth map of slide "{record.slide_id}" in "{truth}"; it must be named {record.slide_id}.png'
    )


def _compare(
    title: str,
    predictions: Path,
    records: Sequence[SlideRecord],
    truths: dict[str, Path],
    class_map: ClassMap,
    reporter: Reporter,
) -> dict[str, Any]:
    confusion = np.zeros((len(class_map), len(class_map)), np.int64)
    for record in records:
        path = predictions / f"{record.slide_id}.{LABELS_SUFFIX}"
        if not path.is_file():
            raise DatasetError(
                f'slide "{record.slide_id}" has no prediction in "{predictions}"; run dmmn-qp predict '
                f"{record.slide_id} first, or name the folder with --predictions"
            )
        with LabelRaster(path) as predicted, LabelRaster(truths[record.slide_id]) as truth:
            if predicted.shape != truth.shape:
                raise DatasetError(
                    f'"{truths[record.slide_id]}" has {truth.shape[1]} x {truth.shape[0]} px but the prediction of '
                    f'"{record.slide_id}" has {predicted.shape[1]} x {predicted.shape[0]}; both must be at the same '
                    "um/px: predict with a model of this dataset"
                )
            rows, columns = truth.shape
            for window in Region(0, 0, columns, rows).tiles(WINDOW):
                true, found = truth.read(window), predicted.read(window)
                if max(true.max(), found.max()) > len(class_map) or (found[true > UNLABELLED] == UNLABELLED).any():
                    raise DatasetError(
                        f'"{record.slide_id}": labels are not those of the dataset (1 to {len(class_map)}: '
                        f"{', '.join(class_map.names)}); predict with a model of this dataset"
                    )
                confusion += confusion_matrix(true, found, len(class_map))
    metrics = Metrics.from_confusion(confusion)
    _print(title, [r.slide_id for r in records], metrics, class_map, reporter)
    return _figures(metrics, class_map)


def _print(title: str, slides: Sequence[str], metrics: Metrics, class_map: ClassMap, reporter: Reporter) -> None:
    width = max(len(name) for name in ("mean", *class_map.names))
    reporter.heading(f"{', '.join(slides)}: {title} ({metrics.confusion.sum():,} px)")
    reporter.say(f"  mIoU {metrics.mean_iou:.3f}  mean recall {metrics.mean_recall:.3f}  "
                 f"mean precision {metrics.mean_precision:.3f}  accuracy {metrics.accuracy:.3f}")  # fmt: skip
    reporter.say(f"  {'class':<{width}}{'IoU':>9}{'recall':>9}{'precision':>11}")
    for i, name in enumerate(class_map.names):
        figures = f"{metrics.iou[i]:>9.3f}{metrics.recall[i]:>9.3f}{metrics.precision[i]:>11.3f}"
        reporter.say(f"  {name:<{width}}{figures.replace('nan', '  -')}")
    reporter.say("  confusion, % of the true class (rows: true, columns: predicted)")
    reporter.say(f"  {'':<{width}}" + "".join(f"{name[:10]:>12}" for name in class_map.names))
    totals = metrics.confusion.sum(axis=1)
    for i, name in enumerate(class_map.names):
        cells = "".join(f"{100 * n / max(1, totals[i]):>12.1f}" for n in metrics.confusion[i])
        reporter.say(f"  {name:<{width}}{cells}")


def _figures(metrics: Metrics, class_map: ClassMap) -> dict[str, Any]:
    def value(x: float) -> float | None:
        return None if math.isnan(x) else round(float(x), 6)

    return {
        "mean_iou": value(metrics.mean_iou),
        "mean_recall": value(metrics.mean_recall),
        "mean_precision": value(metrics.mean_precision),
        "accuracy": value(metrics.accuracy),
        "classes": {
            name: {
                "iou": value(metrics.iou[i]),
                "recall": value(metrics.recall[i]),
                "precision": value(metrics.precision[i]),
                "true_pixels": int(metrics.confusion[i].sum()),
                "predicted_pixels": int(metrics.confusion[:, i].sum()),
            }
            for i, name in enumerate(class_map.names)
        },
        "confusion": {"classes": list(class_map.names), "rows_true_columns_predicted": metrics.confusion.tolist()},
    }
