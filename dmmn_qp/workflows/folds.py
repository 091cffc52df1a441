"""`dmmn-qp train --folds`: a training for each fold of the cases, judged on the cases that it did not see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, DatasetError, OutputExistsError
from dmmn_qp.files import RUN_FILE, new_folder, write_json
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.dataset import MANIFEST, Dataset, dataset_digest
from dmmn_qp.folders.divided import write_divided
from dmmn_qp.folders.folds import (
    DATASETS,
    FOLDS,
    CrossValidation,
    FoldRecord,
    FoldResult,
    read_folds,
    write_folds,
)
from dmmn_qp.folders.model import is_whole, load_card
from dmmn_qp.folders.model_glance import number, read_object
from dmmn_qp.folders.provenance import describe_run, now, was_trained_on
from dmmn_qp.labels.folds import choose_folds
from dmmn_qp.labels.metrics import confusion_matrix
from dmmn_qp.labels.patches import PatchRef, class_pixels
from dmmn_qp.networks.devices import computing
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import load_predictors
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import names_text, shorten
from dmmn_qp.training.examples import open_mask
from dmmn_qp.training.holding import held
from dmmn_qp.training.launch import processes_of
from dmmn_qp.training.log import wants_events
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.stage import train
from dmmn_qp.training.state import CHANGEABLE, EARLIER, STATE, load_state
from dmmn_qp.workflows.annotated import predicted_annotations

CROSS_VALIDATION: Final = Path("cross-validation")
"""Where it is written unless another folder is named."""

_NAMED: Final = 8
"""So many slides are named."""


@dataclass(frozen=True, slots=True)
class FoldsRequest:
    """What a cross-validation is asked for.

    Attributes:
        dataset: The dataset.
        out: The folder to write.
        number: Number of folds.
        options: Options of the trainings.
        without_test: Whether slides for test take no part.
        slides_roots: Where to look for slides that have been moved.
    """

    dataset: Path
    out: Path
    number: int
    options: TrainOptions
    without_test: bool = False
    slides_roots: tuple[SlidesRoot, ...] = ()


def divide(asked: FoldsRequest, reporter: Reporter) -> CrossValidation:
    """Divides the cases of a dataset into folds; nothing is written.

    Raises:
        DatasetError: There are too few cases.
        ConfigError: Several processes are asked for, or a start that knows the slides, or what is not installed.
    """
    _check(asked)
    dataset = Dataset(asked.dataset)
    cases, pixels = _taking_part(dataset, asked)
    validated = asked.options.validate_on == "val"
    names = dataset.class_map.names
    folds = choose_folds(pixels, names, asked.number, asked.options.seed, validated=validated)
    if len(pixels) == len(cases):
        reporter.say("  each slide is a case of its own; where patients have several, import with --case-pattern")
    _say_test(dataset, asked, reporter)

    def slides_of(chosen: Sequence[str]) -> tuple[str, ...]:
        return tuple(slide_id for slide_id, case in cases.items() if case in chosen)

    records = tuple(
        FoldRecord(held_out=slides_of(fold.held_out), validation=slides_of(fold.validation)) for fold in folds
    )
    return CrossValidation(
        dataset=str(asked.dataset.absolute()),
        dataset_digest=dataset_digest(asked.dataset),
        without_test=asked.without_test,
        options=asked.options.model_dump(mode="json"),
        classes=names,
        folds=records,
    )


def _taking_part(dataset: Dataset, asked: FoldsRequest) -> tuple[dict[str, str], dict[str, NDArray[np.int64]]]:
    """The case of each slide that takes part, and (C,) labelled pixels per class of each case.

    Cases without any annotation stay as they are: there is nothing to learn from, or to judge by.
    """
    wanted = {r.slide_id for r in dataset.slides() if not (asked.without_test and r.split == "test")}
    cases = {slide_id: case for slide_id, case in dataset.cases().items() if slide_id in wanted}
    patches: dict[str, list[PatchRef]] = {slide_id: [] for slide_id in cases}
    for patch in dataset.patches():
        if patch.slide_id in patches:
            patches[patch.slide_id].append(patch)
    pixels: dict[str, NDArray[np.int64]] = {}
    for slide_id, case in cases.items():
        pixels[case] = pixels.get(case, np.int64(0)) + class_pixels(patches[slide_id], dataset.class_map)
    pixels = {case: own for case, own in pixels.items() if own.any()}
    return {slide_id: case for slide_id, case in cases.items() if case in pixels}, pixels


def say_folds(validation: CrossValidation, reporter: Reporter) -> None:
    """Prints which slides each fold holds out."""
    for i, fold in enumerate(validation.folds, 1):
        chosen = f"; epoch chosen on {names_text(fold.validation, _NAMED)}" if fold.validation else ""
        reporter.say(f"  fold {i}: held out {names_text(fold.held_out, _NAMED)}{chosen}")


def cross_validate(
    asked: FoldsRequest, reporter: Reporter, *, overwrite: bool = False, take_over: bool = False
) -> CrossValidation:
    """Trains a model for each fold of the cases, and counts what it makes of the annotations of those held out.

    Every fold that is finished is on disk; asked for the same again, it goes on at the fold, and in the training, where
    it was stopped.

    Args:
        asked: What is asked for.
        reporter: Where to report.
        overwrite: Whether another cross-validation in the folder is replaced.
        take_over: Whether a training on another machine that shows no end is passed over.

    Returns:
        What came of it.

    Raises:
        DatasetError: There are too few cases, or a fold cannot be trained.
        OutputExistsError: The folder holds another cross-validation.
        InUseError: Another process works on it.
        ConfigError: Several processes are asked for, or a start that knows the slides.
    """
    out = asked.out
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with locked(
        out, "a cross-validation", "wait for its end, or choose another folder with --out", take_over=take_over
    ):
        reporter.heading(f"Cross-validation in {asked.number} folds")
        validation = _begun(asked, divide(asked, reporter), reporter, overwrite=overwrite)
        say_folds(validation, reporter)
        for i in range(1, len(validation.folds) + 1):
            if validation.folds[i - 1].result is None:
                with _telling(i, asked):
                    validation = validation.with_result(i, _fold(asked, validation, i, reporter, take_over=take_over))
                write_folds(out, validation)
    return validation


def _check(asked: FoldsRequest) -> None:
    wants_events(asked.options.tensorboard)
    if processes_of(asked.options) > 1:
        raise ConfigError("a cross-validation trains in one process; leave out --devices and the launcher")
    if asked.options.start_from is not None:
        known = load_card(asked.options.start_from).provenance
        for record in Dataset(asked.dataset).slides():
            if was_trained_on(known, record.slide_id, record.fingerprint):
                raise ConfigError(
                    f'model "{asked.options.start_from}" was trained on slide "{shorten(record.slide_id)}" of the '
                    "dataset, so no fold would hold it out; train without --from"
                )


def _say_test(dataset: Dataset, asked: FoldsRequest, reporter: Reporter) -> None:
    apart = [record.slide_id for record in dataset.slides("test")]
    if apart and asked.without_test:
        reporter.say(f"  slides for test take no part: {names_text(apart, _NAMED)}")
    elif apart:
        names = names_text(apart, _NAMED)
        reporter.say(f"  slides for test take part like all others (--without-test leaves them out): {names}")


def _begun(asked: FoldsRequest, wanted: CrossValidation, reporter: Reporter, *, overwrite: bool) -> CrossValidation:
    """The cross-validation in the folder if it is the one that is wanted, else a new one."""
    before = None if overwrite else read_folds(asked.out)
    if before is not None:
        if differences := _differences(before, wanted):
            raise OutputExistsError(
                f'"{asked.out}" holds a cross-validation with {differences}; pass --overwrite to begin anew, or '
                "another --out"
            )
        done = sum(record.result is not None for record in before.folds)
        reporter.say(f"  goes on: {done} of {len(before.folds)} folds are finished")
        return before
    with new_folder(asked.out, overwrite=overwrite, marker=FOLDS) as folder:
        write_folds(folder, wanted)
        facts = {"folds": len(wanted.folds), "dataset": wanted.dataset, "dataset_digest": wanted.dataset_digest}
        write_json(folder / RUN_FILE, describe_run("train --folds", wanted.options, now(), **facts))
    return wanted


def _differences(before: CrossValidation, now_: CrossValidation) -> str:
    """How another cross-validation differs, in words; empty where it is the same."""
    earlier = {**EARLIER, **before.options}
    options = earlier.keys() | now_.options.keys()
    changed = [n for n in sorted(options - CHANGEABLE) if earlier.get(n) != now_.options.get(n)]
    found = [f"other options ({', '.join(changed)})"] if changed else []
    if before.dataset_digest != now_.dataset_digest:
        found.append("another dataset")
    if [fold.held_out for fold in before.folds] != [fold.held_out for fold in now_.folds]:
        found.append("other folds")
    return " and ".join(found)


@contextmanager
def _telling(fold: int, asked: FoldsRequest) -> Iterator[None]:
    """Says in which fold something went wrong, or where it was stopped."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped in fold {fold} of {asked.number}; repeat the command to go on") from None
    except DatasetError as error:
        raise DatasetError(f"fold {fold}: {error}") from error


def _fold(
    asked: FoldsRequest, validation: CrossValidation, number_: int, reporter: Reporter, *, take_over: bool
) -> FoldResult:
    """Trains a fold, as far as it is not trained, and counts what its model makes of the slides that are held out."""
    fold, model = validation.folds[number_ - 1], asked.out / f"fold-{number_}"
    folder = asked.out / DATASETS / model.name
    reporter.heading(f"Fold {number_} of {len(validation.folds)}")
    if not (folder / MANIFEST).is_file():
        write_divided(Dataset(asked.dataset), folder, _splits(fold, Dataset(asked.dataset), asked))
    with held(model, take_over=take_over):
        resumes = (model / STATE).is_file()
        if resumes or not is_whole(model):
            options = _resumed(model, asked.options) if resumes else asked.options
            train(folder, model, options, reporter, resume=resumes, slides_roots=asked.slides_roots)
    confusion = _judged(Dataset(folder), fold, model, asked, reporter)
    run, card = read_object(model / RUN_FILE), load_card(model)
    result = FoldResult(
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        validation_mean_iou=number(card.validation.get("mean_iou")),
        seconds=number(run.get("seconds")) or 0.0,
    )
    reporter.say(f"  mIoU {result.metrics.mean_iou:.3f} on the slides that fold {number_} held out")
    return result


def _splits(fold: FoldRecord, dataset: Dataset, asked: FoldsRequest) -> Mapping[str, Split]:
    splits: dict[str, Split] = dict.fromkeys(_taking_part(dataset, asked)[0], "train")
    return splits | dict.fromkeys(fold.held_out, "test") | dict.fromkeys(fold.validation, "val")


def _resumed(model: Path, asked: TrainOptions) -> TrainOptions:
    """The options of a training that was stopped; where it computes may be another place."""
    changed: dict[str, Any] = asked.model_dump(mode="json", include=set(CHANGEABLE), exclude_none=True)
    return TrainOptions.model_validate({**load_state(model).options, **changed})


def _judged(
    dataset: Dataset, fold: FoldRecord, model: Path, asked: FoldsRequest, reporter: Reporter
) -> NDArray[np.int64]:
    """(C, C) what people drew on the slides that are held out, by what the model makes of it."""
    options = PredictOptions(
        device=asked.options.device, precision=asked.options.precision, threads=asked.options.threads
    )
    (predictor,), n_classes = load_predictors(model, options), len(dataset.class_map)
    confusion = np.zeros((n_classes, n_classes), np.int64)
    with computing(options.threads), reporter.task("slides that are held out", len(fold.held_out)) as task:
        for slide_id in fold.held_out:
            with open_mask(dataset, slide_id, ("drawn",)) as mask:
                record = dataset.record(slide_id)
                for truth, found in predicted_annotations(dataset, record, mask, predictor, asked.slides_roots):
                    confusion += confusion_matrix(truth, found.labels, n_classes)
            task.advance(note=slide_id)
    return confusion
