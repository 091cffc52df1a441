"""Both sides of an evaluation of a dataset: what is true, and what folders of predictions say, by name of the class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from dmmn_qp.annotations import Origin
from dmmn_qp.evaluating.comparing import ModelSide, Opened, TruthSide
from dmmn_qp.evaluating.labelled import SlideLabels, open_raster
from dmmn_qp.evaluating.predicted import PredictedLabels
from dmmn_qp.evaluating.truth import VALUES_FILE, Truth
from dmmn_qp.folders.evaluation import TruthKind
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import PROBABILITIES_SUFFIX
from dmmn_qp.outputs.predicted import LabelConfidence
from dmmn_qp.reports.evaluation_tables import listed
from dmmn_qp.vectors.sources import LabelSource

ANNOTATED: Final[dict[Origin, tuple[TruthKind, str]]] = {
    "drawn": ("annotated", "annotated pixels"),
    "corrected": ("corrected", "corrected predictions"),
    "confirmed": ("confirmed", "confirmed predictions"),
}
"""Kind and title of what a person said; what nobody checked is no truth."""

FULL: Final[dict[Origin, tuple[TruthKind, str]]] = {"drawn": ("truth", "full truth")}


def truth_side(truth: Truth, regions: Mapping[str, LabelSource]) -> TruthSide:
    """What is known of the slides, as one side.

    Args:
        truth: The rasters.
        regions: What is not 0 where pixels count.
    """
    labels = {
        slide_id: SlideLabels(
            path, truth.classes, truth.classes_from, partial(open_raster, path), partial(_no_class, truth, path), {}
        )
        for slide_id, path in truth.paths.items()
    }
    kinds = ANNOTATED if truth.name == "the dataset" else FULL
    return TruthSide(labels, kinds, truth.name != "the dataset", truth.origins, regions)


def model_side(
    name: str, predicted: Mapping[str, PredictedLabels], true_names: Mapping[str, PredictedLabels]
) -> ModelSide:
    """What a folder of predictions says, as one side.

    Args:
        name: What it is called.
        predicted: The predictions.
        true_names: The same with the names that the truth has for their classes.
    """
    labels = {}
    confidences: dict[str, Opened] = {}
    for slide_id, found in predicted.items():
        path, own = found.path, dict(enumerate(found.names, start=1))
        values = dict(enumerate(true_names[slide_id].names, start=1))
        labels[slide_id] = SlideLabels(
            path, values, found.names_from, found.on_ground(partial(open_raster, path)), partial(_no_label, found), own
        )
        probabilities = probabilities_of(path, slide_id)
        if probabilities is not None:
            confidences[slide_id] = found.on_ground(partial(_opened_confidence, path, probabilities, len(own)))
    return ModelSide(name, labels, confidences)


def probabilities_of(labels: Path, slide_id: str) -> Path | None:
    """The raster of probabilities beside predicted labels; None where none was written."""
    path = labels.with_name(f"{slide_id}.{PROBABILITIES_SUFFIX}")
    return path if path.is_file() else None


@contextmanager
def _opened_confidence(labels: Path, probabilities: Path, classes: int) -> Iterator[LabelSource]:
    with LabelRaster(labels) as raster, LabelConfidence(raster, probabilities, classes) as confidence:
        yield confidence


def _no_class(truth: Truth, path: Path, value: int) -> str:
    if truth.name == "the dataset":
        way_out = "it is no class of the dataset; import again with --overwrite"
    elif truth.classes_from == "dataset":
        way_out = f"the dataset has {len(truth.classes)} classes; name the values in a {VALUES_FILE} beside it"
    else:
        way_out = f'"{truth.classes_from}" does not name it; add a row for it'
    return f'"{path}" holds the value {value}: {way_out}'


def _no_label(found: PredictedLabels, label: int) -> str:
    return (
        f'"{found.path}" holds the label {label}, but its classes are 1 to {len(found.names)}: {listed(found.names)}; '
        "predict again with --overwrite"
    )
