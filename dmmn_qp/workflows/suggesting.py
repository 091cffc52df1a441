"""Predicts with uncertainty what was not predicted so, then suggests where to annotate next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ModelError, PartlyPredictedError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_card, newest_model
from dmmn_qp.folders.predictions import (
    LABELS_SUFFIX,
    UNCERTAINTY_SUFFIX,
    PredictedInput,
    is_by,
    read_inputs,
    read_predictions,
)
from dmmn_qp.folders.suggestions import PREDICTED, Suggestion
from dmmn_qp.predicting.inputs import SlideToPredict, slides_to_predict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.stage import predict
from dmmn_qp.slides.files import has_fingerprint
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.suggesting.stage import suggest
from dmmn_qp.suggesting.writing import check_out
from dmmn_qp.workflows.places import MODELS


def predict_and_suggest(
    names: Sequence[str],
    predictions: Path,
    dataset: Path,
    out: Path,
    options: SuggestOptions,
    reporter: Reporter,
    *,
    model: Path | None = None,
    models: Path = MODELS,
    predicting: PredictOptions | None = None,
    slides_roots: Sequence[SlidesRoot] = (),
) -> list[Suggestion]:
    """Suggests regions on slides, and first predicts those of which the model's uncertainty is not known.

    The user's predictions are left alone: what is missing is predicted, tissue alone, into the folder ``predicted`` of
    the suggestions, where the next call finds it. What another model has predicted counts as missing.

    Args:
        names: What the user named, as for `predict`; none for the training slides of the dataset. Slides that were
            predicted with uncertainty are looked at in any case.
        predictions: The user's folder of predictions; it need not exist.
        dataset: The dataset.
        out: Folder to write into.
        options: Resolved options.
        reporter: Where to report.
        model: The model; None for the newest one, or, where there is none, for what the predictions are of.
        models: Folder of models, in which the newest is looked for.
        predicting: How to predict; only where to compute, and how, is of interest.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        ModelError: The model is missing, or there is none and nothing is predicted with uncertainty.
        DatasetError: There is no dataset, or no window that may be suggested.
    """
    check_out(out)
    if model is None:
        try:
            model = newest_model(models)
        except ModelError:
            if not any(predictions.glob(f"*.{UNCERTAINTY_SUFFIX}")):
                raise
            return suggest(predictions, dataset, out, options, reporter, slides_roots=slides_roots)
    with reporter.counting_warnings():
        slides = _slides(names, dataset, options, slides_roots, reporter)
        missing = _missing(slides, predictions, out / PREDICTED, model, reporter)
    if missing:
        reporter.say(f"  predicted first, with uncertainty: {', '.join(slide.slide_id for slide in missing)}")
        _predict(model, missing, out / PREDICTED, predicting or PredictOptions(), reporter)
    return suggest(
        [predictions, *(folder for folder in (out / PREDICTED,) if folder.is_dir())],
        dataset,
        out,
        options,
        reporter,
        slides_roots=slides_roots,
        model=model,
    )


def _slides(
    names: Sequence[str],
    dataset: Path,
    options: SuggestOptions,
    slides_roots: Sequence[SlidesRoot],
    reporter: Reporter,
) -> list[SlideToPredict]:
    """The slides on which regions may be suggested: those named, or else the dataset's."""
    known = Dataset(dataset)
    kept = {record.slide_id for record in known.slides() if record.split != "train" and not options.held_back}
    named = names or [record.slide_id for record in known.slides() if record.slide_id not in kept]
    if not named:
        return []
    slides = slides_to_predict(named, dataset, slides_roots, say=reporter.say)
    for slide in slides:
        if slide.problem is not None:
            reporter.warn_of(slide.slide_id, f"is left out: {slide.problem}", " ")
    there = [slide for slide in slides if slide.problem is None]
    left_out = [slide.slide_id for slide in there if slide.slide_id in kept]
    if left_out:
        reporter.say(f"  not predicted, because they are for validation or test: {', '.join(left_out)}")
    return [slide for slide in there if slide.slide_id not in kept]


def _missing(
    slides: Sequence[SlideToPredict], predictions: Path, own: Path, model: Path, reporter: Reporter
) -> list[SlideToPredict]:
    """Slides of which no folder has what this model predicts, with its uncertainty.

    Args:
        slides: The slides.
        predictions: The user's folder; where it has another file of a slide's name, the slide is left out.
        own: The folder of predictions for suggestions alone; what it has of another file is replaced.
        model: The model.
        reporter: Where to say what is left out.
    """
    weights = load_card(model).weights_sha256
    (users, users_inputs), (ours, our_inputs) = (
        (_with_uncertainty(folder, weights), read_inputs(folder)) for folder in (predictions, own)
    )
    missing = []
    for slide in slides:
        if slide.slide_id in users:
            if _is_of_another_file(users_inputs.get(slide.slide_id), slide):
                reporter.warn_of(
                    slide.slide_id,
                    f'is left out: "{predictions}" has a prediction of another file of that name; rename one of the '
                    "files, or pass another folder with --predictions",
                    " ",
                )
        elif slide.slide_id not in ours or _is_of_another_file(our_inputs.get(slide.slide_id), slide):
            missing.append(slide)
    return missing


def _with_uncertainty(folder: Path, weights: str | None) -> set[str]:
    """Slides of a folder that the model of these weights predicted with its uncertainty."""
    return {
        slide_id
        for slide_id, prediction in read_predictions(folder).items()
        if is_by(prediction, weights)
        and all((folder / f"{slide_id}.{suffix}").is_file() for suffix in (LABELS_SUFFIX, UNCERTAINTY_SUFFIX))
    }


def _is_of_another_file(image: PredictedInput | None, slide: SlideToPredict) -> bool:
    """Whether a prediction is of another file than a slide is, as far as it tells."""
    return image is not None and not has_fingerprint(slide.path, image.fingerprint)


def _predict(
    model: Path, slides: Sequence[SlideToPredict], out: Path, options: PredictOptions, reporter: Reporter
) -> None:
    """Predicts the tissue of slides; what an earlier model predicted of them there is replaced."""
    wanted = options.model_copy(update={"tissue_only": True, "uncertainty": True})
    try:
        predict(model, slides, out, wanted, reporter, overwrite=True)
    except PartlyPredictedError as error:
        reporter.warn(str(error))
