"""The predictions that are compared, and whether they are of these slides and of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dmmn_qp.errors import DatasetError, DmmnQpError
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.counted_labels import OpenLabels
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.evaluation import Ground
from dmmn_qp.folders.label_raster import names_in_file, read_class_names
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PredictedInput, Prediction, model_of, read_inputs
from dmmn_qp.folders.provenance import was_trained_on
from dmmn_qp.folders.resampled_labels import open_resampled
from dmmn_qp.reports.evaluation_tables import listed, numbered_classes
from dmmn_qp.text import printable


@dataclass(frozen=True, slots=True)
class OnGround:
    """How predicted labels come onto the pixels that are compared.

    Attributes:
        downsample: Level-0 px per pixel of their own.
        onto: The pixels that are compared.
    """

    downsample: float
    onto: Ground


@dataclass(frozen=True, slots=True)
class PredictedLabels:
    """A predicted slide.

    Attributes:
        path: Its label raster.
        names: Class names of labels 1, 2, 3 ...
        names_from: What these are from: ``raster``, ``run.json`` or, where neither says them, ``dataset``.
        record: What ``run.json`` says of its prediction, if anything.
        ground: How its labels come onto the pixels that are compared; None where they are its own.
    """

    path: Path
    names: tuple[str, ...]
    names_from: str
    record: Prediction | None
    ground: OnGround | None = None

    def on_ground(self, opened: OpenLabels) -> OpenLabels:
        """Opens what has the pixels of these labels on the pixels that are compared."""
        if self.ground is None:
            return opened
        return partial(open_resampled, opened, self.ground.downsample, self.ground.onto)


def find_prediction(
    folder: Path, slide_id: str, recorded: Mapping[str, Prediction], dataset: Dataset
) -> PredictedLabels:
    """Finds the prediction of a slide; its classes stand in the raster itself, else in run.json, else are assumed.

    Raises:
        DatasetError: It is missing, or the raster tells its classes in a damaged way.
    """
    path = folder / f"{slide_id}.{LABELS_SUFFIX}"
    if not folder.is_dir():
        why = why_not_there(folder) or "is no folder"
        raise DatasetError(f'folder of predictions "{folder}" {why}; check --predictions, or run dmmn-qp predict first')
    if not path.is_file():
        raise DatasetError(
            f'slide "{slide_id}" has no prediction in "{folder}"; run dmmn-qp predict {slide_id} --out "{folder}" '
            "first, or name the folder with --predictions"
        )
    prediction = recorded.get(slide_id)
    in_raster = read_class_names(path)
    in_run = prediction.class_map.names if prediction and prediction.class_map else None
    if in_run is not None and in_raster in (None, names_in_file(in_run)):  # in full, where the raster had to replace
        return PredictedLabels(path, in_run, RUN_FILE if in_raster is None else "raster", prediction)
    if in_raster is None:
        return PredictedLabels(path, dataset.class_map.names, "dataset", prediction)
    if in_run is not None:
        raise DatasetError(
            f'"{path}" has the classes {listed(in_raster)}, but {RUN_FILE} beside it says {listed(in_run)}, so one of '
            "them was exchanged; predict again with --overwrite"
        )
    return PredictedLabels(path, in_raster, "raster", prediction)


def warn_of_assumed_classes(
    predicted: Mapping[str, PredictedLabels], dataset: Dataset, warn: Callable[[str], None]
) -> None:
    """Warns of predictions whose classes are only assumed."""
    assumed = [slide_id for slide_id, p in predicted.items() if p.names_from == "dataset"]
    if assumed:
        warn(
            f"predictions of {listed(assumed)} do not say which classes their numbers are (an earlier version wrote "
            f"them); those of the dataset are assumed: {numbered_classes(dataset.class_map)}. If the model's are "
            "others, all figures are wrong: predict again with --overwrite"
        )


def check_inputs(folder: Path, records: Sequence[SlideRecord], warn: Callable[[str], None]) -> None:
    """Checks that the slides are those that were predicted, in the same frame.

    Raises:
        DatasetError: One is another file, or turned or cropped otherwise.
    """
    inputs = read_inputs(folder)
    for record in records:
        known = inputs.get(record.slide_id)
        reason = _not_the_same(record, known) if known else None
        if reason is not None:
            raise DatasetError(
                f'the prediction of "{record.slide_id}" in "{folder}" belongs to another image than the dataset: '
                f"{reason}; predict again with --overwrite, or import again where the dataset is the older one"
            )
    unknown = [r.slide_id for r in records if r.slide_id not in inputs]
    if unknown:
        warn(
            f'"{folder / RUN_FILE}" does not tell which files {listed(unknown)} were predicted from, so it is not sure '
            "that they are those of the dataset"
        )


def _not_the_same(record: SlideRecord, known: PredictedInput) -> str | None:
    """Says why an image is not the one that was predicted; None where nothing speaks against it."""
    if known.fingerprint != record.fingerprint:
        paths = printable(known.path), printable(record.path)
        return f'it was made from "{paths[0]}", and what was imported from "{paths[1]}" has other content'
    size = (record.width, record.height)
    if None not in (known.width, known.height) and size != (known.width, known.height):
        return f"{known.width} x {known.height} px were predicted, but {size[0]} x {size[1]} px imported"
    if known.frame != record.frame:
        return "it is turned or cropped in another way"
    if None in (known.width, known.height) and known.crop_to_bounds != record.crop_to_bounds:
        return "only one of them is cropped to the scanned bounds"
    return None


def check_models(
    folder: Path,
    predicted: Mapping[str, PredictedLabels],
    records: Sequence[SlideRecord],
    options: EvaluateOptions,
    warn: Callable[[str], None],
) -> list[str]:
    """Checks that one model predicted all slides; says, and returns, on which of them it was trained.

    Raises:
        DatasetError: Several did, against the options.
    """
    recorded = {slide_id: p.record for slide_id, p in predicted.items() if p.record is not None}
    unknown = [slide_id for slide_id in predicted if slide_id not in recorded]
    if unknown:
        warn(f'"{folder / RUN_FILE}" does not tell which model predicted {listed(unknown)}')
    by_weights = all(p.weights for p in recorded.values())
    models: dict[str, list[str]] = {}
    for slide_id, p in recorded.items():
        models.setdefault((by_weights and p.weights) or p.model_run, []).append(slide_id)
    if len(models) > 1:
        kind = "weights" if by_weights else "run"
        by_model = "; ".join(
            f'{listed(slides)} by "{printable(recorded[slides[0]].model)}" ({kind} {printable(model[:8])})'
            for model, slides in models.items()
        )
        if not options.mixed_models:
            raise DatasetError(
                f"the slides were predicted by different models: {by_model}; predict them again with one model and "
                "--overwrite, or pass --mixed-models"
            )
        warn(f"the slides were predicted by different models: {by_model}")
    trained = _trained_on(folder, recorded, records)
    if trained:
        warn(f"the model was trained on these slides: {listed(trained)}; its figures there flatter it")
    return trained


def _trained_on(folder: Path, recorded: Mapping[str, Prediction], records: Sequence[SlideRecord]) -> list[str]:
    """The slides on which their model was trained; none that we know of where it is not where predict found it."""
    model = model_of(folder)
    if model is None:
        return []
    from dmmn_qp.folders.model import load_card

    try:
        provenance = load_card(model).provenance
    except (DmmnQpError, OSError):
        return []
    run_id = provenance.get("run_id")
    by_it = (r for r in records if r.slide_id in recorded and recorded[r.slide_id].model_run == run_id)
    return [r.slide_id for r in by_it if was_trained_on(provenance, r.slide_id, r.fingerprint)]
