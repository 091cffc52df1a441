"""The pixels on which all are compared: those of the dataset, onto which other predictions are resampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.folders import Predictions
from dmmn_qp.evaluating.labelled import open_raster
from dmmn_qp.evaluating.predicted import OnGround, PredictedLabels
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.evaluation import Ground
from dmmn_qp.folders.label_raster import read_mpp
from dmmn_qp.specs import PatchGrid

_WHOLE: Final = 1e-6
"""Relative difference from a whole number that comes of writing um/px as text."""

_MOST: Final = 1e6
"""A pixel is not so many times as large as another one, whatever files say."""


def on_ground(
    predictions: Predictions, records: Sequence[SlideRecord], dataset: Dataset, warn: Callable[[str], None]
) -> Predictions:
    """Finds the predicted slides that have other pixels than the dataset, and says so.

    Args:
        predictions: What is compared.
        records: The slides.
        dataset: The dataset, whose pixels are those of the comparison.
        warn: Told of predictions that are resampled.

    Returns:
        The same with what the resampling needs.

    Raises:
        DatasetError: A raster does not show the whole slide, or does not tell its um/px and needs to.
    """
    labels = {r.slide_id: _placed(predictions.labels[r.slide_id], r, dataset) for r in records}
    for record in records:
        if (found := labels[record.slide_id].ground) is not None:
            warn(
                f'predictions in "{predictions.folder}" have pixels of {found.downsample * record.mpp:.4g} um, the '
                f"dataset of {found.onto.downsample * record.mpp:.4g} um: they are judged on those of the dataset, "
                "each of which has the label of the predicted pixel that its centre lies in"
            )
            break
    return replace(predictions, labels=labels)


def _placed(predicted: PredictedLabels, record: SlideRecord, dataset: Dataset) -> PredictedLabels:
    with open_raster(predicted.path) as raster, open_raster(dataset.mask_path(record.slide_id)) as mask:
        own, shape = raster.shape, mask.shape
    if own == shape:
        return predicted
    downsample = _downsample(predicted, record)
    if downsample is None or PatchGrid(dataset.patch_spec, downsample).shape(record.width, record.height) != own:
        said = "does not tell its um/px" if downsample is None else f"has pixels of {downsample:.4g} level-0 px"
        raise DatasetError(
            f'"{predicted.path}" has {own[1]} x {own[0]} px and {said}, which does not make up slide '
            f'"{record.slide_id}" of {record.width} x {record.height} level-0 px; predict again with --overwrite'
        )
    grid = dataset.grid(record)
    return replace(predicted, ground=OnGround(downsample, Ground(downsample=grid.downsample, shape=shape)))


def _downsample(predicted: PredictedLabels, record: SlideRecord) -> float | None:
    """Level-0 px per pixel of a predicted raster; None where it does not tell its um/px, or what cannot be."""
    um = read_mpp(predicted.path)
    if um is None:
        return None
    told = predicted.record.mpp if predicted.record is not None else None
    return whole_downsample(um, told or record.mpp)


def whole_downsample(um: float, mpp: float) -> float | None:
    """Level-0 px per pixel of ``um`` um on a slide of ``mpp`` um/px: whole but for rounding; None if it cannot be."""
    exact = um / mpp
    if not 1 / _MOST < exact < _MOST:
        return None
    whole = max(1, round(exact))
    return float(whole) if abs(exact / whole - 1) <= _WHOLE else exact
