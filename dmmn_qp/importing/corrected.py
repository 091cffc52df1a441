"""What was corrected into what: each area that somebody vouched for, against the prediction that it comes from.

A project keeps what was corrected in all rounds. So the areas are told apart by the model that had predicted them: each
counts once, for the model whose prediction was seen when it was corrected, and never for a later one, which has learned
from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY
from dmmn_qp.qupath.originals import Original, read_originals
from dmmn_qp.qupath.review import Verdict, is_same_outline
from dmmn_qp.qupath.review_counts import ReviewedModel

_LEAST_PX2: Final = 1.0
"""What outlines share that only touch, but for rounding."""

_LONGEST_RUN: Final = 200
"""Longest id of a training that is believed; ours have 36 characters, and older models their name instead."""

_Reviewed = tuple[Annotation, Verdict]


def reviewed_models(
    taken: Sequence[Annotation], verdicts: Sequence[Verdict], left_out: Iterable[_Reviewed] = ()
) -> tuple[ReviewedModel, ...]:
    """What people made of predictions, by the model that had made them.

    Args:
        taken: The objects of an image that are taken.
        verdicts: What is known of each.
        left_out: Those that are not taken.

    Returns:
        An entry for each model of which there is an object, in the order of the objects, those that are taken first;
        what does not tell its model has an entry of its own.
    """
    reviewed = {
        (annotation.geometry.wkb, annotation.class_name): (annotation, verdict)  # a copy says nothing more
        for annotation, verdict in zip(taken, verdicts, strict=True)
        if annotation.origin in ("corrected", "confirmed") and annotation.is_area
    }
    by_run: dict[str | None, list[_Reviewed]] = {}
    for annotation, verdict in reviewed.values():
        by_run.setdefault(_model_run(annotation, verdict), []).append((annotation, verdict))
    unchecked: dict[str | None, list[_Reviewed]] = {}
    for annotation, verdict in left_out:
        if verdict.origin == "unchecked" and not verdict.is_outline and annotation.is_area:
            unchecked.setdefault(_model_run(annotation, verdict), []).append((annotation, verdict))
    return tuple(_of_model(run, by_run.get(run, ()), unchecked.get(run, ())) for run in {**by_run, **unchecked})


def _model_run(annotation: Annotation, verdict: Verdict) -> str | None:
    """The training of the model that had predicted an object: by its own marks, else by those of the original."""
    run = annotation.metadata.get(MODEL_RUN_KEY)
    if run is None and verdict.original is not None:
        run = verdict.original.model_run
    return run if run is None or len(run) <= _LONGEST_RUN else None


def _of_model(run: str | None, group: Sequence[_Reviewed], unchecked: Sequence[_Reviewed]) -> ReviewedModel:
    """What became of the predictions of one model."""
    areas: defaultdict[tuple[str, str | None], float] = defaultdict(float)
    squares = (0.0, 0.0, 0.0)
    for found in _judged(run, group):
        area = sum(found.values())
        right = sum(px2 for (predicted, said), px2 in found.items() if predicted == said)
        squares = squares[0] + area**2, squares[1] + area * right, squares[2] + right**2
        for pair, px2 in found.items():
            areas[pair] += px2
    corrected = [(a, v) for a, v in group if a.origin == "corrected"]
    objects = (*group, *unchecked)
    names = (a.metadata.get(METADATA_KEY) or (v.original.model if v.original is not None else None) for a, v in objects)
    return ReviewedModel(
        model_run=run,
        model=None if run is None else next(filter(None, names), None),
        confirmed=len(group) - len(corrected),
        corrected=len(corrected),
        reclassified=sum(_is_reclassified(a, v) for a, v in corrected),
        reshaped=sum(_is_reshaped(a, v) for a, v in corrected),
        corrections={pair: px2 for pair, px2 in areas.items() if px2 >= _LEAST_PX2},
        squares_px4=squares,
        is_compared=all(_original(v, run) is not None for _, v in corrected),
        unchecked=len(unchecked),
    )


def _is_reclassified(annotation: Annotation, verdict: Verdict) -> bool:
    return verdict.predicted_as is not None and annotation.class_name != verdict.predicted_as


def _is_reshaped(annotation: Annotation, verdict: Verdict) -> bool:
    """Whether the outline was changed; where the original is not known, whatever did not get another class."""
    if verdict.original is None:
        return not _is_reclassified(annotation, verdict)
    return not is_same_outline(annotation.geometry, verdict.original.geometry)


def _original(verdict: Verdict, run: str | None) -> Original | None:
    """The object as that model had predicted it; None where it is not known, or is another model's."""
    original = verdict.original
    return original if original is not None and original.model_run in (None, run) else None


def _judged(run: str | None, group: Sequence[_Reviewed]) -> Iterable[dict[tuple[str, str | None], float]]:
    """Areas in px2 by (predicted class, class now) of each object.

    What lies inside it was predicted as one class or another, and what was taken away from it was predicted as its own.
    """
    areas = shapely.STRtree([annotation.geometry for annotation, _ in group])
    for source, members in _by_source(run, group).items():
        predicted = [
            original
            for original in _predicted_near(source, [annotation.geometry for annotation, _ in members])
            if original.model_run in (None, run)
        ]
        tree = shapely.STRtree([original.geometry for original in predicted])
        for annotation, verdict in members:
            found: defaultdict[tuple[str, str | None], float] = defaultdict(float)
            under = [predicted[i] for i in tree.query(annotation.geometry, predicate="intersects")]
            if not under and verdict.predicted_as is not None:
                found[verdict.predicted_as, annotation.class_name] += annotation.geometry.area
            for original in under:
                shared = shapely.intersection(annotation.geometry, original.geometry).area
                found[original.class_name, annotation.class_name] += shared
            own = _original(verdict, run)
            if under and own is not None:
                found[own.class_name, None] += _lost_px2(own, annotation, areas)
            yield found


def _lost_px2(original: Original, annotation: Annotation, areas: shapely.STRtree) -> float:
    """What was taken away from a predicted object and given to no other of the same model.

    What was drawn there, or corrected of a later model, does not count: it comes and goes with later rounds.
    """
    lost = shapely.difference(original.geometry, annotation.geometry)
    others = areas.geometries[areas.query(lost)] if not lost.is_empty else ()
    if len(others):
        lost = shapely.difference(lost, shapely.union_all(others))
    return float(lost.area)


def _by_source(run: str | None, reviewed: Iterable[_Reviewed]) -> dict[Path | None, list[_Reviewed]]:
    """The objects by the file that has them as they were predicted."""
    grouped: dict[Path | None, list[_Reviewed]] = {}
    for annotation, verdict in reviewed:
        original = _original(verdict, run)
        grouped.setdefault(None if original is None else original.source, []).append((annotation, verdict))
    return grouped


def _predicted_near(source: Path | None, geometries: Sequence[BaseGeometry]) -> Sequence[Original]:
    """What a prediction said where some outlines lie."""
    return () if source is None else read_originals([source], frozenset(), {None: geometries})[0].others
