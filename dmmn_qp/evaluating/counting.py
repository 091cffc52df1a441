"""Pixels counted by true and predicted number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.predicted import PredictedLabels
from dmmn_qp.evaluating.truth import VALUES_FILE, Truth
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.metrics import PairCounts, pair_counts
from dmmn_qp.regions import Region
from dmmn_qp.reports.evaluation_tables import listed
from dmmn_qp.specs import UNLABELLED

_ROWS_AT_ONCE = 512  # a row of tiles of a predicted raster


def labelled_pixels(counts: PairCounts) -> int:
    """Counts the pixels that have a true label."""
    return int(counts[UNLABELLED + 1 :].sum())


def count_pairs(predicted: PredictedLabels, truth: Truth, slide_id: str) -> dict[Origin, PairCounts]:
    """Counts the pixels of a slide by true and predicted value, of each origin; all are drawn where no raster says it.

    Raises:
        DatasetError: A raster is damaged, of another shape, or holds values that are no classes.
    """
    path, origin_path = truth.paths[slide_id], truth.origins.get(slide_id)
    counts: dict[Origin, PairCounts] = {origin: np.zeros((256, 256), np.int64) for origin in ORIGINS}
    with LabelRaster(predicted.path) as found, LabelRaster(path) as true:
        _check_shape(true, found, slide_id)
        rows, columns = true.shape
        strips = [Region(0, y, columns, min(_ROWS_AT_ONCE, rows - y)) for y in range(0, rows, _ROWS_AT_ONCE)]
        if origin_path is None:
            for strip in strips:
                counts["drawn"] += pair_counts(true.read(strip), found.read(strip))
        else:
            with LabelRaster(origin_path) as origins:
                _check_shape(origins, found, slide_id)
                for strip in strips:
                    labels, predicted_labels, values = true.read(strip), found.read(strip), origins.read(strip)
                    if not np.isin(values[labels != UNLABELLED], [*ORIGINS.values()]).all():
                        raise DatasetError(
                            f'"{origin_path}" does not say where all labelled pixels come from; import again '
                            "with --overwrite"
                        )
                    for origin, value in ORIGINS.items():
                        counts[origin] += pair_counts(
                            np.where(values == value, labels, np.uint8(UNLABELLED)), predicted_labels
                        )
    _check_values(np.sum([*counts.values()], axis=0), predicted, truth, path)
    return counts


def _check_shape(raster: LabelRaster, predicted: LabelRaster, slide_id: str) -> None:
    for one in (raster, predicted):
        if not one.holds_labels:
            raise DatasetError(
                f'"{one.path}" is no label map: a pixel must be one number of 8 bits; save it as greyscale of 8 bits'
            )
    if predicted.shape != raster.shape:
        raise DatasetError(
            f'"{raster.path}" has {raster.shape[1]} x {raster.shape[0]} px but the prediction of "{slide_id}" has '
            f"{predicted.shape[1]} x {predicted.shape[0]}; both must be at the same um/px: predict with a model of "
            "this dataset"
        )


def _check_values(counts: PairCounts, predicted: PredictedLabels, truth: Truth, path: Path) -> None:
    unknown = sorted(set(np.flatnonzero(counts.any(axis=1)).tolist()) - {UNLABELLED, *truth.classes})
    if unknown:
        if truth.classes_from == "dataset":
            way_out = f"the dataset has {len(truth.classes)} classes; name the values in a {VALUES_FILE} beside it"
        else:
            way_out = f'"{truth.classes_from}" does not name it; add a row for it'
        if truth.name == "the dataset":
            way_out = "it is no class of the dataset; import again with --overwrite"
        raise DatasetError(f'"{path}" holds the value {unknown[0]}: {way_out}')
    highest = int(np.flatnonzero(counts.any(axis=0)).max(initial=0))
    if highest > len(predicted.names):
        raise DatasetError(
            f'"{predicted.path}" holds the label {highest}, but its classes are 1 to {len(predicted.names)}: '
            f"{listed(predicted.names)}; predict again with --overwrite"
        )
