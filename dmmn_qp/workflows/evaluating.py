"""Models and folders of predictions compared on the same slides; what a model has not predicted, it predicts first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, OutputExistsError
from dmmn_qp.evaluating.chosen import chosen_slides, counted_areas
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.evaluating.page import write_evaluation_page
from dmmn_qp.evaluating.stage import evaluate
from dmmn_qp.files import write_json
from dmmn_qp.folders.counted_labels import LabelOpener
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.evaluation import EVALUATION, FOLDER, Evaluation, write_evaluation
from dmmn_qp.folders.predictions import LABELS_SUFFIX, is_by, read_predictions
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.reports.evaluation_json import evaluation_as_json
from dmmn_qp.reports.evaluation_report import PAGE
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.vectors.sources import LabelSource
from dmmn_qp.workflows.external import annotated_slides, check_without_dataset
from dmmn_qp.workflows.places import PREDICTIONS

PREDICTED: Final = "predicted"
"""Folder in that of an evaluation: a folder of predictions of each model that was named."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What is compared with what.

    Attributes:
        dataset: The dataset.
        split: Which of its slides.
        predictions: Folders of predictions; with no models either, ``predictions``.
        models: Models whose predictions are compared too.
        truth: Maps of the full truth.
        options: How to compare.
        predicting: How models predict.
        slides_roots: Folders to search for slides that have been moved.
        annotations: Projects whose slides take the place of the dataset's; empty for none.
        importing: How these are read.
    """

    dataset: Path
    split: Split = "test"
    predictions: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    truth: Path | None = None
    options: EvaluateOptions = field(default_factory=EvaluateOptions)
    predicting: PredictOptions = field(default_factory=PredictOptions)
    slides_roots: tuple[SlidesRoot, ...] = ()
    annotations: tuple[Path, ...] = ()
    importing: ImportOptions = field(default_factory=ImportOptions)


@dataclass(frozen=True, slots=True)
class EvaluationFiles:
    """Where the figures go.

    Attributes:
        out: Folder of ``evaluation.json``; None for ``evaluation``, in which an earlier one is replaced.
        json_file: File for the figures of one model in few keys.
        overwrite: Whether an earlier evaluation, and predictions that were made for it otherwise, are replaced.
    """

    out: Path | None = None
    json_file: Path | None = None
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.out or Path(FOLDER)

    def check(self) -> None:
        """Checks at once, and not after the work, that they can be written.

        Raises:
            OutputExistsError: There is an evaluation that is not to be replaced.
            ConfigError: The file is a folder.
        """
        out, json_file = self.folder, self.json_file
        if out.exists() and not out.is_dir():
            raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
        if self.out is not None and (out / EVALUATION).exists() and not self.overwrite:
            raise OutputExistsError(
                f'"{out / EVALUATION}" exists; pass --overwrite to replace it or choose another folder with --out'
            )
        if json_file is not None and json_file.is_dir():
            raise ConfigError(f'--json "{json_file}" is a folder; name a file, such as {json_file}/{EVALUATION}')


def evaluate_into(request: EvaluationRequest, files: EvaluationFiles, reporter: Reporter) -> Evaluation:
    """Compares, and writes what came of it.

    Args:
        request: What is compared with what.
        files: Where the figures go.
        reporter: Where to report.
    """
    files.check()
    evaluation, dataset, regions = _compared(request, files.folder, reporter, overwrite=files.overwrite)
    if files.json_file is not None:
        write_json(files.json_file, evaluation_as_json(evaluation))
        reporter.say(f"Wrote {files.json_file}")
    write_evaluation(files.folder, evaluation)  # already here: whoever stops the pictures keeps the figures
    evaluation = write_evaluation_page(
        evaluation,
        files.folder,
        reporter,
        spec=dataset.patch_spec,
        slides_roots=request.slides_roots,
        opener=LabelOpener(regions=regions),
    )
    write_evaluation(files.folder, evaluation)
    reporter.say(f"Wrote {files.folder}/; look at {files.folder / PAGE}")
    return evaluation


def evaluate_models(
    request: EvaluationRequest, out: Path | None, reporter: Reporter, *, overwrite: bool = False
) -> Evaluation:
    """Compares predictions and models on the same pixels.

    What a model has predicted into ``predictions``, or in an earlier evaluation, is taken; the rest it predicts into
    ``predicted`` of the evaluation's folder.

    Args:
        request: What is compared with what.
        out: Folder of the evaluation, for what models must predict and what is read of projects; None for
            ``evaluation``.
        reporter: Where to report.
        overwrite: Whether models predict again.

    Raises:
        DatasetError: There are no such slides, or a prediction is missing or does not fit.
        ConfigError: The options name a class, slide or key that does not exist.
        ModelError: A model is missing or damaged.
        SlideError: A slide that must be predicted is missing or damaged.
    """
    return _compared(request, out, reporter, overwrite=overwrite)[0]


def _compared(
    request: EvaluationRequest, out: Path | None, reporter: Reporter, *, overwrite: bool
) -> tuple[Evaluation, Dataset, Mapping[str, LabelSource]]:
    """The evaluation, the dataset that was compared with, and the areas outside of which nothing of it counted."""
    folders = [*request.predictions] or ([] if request.models else [PREDICTIONS])
    if request.annotations:
        check_without_dataset(request.dataset, request.split)
        place, roots = out or Path(FOLDER), request.slides_roots
        read = annotated_slides(request.annotations, folders, request.models, place, request.importing, roots, reporter)
        request = replace(request, dataset=read, split="test")
    folders += _predicted(request, (out or Path(FOLDER)) / PREDICTED, reporter, overwrite)
    dataset = Dataset(request.dataset)
    regions = counted_areas(dataset, chosen_slides(dataset, request.split, request.options.slides), request.options)
    evaluation = evaluate(
        folders,
        request.dataset,
        request.split,
        request.truth,
        reporter,
        request.options,
        slides_roots=request.slides_roots,
        regions=regions,
    )
    return evaluation, dataset, regions


def _predicted(request: EvaluationRequest, place: Path, reporter: Reporter, overwrite: bool) -> list[Path]:
    """The folder of each model's predictions, which are made where they are not there."""
    if not request.models:
        return []
    from dmmn_qp.folders.model import load_card  # whoever only compares need not wait for torch
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import predict

    records = chosen_slides(Dataset(request.dataset), request.split, request.options.slides)
    slide_ids = [record.slide_id for record in records]
    folders = []
    for model, name in zip(request.models, _names(request.models), strict=True):
        weights = load_card(model).weights_sha256
        if not overwrite and _has_all(PREDICTIONS, slide_ids, weights):
            reporter.say(f"  {name}: taken from {PREDICTIONS}")
            folders.append(PREDICTIONS)
            continue
        slides = slides_to_predict(slide_ids, request.dataset, request.slides_roots, say=reporter.say)
        predict(model, slides, place / name, request.predicting, reporter, overwrite=overwrite)
        folders.append(place / name)
    return folders


def _has_all(folder: Path, slide_ids: Sequence[str], weights: str | None) -> bool:
    """Whether a folder has the labels of all slides, and says that they are of this model."""
    recorded = read_predictions(folder)
    return weights is not None and all(
        (made := recorded.get(slide_id)) is not None
        and made.weights is not None
        and is_by(made, weights)
        and (folder / f"{slide_id}.{LABELS_SUFFIX}").is_file()
        for slide_id in slide_ids
    )


def _names(models: Sequence[Path]) -> list[str]:
    """Names of the models' folders of predictions: their own, with a number where several have one name."""
    names: list[str] = []
    for model in models:
        name = own = model.resolve().name
        number = 1
        while name.casefold() in (other.casefold() for other in names):
            number += 1
            name = f"{own}-{number}"
        names.append(name)
    return names
