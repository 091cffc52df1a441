"""Makes a slide's files, from its finished strips or from labels that are there, and has them put in place."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from dmmn_qp.errors import DatasetError
from dmmn_qp.files.renaming import clear_away, remove_if_empty, remove_tree
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import EARLIER, LABELS_SUFFIX, PROBABILITIES_SUFFIX, Prediction
from dmmn_qp.outputs.area_table import count_areas
from dmmn_qp.outputs.made_objects import MadeObjects
from dmmn_qp.outputs.predicted import LabelConfidence, PredictedSlide
from dmmn_qp.outputs.writers import missing_derived, write_derived, write_files, write_polygons_alone
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.plan import AddFiles, RemakePolygons
from dmmn_qp.predicting.publishing import ReadySlide, digests_of, publish, publish_more
from dmmn_qp.predicting.request import input_of, listed, polygon_differences
from dmmn_qp.predicting.slide import SlideJob
from dmmn_qp.predicting.summary import Outcome, Summary, say_objects
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.vectors.sources import LabelSource

_READY: Final = "ready"
"""Folder beside the strips for files that are finished."""


def finish(call: Call, job: SlideJob, so_far: Summary) -> Outcome:
    """Makes a slide's files from its strips, and puts them in place; it runs beside the next slide's prediction.

    Args:
        call: The call.
        job: The slide, with all of its strips.
        so_far: What came of the slides before.

    Raises:
        DatasetError: Strips are missing or damaged.
        SlideError: The slide cannot be opened any more.
        OSError: The files cannot be written.
    """
    name, strips = job.target.slide_id, job.strips
    ready = _empty_ready(call, name)
    record = _record_of(call, job)
    confidence = strips.source("confidence") if "confidence" in strips.channels else None
    with ForgivingSlide(job.target.open()) as slide:
        predicted = replace(
            _predicted(call, job.target, slide, ready / f"{name}.{LABELS_SUFFIX}", record, confidence),
            pixels=strips,
            tissue=job.area.tissue,
        )
        write_files(ready, predicted, call.reporter, recorded=True)
        record = record.model_copy(update={"files": digests_of(ready, name)})
        areas = replace(
            count_areas(predicted), distance=record.distance_from_training, threshold=record.distance_threshold
        )
        write_files(ready, predicted, call.reporter, recorded=False)
    record = _with_objects(record, predicted)
    outcome = publish(
        call, ReadySlide(name, ready, record, input_of(job.target, job.info), predicted.made, areas), so_far
    )
    strips.remove()
    return outcome


def remake_polygons(call: Call, plan: RemakePolygons, so_far: Summary) -> Outcome | None:
    """Makes a slide's polygons anew from its labels, and puts them in place.

    Args:
        call: The call.
        plan: The slide, with the record of its labels.
        so_far: What came of the slides before.

    Returns:
        What came of it; None where the labels turn out to be damaged, so that it must be predicted.

    Raises:
        SlideError: The slide cannot be opened.
        OSError: The polygons cannot be written.
    """
    name = plan.slide.slide_id
    ready, labels = _empty_ready(call, name), call.out / f"{name}.{LABELS_SUFFIX}"
    try:
        with ExitStack() as stack:
            slide = stack.enter_context(ForgivingSlide(plan.slide.open()))
            raster = stack.enter_context(LabelRaster(labels))
            confidence = _confidence_of(call, plan, raster, stack)
            predicted = _predicted(call, plan.slide, slide, labels, plan.record, confidence)
            write_polygons_alone(ready, predicted)
            write_derived(ready, missing_derived(call.out, name, call.options), predicted, call.reporter)
            image = input_of(plan.slide, slide.info)
        record = _with_objects(plan.record, predicted)
        publish_more(call, name, ready)
        outcome = publish(call, ReadySlide(name, ready, record, image, predicted.made), so_far)
    except DatasetError as error:
        call.reporter.say(f"  {name}: it is predicted again ({error})")
        return None
    finally:
        _remove_ready(call, name)
    _say_remade(call, plan, predicted.made, has_confidence=confidence is not None)
    say_objects(call, outcome)
    return outcome


def add_files(call: Call, plan: AddFiles) -> Outcome:
    """Makes the files that a finished slide lacks of its rasters, and puts them in place.

    Args:
        call: The call.
        plan: The slide, with the record of its prediction.

    Returns:
        What came of it; it counts as skipped where there is no file that it could be given.

    Raises:
        DatasetError: A raster is damaged.
        SlideError: The slide cannot be opened.
        OSError: The files cannot be written.
    """
    name = plan.slide.slide_id
    ready, labels = _empty_ready(call, name), call.out / f"{name}.{LABELS_SUFFIX}"
    try:
        with ForgivingSlide(plan.slide.open()) as slide:
            predicted = _predicted(call, plan.slide, slide, labels, plan.record, None)
            write_derived(ready, missing_derived(call.out, name, call.options), predicted, call.reporter)
        made = sorted(path.name for path in ready.iterdir())
        if made:
            publish_more(call, name, ready)
            call.reporter.say(f"  {name}: made of its rasters, without predicting: {', '.join(made)}")
        return Outcome(name, plan.polygons, skipped=not made, is_unlike=plan.record.is_unlike)
    finally:
        _remove_ready(call, name)


def _record_of(call: Call, job: SlideJob) -> Prediction:
    """The record of a slide whose strips are finished, but for the digests of its files."""
    precision = "bf16" if call.model.predictor.bf16 else "fp32"
    record = call.record(job.target, job.info.mpp, job.area.outline, precision)
    unreadable = {"lost": len(job.unreadable.lost), "from_another_level": len(job.unreadable.replaced)}
    found = job.from_training
    told = {
        "device": str(call.model.predictor.device),
        "threads": torch.get_num_threads(),
        "seconds": round(job.seconds, 1),
        "unreadable": unreadable,
        "distance_from_training": None if found is None else found.distance,
        "distance_threshold": None if found is None else found.threshold,
    }
    return record.model_copy(update=told)


def _with_objects(record: Prediction, predicted: PredictedSlide) -> Prediction:
    """The record with what became of the regions of the labels."""
    return record.model_copy(update={"objects": predicted.made.description()})


def _predicted(
    call: Call,
    target: SlideToPredict,
    slide: Slide,
    labels: Path,
    record: Prediction,
    confidence: LabelSource | None,
) -> PredictedSlide:
    """The slide as writers take it."""
    card = call.model.card
    return PredictedSlide(
        slide=slide,
        slide_id=target.slide_id,
        fingerprint=fingerprint(target.path),
        labels=labels,
        downsample=card.patch_spec.grid_of(slide.info.mpp, target.slide_id).downsample,
        class_map=card.class_map,
        model_name=record.model,
        model_run=record.model_run,
        run_id=record.run_id,
        options=call.options,
        confidence=confidence,
        frame=target.view.frame,
    )


def _confidence_of(call: Call, plan: RemakePolygons, labels: LabelRaster, stack: ExitStack) -> LabelConfidence | None:
    """The probability of each pixel's label, if the probabilities are there as they were recorded."""
    path = call.out / f"{plan.slide.slide_id}.{PROBABILITIES_SUFFIX}"
    digest = (plan.before.files or {}).get(PROBABILITIES_SUFFIX)
    if digest is None or not path.is_file() or fingerprint(path) != digest:
        return None
    return stack.enter_context(LabelConfidence(labels, path, len(call.model.card.class_map)))


def _say_remade(call: Call, plan: RemakePolygons, made: MadeObjects, *, has_confidence: bool) -> None:
    """Says that polygons were made anew, why, and whether they lack something."""
    name = plan.slide.slide_id
    changes = listed(polygon_differences(plan.before.polygons or {}, plan.record.polygons or {}))
    call.reporter.say(
        f"  {name}: polygons made anew from its labels, without predicting"
        + (f" ({changes}); those of before are kept in {call.out / EARLIER}/" if changes else "")
        + f"; {made.summary(call.options)}"
    )
    request = plan.before.request or {}
    if not has_confidence and any(request.get(kind) for kind in ("probabilities", "uncertainty")):
        call.reporter.warn_of(
            name,
            "its new polygons have no mean probability, because its probabilities are not there; pass "
            "--probabilities --overwrite to predict them",
        )


def _remove_ready(call: Call, slide_id: str) -> None:
    """Removes the folder for finished files; of a prediction that was begun, its strips stay."""
    folder = call.strips_folder(slide_id)
    clear_away(folder / _READY)
    remove_if_empty(folder)


def _empty_ready(call: Call, slide_id: str) -> Path:
    """A new folder for finished files, beside the strips."""
    ready = call.strips_folder(slide_id) / _READY
    remove_tree(ready)
    ready.mkdir(parents=True)
    return ready
