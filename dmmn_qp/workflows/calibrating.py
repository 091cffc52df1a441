"""`dmmn-qp models calibrate`: the temperature of a model, fitted on the validation slides of its dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import Origin
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, ModelError
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.calibrated import LEAST_TEMPERATURE, MOST_TEMPERATURE, Calibrated
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import ModelCard, load_card, set_calibrated
from dmmn_qp.folders.provenance import now, was_trained_on
from dmmn_qp.labels.calibration import expected_calibration_error, reliability_sums
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.labels.temperature import Logits, confidences, fitted_temperature, log_loss
from dmmn_qp.networks.devices import computing
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.predictor import Predictor, load_predictors
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED
from dmmn_qp.text import count_of, shorten
from dmmn_qp.training.examples import open_mask
from dmmn_qp.training.plan import validation_patches
from dmmn_qp.workflows.annotated import LabelsInPatches, check_same_grid, predicted_annotations

MOST_VALUES: Final = 2**21
"""So many logits are kept; of more, pixels are chosen at random: with seven classes, 300,000 of them."""

_FEW_WRONG: Final = 100
"""With fewer wrong pixels, how sure a model may be is a guess."""

_SEED: Final = 0


class _Pixels(NamedTuple):
    """What the model makes of annotated pixels.

    Attributes:
        logits: (N, C).
        classes: (N,) the true class of each, as the model numbers them, from 0 on.
    """

    logits: Logits
    classes: NDArray[np.int64]


def calibrate(
    model: Path,
    dataset_folder: Path,
    options: PredictOptions,
    reporter: Reporter,
    *,
    slides_roots: Sequence[SlidesRoot] = (),
) -> Calibrated:
    """Fits the temperature of a model, and writes it into its card; its weights and labels stay as they are.

    Logits stream: of the annotated pixels of the validation patches, at most `MOST_VALUES` values are kept.

    Args:
        model: The model.
        dataset_folder: Its dataset.
        options: How to predict; of several copies the logarithm of their mean probability takes the place of logits.
        reporter: Where to report.
        slides_roots: Where to look for slides that have been moved.

    Returns:
        What is in the card now.

    Raises:
        ModelError: The model is missing or damaged.
        DatasetError: There is no validation slide that it was not trained on, or nothing of its classes on it.
        InUseError: A training is running in it, which would write another card.
    """
    with _held(model) as card, computing(options.threads):
        dataset = Dataset(dataset_folder)
        check_same_grid(dataset, card)
        patches, origins = _patches(dataset, card, reporter)
        on = count_of(len(patches), "validation patch", "validation patches")
        reporter.heading(f'Calibrating "{shorten(card.name)}" on {on}')
        (predictor,) = load_predictors(model, options.model_copy(update={"devices": 1}))
        pixels = _gathered(dataset, patches, origins, predictor, slides_roots, reporter)
        found = _fitted(pixels, len({patch.slide_id for patch in patches}), options)
        _warn(pixels, found, reporter)
        set_calibrated(model, card.weights_sha256, found)
    return found


def uncalibrate(model: Path) -> None:
    """Takes the temperature out of a model's card.

    Raises:
        ModelError: The card is missing or damaged, or has none.
        InUseError: A training is running in it, which would write another card.
    """
    with _held(model) as card:
        if card.calibrated is None:
            raise ModelError(f'model "{model}" is not calibrated, so there is nothing to remove')
        set_calibrated(model, card.weights_sha256, None)


@contextmanager
def _held(model: Path) -> Iterator[ModelCard]:
    """Holds a model, so that nothing else writes its card, and reads that."""
    load_card(model)  # no lock beside what is no model
    with locked(model.absolute(), "a calibration", "wait for its end", where=model):
        yield load_card(model)


def _patches(dataset: Dataset, card: ModelCard, reporter: Reporter) -> tuple[list[PatchRef], tuple[Origin, ...]]:
    """The validation patches of slides that a model was not trained on, and whose labels on them count."""
    known = {r.slide_id for r in dataset.slides() if was_trained_on(card.provenance, r.slide_id, r.fingerprint)}
    apart = [patch for patch in dataset.patches() if patch.split == "val"]
    divided = {patch.slide_id for patch in apart if patch.fixed}  # by areas, which keep pixels apart
    unseen = [patch for patch in apart if patch.slide_id not in known - divided]
    if not unseen:
        reason = "the model was trained on all of them" if apart else "there is none"
        raise DatasetError(
            f'dataset "{dataset.folder}" has no validation patch to calibrate "{card.name}" on ({reason}); give a '
            "slide that it was not trained on the split val, and import again"
        )
    if left_out := {patch.slide_id for patch in apart} - {patch.slide_id for patch in unseen}:
        reporter.warn(f"left out, because the model was trained on them: {', '.join(map(shorten, sorted(left_out)))}")
    return validation_patches(dataset, unseen, reporter)


def _gathered(
    dataset: Dataset,
    patches: Sequence[PatchRef],
    origins: tuple[Origin, ...],
    predictor: Predictor,
    slides_roots: Sequence[SlidesRoot],
    reporter: Reporter,
) -> _Pixels:
    """Annotated pixels of patches, each at most once, with the logits of the model.

    Raises:
        DatasetError: None is of a class of the model.
    """
    names = predictor.card.class_map.names
    own = np.array([-1, *(names.index(name) if name in names else -1 for name in dataset.class_map.names)])
    if strange := [name for name in dataset.class_map.names if name not in names]:
        reporter.warn(f"left out, because the model does not know them: {', '.join(map(shorten, strange))}")
    annotated = sum(sum(patch.label_counts[1:]) for patch in patches)
    share = min(1.0, MOST_VALUES / len(names) / max(1, annotated))
    rng, parts = np.random.default_rng(_SEED), []
    for found, classes in _predicted(dataset, patches, origins, predictor, slides_roots, own, reporter):
        chosen = rng.random(len(classes)) < share
        parts.append(_Pixels(found[chosen], classes[chosen]))
    whole = _Pixels(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)) if parts else ((), ()))
    if not len(whole.classes):
        raise DatasetError(
            f'the validation patches of dataset "{dataset.folder}" hold none of the classes of model '
            f'"{predictor.card.name}" ({", ".join(names)}); annotate them on a validation slide, and import again'
        )
    return whole


def _predicted(
    dataset: Dataset,
    patches: Sequence[PatchRef],
    origins: tuple[Origin, ...],
    predictor: Predictor,
    slides_roots: Sequence[SlidesRoot],
    own: NDArray[np.int64],
    reporter: Reporter,
) -> Iterator[tuple[Logits, NDArray[np.int64]]]:
    """(N, C) logits and (N,) classes of the annotated pixels of a block, block by block."""
    size, slides = dataset.patch_spec.size_px, list(dict.fromkeys(patch.slide_id for patch in patches))
    with reporter.task("validation slides", len(slides)) as task:
        for slide_id in slides:
            of_slide = [patch for patch in patches if patch.slide_id == slide_id]
            with open_mask(dataset, slide_id, origins) as mask:
                labels = LabelsInPatches(mask, of_slide, size)
                record = dataset.record(slide_id)
                for truth, found in predicted_annotations(
                    dataset, record, labels, predictor, slides_roots, logits=True
                ):
                    assert found.logits is not None
                    counts = (truth != UNLABELLED) & (own[truth] >= 0)
                    yield found.logits[:, counts].T, own[truth[counts]]
            task.advance(note=slide_id)


def _fitted(pixels: _Pixels, slides: int, options: PredictOptions) -> Calibrated:
    logits, classes = pixels
    temperature = round(fitted_temperature(logits, classes, LEAST_TEMPERATURE, MOST_TEMPERATURE), 4)
    right = logits.argmax(axis=1) == classes
    sums = [reliability_sums(confidences(logits, t), right) for t in (1.0, temperature)]
    errors = [float(expected_calibration_error(of_one)) for of_one in sums]
    losses = [log_loss(logits, classes, t) for t in (1.0, temperature)]
    return Calibrated(
        temperature=temperature,
        error_before=round(errors[0], 6),
        error_after=round(errors[1], 6),
        loss_before=round(losses[0], 6),
        loss_after=round(losses[1], 6),
        pixels=len(classes),
        slides=slides,
        views=8 if options.tta else options.views,
        created=now(),
    )


def _warn(pixels: _Pixels, found: Calibrated, reporter: Reporter) -> None:
    """Says what makes a temperature doubtful."""
    wrong = int((pixels.logits.argmax(axis=1) != pixels.classes).sum())
    if wrong < _FEW_WRONG:
        reporter.warn(
            f"only {wrong} of {found.pixels:,} annotated pixels are wrong, too few to tell how sure the model may be; "
            "annotate places on validation slides that are hard to tell"
        )
    elif found.slides == 1:
        reporter.warn("it is fitted to a single slide, and others may be harder; more validation slides tell more")
    if found.temperature in (LEAST_TEMPERATURE, MOST_TEMPERATURE):
        reporter.warn(f"the temperature is at its limit of {found.temperature:g}, so the fit is no good one")
