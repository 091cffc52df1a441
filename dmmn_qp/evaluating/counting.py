"""One slide compared, strip by strip: pixels by true and predicted value, borders, objects and confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.labelled import SlideLabels, open_raster
from dmmn_qp.labels.boundaries import BoundaryCounter, BoundaryRules, BoundarySums
from dmmn_qp.labels.calibration import BINS, ReliabilitySums, reliability_sums
from dmmn_qp.labels.metrics import Confusion, PairCounts, confusion_by_name, pair_counts
from dmmn_qp.labels.objects import ObjectCounter, ObjectSums
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.vectors.sources import LabelSource

ROWS_AT_ONCE: Final = 512
"""A row of tiles of a predicted raster."""

_CONFIDENCE: Final = 255
"""Value of a probability of 1."""


@dataclass(frozen=True, slots=True)
class CountRules:
    """What counts.

    Attributes:
        classes: The true classes that count, in the order of the matrices' rows.
        others: Of each model the predicted classes that are none of them.
        skip_unpredicted: Whether pixels that a model did not predict are left out, for all models.
        boundaries: What counts along borders; None for no figures of borders and objects.
        object_min_px: Smaller areas are no objects.
    """

    classes: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]
    skip_unpredicted: bool = False
    boundaries: BoundaryRules | None = None
    object_min_px: float = 0.0


@dataclass(frozen=True, slots=True)
class ComparedSlide:
    """A slide with its truth and what models say of it, all of one shape.

    Attributes:
        slide_id: Its name.
        truth: What is true.
        predicted: What each model says.
        origins: Raster of whose word each true label is; None where all count as drawn.
        region: What is not 0 where pixels count; None where all do.
        confidences: Opens the probability of each model's labels, 0 .. 255; None where it is not known.
    """

    slide_id: str
    truth: SlideLabels
    predicted: tuple[SlideLabels, ...]
    origins: Path | None = None
    region: LabelSource | None = None
    confidences: tuple[Callable[[], AbstractContextManager[LabelSource]] | None, ...] = ()


@dataclass(slots=True)
class SlideCounts:
    """What was counted of one model on one slide.

    Attributes:
        confusion: Pixels of each origin: (C, C + others + 1), the last column without a prediction, which is empty
            where these are left out.
        labelled: True pixels of each origin, those that were left out included.
        unpredicted: Those without a prediction of this model.
        predicted: Pixels of each predicted class on the whole slide, whether they count or not.
        boundaries: Sums along borders; None where these are not compared.
        objects: Sums of objects, likewise.
        reliability: Sums by confidence, where it is known.
    """

    confusion: dict[Origin, Confusion]
    labelled: dict[Origin, int]
    unpredicted: dict[Origin, int]
    predicted: dict[str, int]
    boundaries: BoundarySums | None = None
    objects: ObjectSums | None = None
    reliability: ReliabilitySums | None = None


def count_slide(slide: ComparedSlide, rules: CountRules) -> list[SlideCounts]:
    """Compares a slide with its truth; memory does not grow with its height.

    Args:
        slide: The slide.
        rules: What counts.

    Returns:
        What was counted of each model.

    Raises:
        DatasetError: A raster is damaged, of another shape, or holds values that are no classes.
    """
    with ExitStack() as stack:
        truth = stack.enter_context(slide.truth.opened())
        found = [stack.enter_context(labels.opened()) for labels in slide.predicted]
        origins = None if slide.origins is None else stack.enter_context(open_raster(slide.origins))
        for source in found:
            _check_shape(slide, slide.truth.path, truth, source)
            if origins is not None and slide.origins is not None:
                _check_shape(slide, slide.origins, origins, source)
        confidences = [opened and stack.enter_context(opened()) for opened in slide.confidences]
        counters = [
            _ModelCounter(slide.truth, labels, others, rules, source, confidence)
            for labels, others, source, confidence in zip(
                slide.predicted, rules.others, found, confidences or [None] * len(found), strict=True
            )
        ]
        _count_strips(slide, rules, truth, origins, counters)
    _check_true_values(slide.truth, counters[0].all_pairs)
    return [counter.result() for counter in counters]


def _count_strips(
    slide: ComparedSlide,
    rules: CountRules,
    truth: LabelSource,
    origins: LabelSource | None,
    counters: Sequence[_ModelCounter],
) -> None:
    halo = rules.boundaries.halo_px if rules.boundaries is not None else 0
    for core, window in _strips(truth.shape, halo):
        true = np.array(truth.read(window))
        if slide.region is not None:
            true[slide.region.read(window) == UNLABELLED] = UNLABELLED
        found = [counter.source.read(window) for counter in counters]
        predicted = None
        if rules.skip_unpredicted:
            predicted = np.logical_and.reduce([labels != UNLABELLED for labels in found])
        here = slice(core.y - window.y, core.bottom - window.y)
        values = None if origins is None else _origins(slide, origins, core, true[here])
        for counter, labels in zip(counters, found, strict=True):
            counter.count(true[here], labels[here], None if predicted is None else predicted[here], values, core)
            if rules.boundaries is not None:
                counted = true if predicted is None else np.where(predicted, true, np.uint8(UNLABELLED))
                counter.look(counted, labels, Region(0, here.start, core.width, core.height))


@dataclass(slots=True)
class _ModelCounter:
    """Counts one model on one slide.

    Attributes:
        truth: What is true.
        labels: What it says.
        others: Its classes that are no true ones that count.
        rules: What counts.
        source: Its labels, open.
        confidence: The probability of these, where it is known.
        all_pairs: All pixels by true and predicted value.
    """

    truth: SlideLabels
    labels: SlideLabels
    others: tuple[str, ...]
    rules: CountRules
    source: LabelSource
    confidence: LabelSource | None
    all_pairs: PairCounts = field(default_factory=lambda: np.zeros((256, 256), np.int64))
    _counted: dict[Origin, PairCounts] = field(default_factory=dict)
    _of_origin: dict[Origin, PairCounts] = field(default_factory=dict)
    _boundaries: BoundaryCounter | None = None
    _objects: ObjectCounter | None = None
    _reliability: ReliabilitySums | None = None
    _true_places: NDArray[np.uint8] = field(init=False)
    _found_places: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        classes = self.rules.classes
        self._true_places, found = (_places(labels.values, classes) for labels in (self.truth, self.labels))
        self._found_places = np.where(found == 0, np.uint8(len(classes) + 1), found)
        if self.rules.boundaries is not None:
            self._boundaries = BoundaryCounter(len(classes), self.rules.boundaries)
            self._objects = ObjectCounter(len(classes), self.rules.object_min_px)
        if self.confidence is not None:
            self._reliability = np.zeros((3, BINS))

    def count(
        self,
        true: LabelArray,
        found: LabelArray,
        predicted: NDArray[np.bool_] | None,
        origins: LabelArray | None,
        core: Region,
    ) -> None:
        """Counts the pixels of a strip.

        Args:
            true: True values.
            found: Predicted values.
            predicted: Where all models predicted something, where only that counts.
            origins: Whose word each true label is; None for all drawn.
            core: Where the strip is.
        """
        of_strip = pair_counts(true, found)
        self.all_pairs += of_strip
        for origin, value in ORIGINS.items():
            if origins is None and origin != "drawn":
                continue
            labels = true if origins is None else np.where(origins == value, true, np.uint8(UNLABELLED))
            pairs = of_strip if origins is None else pair_counts(labels, found)
            _add(self._of_origin, origin, pairs)
            if predicted is not None:
                labels = np.where(predicted, labels, np.uint8(UNLABELLED))
                pairs = pair_counts(labels, found)
            _add(self._counted, origin, pairs)
            if origin == "drawn":
                self._add_confidence(labels, found, core)

    def look(self, true: LabelArray, found: LabelArray, core: Region) -> None:
        """Looks at the borders and objects of a strip with what is around it.

        Args:
            true: True values, 0 where nothing counts.
            found: Predicted values.
            core: The strip in px of these.
        """
        assert self._boundaries is not None and self._objects is not None
        counted = self._true_places[true]
        classes = np.where(counted == 0, np.uint8(0), self._found_places[found])
        self._boundaries.add(counted, classes, core)
        rows = slice(core.y, core.bottom)
        self._objects.add(counted[rows], classes[rows])

    def result(self) -> SlideCounts:
        """What was counted.

        Raises:
            DatasetError: There are predicted values without a class.
        """
        found = np.flatnonzero(self.all_pairs.any(axis=0))
        unknown = next((int(v) for v in found[::-1] if v != UNLABELLED and v not in self.labels.values), None)
        if unknown is not None:
            raise DatasetError(self.labels.unknown_value(unknown))
        confusion, labelled, unpredicted = {}, {}, {}
        for origin, pairs in self._of_origin.items():
            everything = self._confusion(pairs)
            labelled[origin], unpredicted[origin] = int(everything.sum()), int(everything[:, -1].sum())
            confusion[origin] = self._confusion(self._counted[origin])
        by_value, predicted = self.all_pairs.sum(axis=0), dict.fromkeys(self.labels.values.values(), 0)
        for value, name in self.labels.values.items():
            predicted[name] += int(by_value[value])
        return SlideCounts(
            confusion,
            labelled,
            unpredicted,
            predicted,
            None if self._boundaries is None else self._boundaries.sums,
            None if self._objects is None else self._objects.finish(),
            self._reliability,
        )

    def _confusion(self, pairs: PairCounts) -> Confusion:
        columns = (*self.rules.classes, *self.others)
        return confusion_by_name(pairs, self.truth.values, self.labels.values, columns, len(self.rules.classes))

    def _add_confidence(self, true: LabelArray, found: LabelArray, core: Region) -> None:
        """Sorts what counts and was predicted by the probability that the model gave it."""
        classes = self._true_places[true]
        counted = (classes > 0) & (found != UNLABELLED)
        if self.confidence is None or self._reliability is None or not counted.any():
            return
        confidence = self.confidence.read(core)[counted] / _CONFIDENCE
        self._reliability += reliability_sums(confidence, classes[counted] == self._found_places[found[counted]])


def _add(sums: dict[Origin, PairCounts], origin: Origin, pairs: PairCounts) -> None:
    sums[origin] = sums[origin] + pairs if origin in sums else pairs


def _places(values: Mapping[int, str], classes: Sequence[str]) -> NDArray[np.uint8]:
    """(256,) number from 1 on of the class of each value; 0 for what is none of them."""
    places = np.zeros(256, np.uint8)
    for value, name in values.items():
        if name in classes:
            places[value] = classes.index(name) + 1
    return places


def _strips(shape: tuple[int, int], halo: int) -> Iterator[tuple[Region, Region]]:
    """Strips of full width from top to bottom, each alone and with what is above and below it."""
    rows, columns = shape
    for y in range(0, rows, ROWS_AT_ONCE):
        core = Region(0, y, columns, min(ROWS_AT_ONCE, rows - y))
        top, bottom = max(0, y - halo), min(rows, core.bottom + halo)
        yield core, Region(0, top, columns, bottom - top)


def _origins(slide: ComparedSlide, origins: LabelSource, core: Region, true: LabelArray) -> LabelArray:
    values = origins.read(core)
    if not np.isin(values[true != UNLABELLED], [*ORIGINS.values()]).all():
        raise DatasetError(
            f'"{slide.origins}" does not say where all labelled pixels come from; import again with --overwrite'
        )
    return values


def _check_shape(slide: ComparedSlide, path: Path, true: LabelSource, found: LabelSource) -> None:
    if found.shape != true.shape:
        raise DatasetError(
            f'"{path}" has {true.shape[1]} x {true.shape[0]} px but slide "{slide.slide_id}" is compared on '
            f"{found.shape[1]} x {found.shape[0]}, the um/px of the dataset; make a map of that size, or import again "
            "with --overwrite where it is the dataset's own"
        )


def _check_true_values(truth: SlideLabels, pairs: PairCounts) -> None:
    there = np.flatnonzero(pairs.any(axis=1))
    unknown = next((int(v) for v in there if v != UNLABELLED and v not in truth.values), None)
    if unknown is not None:
        raise DatasetError(truth.unknown_value(unknown))
