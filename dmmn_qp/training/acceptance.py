"""Whether a round of training may take the place of the model that it started from.

The two models are compared area by area on what people said: areas of validation slides, predictions that somebody
confirmed or corrected, and what else was drawn for training. Single areas come and go with the seed of a training; so
what counts is what all areas of a class lose, on a slide or on all validation slides, and by more than chance gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import Origin
from dmmn_qp.folders.acceptance import Loss
from dmmn_qp.specs import MM2_OF_UM2
from dmmn_qp.training.comparing import Area

MARGIN: Final = 0.05
"""What a figure may lose: trainings on the same annotations with other seeds differ by less."""

LEAST_AREAS: Final = 5
"""The spread of fewer areas does not tell what is chance; then the margin is `WIDE` times as wide."""

WIDE: Final = 3

CHANCE: Final = 0.025
"""A loss is clear when areas drawn anew from the same ones show none in at most this part of the cases."""

DRAWS: Final = 400
"""So often they are drawn anew."""

LEAST_MM2: Final = 0.001
"""What is smaller, some five cells, is no loss by itself."""

LEAST_DOUBTFUL_MM2: Final = 0.005
"""Of a learned area whose label may be wrong."""

UNBELIEVED: Final = 0.1
"""Of an area whose label contradicts all others, the model before has at most this part right."""

UNSUPPORTED: Final = 0.3
"""And a head that is not told its label has at most this part right. Measured on the demo: of swapped areas 0 to .24,
of honest corrections .87 and more."""

UNLEARNED: Final = 0.5
"""And the model that was trained on it less than this."""

_REVIEWED: Final[tuple[Origin, ...]] = ("confirmed", "corrected")

_Figure = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""How often each area counts, (draws, areas) -> a figure for each draw."""


@dataclass(frozen=True, slots=True)
class Worse:
    """Something that became worse, or that a model could not learn.

    Attributes:
        loss: What kind of thing.
        before: Its figure before, 0 .. 1: mean IoU, IoU of a class, or the right part of areas.
        after: Its figure after.
        mm2: Labelled area that it is of.
        label: Its class; None of all classes.
        slide_id: The slide; None of all slides.
        middle_px: Middle, in grid px, of the area that lost most; None of all slides.
        called: The class that the model, or one that does not know the label, takes most of that area for; None of all
            slides.
    """

    loss: Loss
    before: float
    after: float
    mm2: float
    label: int | None = None
    slide_id: str | None = None
    middle_px: tuple[int, int] | None = None
    called: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """How two models compare.

    Attributes:
        validation: Mean IoU on the validation patches, before and after.
        reviewed: Right part of reviewed predictions, before and after; None without such areas.
        worse: What is clearly worse: as a whole, by class, and by slide.
    """

    validation: tuple[float, float]
    reviewed: tuple[float, float] | None
    worse: tuple[Worse, ...]


def judge(
    areas: Sequence[Area], mpp: float, validated_on: Iterable[Origin], kept: tuple[float, float], trained: float
) -> Judgement:
    """Compares two models on areas that people labelled; what nobody checked plays no part.

    Labels that contradict others are no part of it: `contradictions` and `unsupported` find them.

    Args:
        areas: What both make of them.
        mpp: um/px of the grid.
        validated_on: Whose labels count on validation slides.
        kept: Mean IoU on the validation patches, of the model before and of the one that is kept.
        trained: That of the best epoch that learned anything: what is kept may be the model before.
    """
    mm2_of_px, kinds = mpp**2 * MM2_OF_UM2, frozenset(validated_on)
    validation = [area for area in areas if area.split == "val" and area.origin in kinds]
    others = [area for area in areas if area.split == "train" or area.origin not in kinds]
    reviewed = [area for area in others if area.origin in _REVIEWED]
    drawn = [area for area in others if area.origin == "drawn" and area.split == "train"]
    worse: list[Worse] = []
    if kept[0] - min(kept[1], trained) > MARGIN:
        worse.append(Worse("validation", kept[0], min(kept[1], trained), _size(validation or drawn) * mm2_of_px))
    worse += _of_classes(validation, mm2_of_px)
    groups: tuple[tuple[Loss, list[Area]], ...] = (("validation", validation), ("reviewed", reviewed), ("drawn", drawn))
    for loss, own in groups:
        worse += _of_slides(loss, own, mm2_of_px)
    return Judgement(kept, _right_parts(reviewed), tuple(worse))


def _of_classes(areas: Sequence[Area], mm2_of_px: float) -> list[Worse]:
    """Losses of the IoU of single classes, over all validation slides."""
    if not areas:
        return []
    labels, sizes = np.array([area.label for area in areas]), np.array([area.size_px for area in areas])
    before, after = (np.stack([getattr(area, when) for area in areas]) for when in ("before", "after"))
    worse = []
    for label in np.unique(labels).tolist():
        own = labels == label
        loss = clear_loss(_iou(before, label, own), _iou(after, label, own), len(areas), int(own.sum()))
        if loss is not None:
            worse.append(Worse("validation", *loss, float(sizes[own].sum()) * mm2_of_px, label))
    return worse


def _of_slides(loss: Loss, areas: Iterable[Area], mm2_of_px: float) -> list[Worse]:
    """Losses of the right part of the areas of each class on each slide."""
    grouped: defaultdict[tuple[str, int], list[Area]] = defaultdict(list)
    for area in areas:
        grouped[area.slide_id, area.label].append(area)
    worse = []
    for (slide_id, label), own in grouped.items():
        sizes = np.array([area.size_px for area in own])
        before, after = (np.array([getattr(a, f"right_{when}") for a in own]) for when in ("before", "after"))
        lost = clear_loss(_right(before, sizes), _right(after, sizes), len(own), len(own))
        if lost is not None and (before.sum() - after.sum()) * mm2_of_px >= LEAST_MM2:
            most = own[int((before - after).argmax())]
            called = int(most.after.argmax()) + 1
            mm2 = float(sizes.sum()) * mm2_of_px
            worse.append(Worse(loss, *lost, mm2, label, slide_id, most.middle_px, called))
    return worse


def doubtful(areas: Iterable[Area], mpp: float, new: Iterable[int] = ()) -> list[Area]:
    """Areas for training that the model before took for something else.

    Most of them are corrections as they should be. The small ones among them count only if they were not learned.

    Args:
        areas: What both models make of them.
        mpp: um/px of the grid.
        new: Labels of classes that the model before does not know.
    """
    unknown, found = frozenset(new), []
    for area in areas:
        least = LEAST_MM2 if _is_unlearned(area) else LEAST_DOUBTFUL_MM2
        labelled = area.split == "train" and area.origin != "unchecked" and area.label not in unknown
        if labelled and area.right_before <= UNBELIEVED * area.size_px and _mm2(area, mpp) >= least:
            found.append(area)
    return found


def contradictions(doubts: Iterable[Area], mpp: float) -> list[Worse]:
    """Doubtful areas that the new model did not learn.

    A correction that is right is learned, or at least half of it. One that is not contradicts all other labels.
    """
    found = [_contradiction(area, int(area.after.argmax()) + 1, mpp) for area in doubts if _is_unlearned(area)]
    return sorted(found, key=lambda worse: -worse.mm2)


def unsupported(seen: Iterable[tuple[Area, float, int]], mpp: float) -> tuple[list[Worse], list[Worse]]:
    """Doubtful areas that no other annotation supports either.

    One that was learned may be the first of its kind that somebody corrected. It contradicts the others only where it
    is the same the other way round elsewhere: then two labels were swapped.

    Args:
        seen: The areas, the part of each that is right for a head that does not know it, and what that head takes it
            for.
        mpp: um/px of the grid.

    Returns:
        Those that contradict all others, and those that are alone; the largest first.
    """
    alone = [
        (area, called)
        for area, right, called in seen
        if right <= UNSUPPORTED and called == int(area.before.argmax()) + 1
    ]
    pairs = {(area.label, called) for area, called in alone}
    found: tuple[list[Worse], list[Worse]] = [], []
    for area, called in alone:
        contradicts = _is_unlearned(area) or (called, area.label) in pairs
        found[0 if contradicts else 1].append(_contradiction(area, called, mpp))
    contradicting, others = (sorted(some, key=lambda worse: -worse.mm2) for some in found)
    return contradicting, others


def _contradiction(area: Area, called: int, mpp: float) -> Worse:
    before, after = area.right_before / area.size_px, area.right_after / area.size_px
    mm2 = _mm2(area, mpp)
    return Worse("contradiction", before, after, mm2, area.label, area.slide_id, area.middle_px, called)


def _is_unlearned(area: Area) -> bool:
    return area.right_after < UNLEARNED * area.size_px


def _mm2(area: Area, mpp: float) -> float:
    return area.size_px * mpp**2 * MM2_OF_UM2


def clear_loss(before: _Figure, after: _Figure, n_areas: int, n_own: int) -> tuple[float, float] | None:
    """The figure before and after, where it lost more than a margin and chance; else None.

    Args:
        before: The figure before.
        after: The figure after.
        n_areas: Areas that it is of.
        n_own: How many of them are of the class.
    """
    once = np.ones((1, n_areas), np.int64)
    first, second = float(before(once)[0]), float(after(once)[0])
    if not first - second > (MARGIN if n_own >= LEAST_AREAS else WIDE * MARGIN):
        return None
    if n_own >= LEAST_AREAS:
        times = np.random.default_rng(0).multinomial(n_areas, np.full(n_areas, 1 / n_areas), DRAWS)
        if (before(times) <= after(times)).mean() > CHANCE:
            return None
    return first, second


def _iou(found: NDArray[np.int64], label: int, own: NDArray[np.bool_]) -> _Figure:
    """IoU of a class over areas, of which ``own`` are of it and (areas, C) px were found as each class."""
    predicted = found[:, label - 1]
    hits, others = np.where(own, predicted, 0), np.where(own, found.sum(axis=1), predicted)
    return lambda times: np.asarray(times @ hits / np.maximum(1, times @ others))


def _right(right: NDArray[np.int64], sizes: NDArray[np.int64]) -> _Figure:
    return lambda times: np.asarray(times @ right / np.maximum(1, times @ sizes))


def _size(areas: Iterable[Area]) -> int:
    return sum(area.size_px for area in areas)


def _right_parts(areas: Sequence[Area]) -> tuple[float, float] | None:
    total = _size(areas)
    if not total:
        return None
    return sum(area.right_before for area in areas) / total, sum(area.right_after for area in areas) / total
