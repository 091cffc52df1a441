"""Folders of predictions that are compared, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.evaluating.predicted import (
    PredictedLabels,
    check_inputs,
    check_models,
    find_prediction,
    warn_of_assumed_classes,
)
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.predictions import read_predictions


@dataclass(frozen=True, slots=True)
class Predictions:
    """A folder of predictions.

    Attributes:
        folder: The folder.
        name: What it is called: its model's name, or its own where several would be called the same.
        labels: Its slides.
        trained_on: Slides on which its model was trained, as far as that is known.
    """

    folder: Path
    name: str
    labels: Mapping[str, PredictedLabels]
    trained_on: frozenset[str] = frozenset()


def find_predictions(folders: Sequence[Path], records: Sequence[SlideRecord], dataset: Dataset) -> list[Predictions]:
    """Finds the slides in each folder.

    Raises:
        DatasetError: One is missing, or tells its classes in a damaged way.
    """
    found = []
    for folder in folders:
        recorded = read_predictions(folder)
        labels = {r.slide_id: find_prediction(folder, r.slide_id, recorded, dataset) for r in records}
        models = dict.fromkeys(p.record.model for p in labels.values() if p.record is not None)
        found.append(Predictions(folder, " and ".join(models) or folder.absolute().name, labels))
    return _told_apart(found)


def checked(
    predictions: Predictions,
    records: Sequence[SlideRecord],
    options: EvaluateOptions,
    dataset: Dataset,
    warn: Callable[[str], None],
) -> Predictions:
    """Checks that predictions are of these slides, by one model and with classes that are known.

    Returns:
        The same with the slides on which the model was trained.

    Raises:
        DatasetError: They are not.
    """
    folder, labels = predictions.folder, predictions.labels
    check_inputs(folder, records, warn)
    trained = check_models(folder, labels, records, options, warn)
    warn_of_assumed_classes(labels, dataset, warn)
    return replace(predictions, trained_on=frozenset(trained))


def _told_apart(found: Sequence[Predictions]) -> list[Predictions]:
    """Gives folders different names: the model's, then the folder's, then a number."""
    names = [predictions.name for predictions in found]
    if len(set(names)) < len(names):
        names = [
            name if names.count(name) == 1 else f"{name} ({p.folder})" for name, p in zip(names, found, strict=True)
        ]
    told: list[str] = []
    for name in names:
        number, apart = 1, name
        while apart in told:
            number += 1
            apart = f"{name} {number}"
        told.append(apart)
    return [replace(predictions, name=name) for predictions, name in zip(found, told, strict=True)]
