"""Models compared with one truth, and with each other, on the same pixels of several slides.

It knows neither datasets nor folders of predictions: whatever has labels can be compared by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from dmmn_qp.annotations import Origin
from dmmn_qp.console import Reporter
from dmmn_qp.evaluating.counting import ComparedSlide, CountRules, SlideCounts, count_slide
from dmmn_qp.evaluating.figures import Samples, boundary_figures, calibration_of, figures_of, object_figures
from dmmn_qp.evaluating.labelled import SlideLabels
from dmmn_qp.evaluating.options import DISTANCE_LIMIT_UM, EvaluateOptions
from dmmn_qp.folders.evaluation import (
    Calibration,
    EvaluatedSlide,
    Figures,
    PairedComparison,
    SampleKind,
    SlideFigures,
    Subgroup,
    TruthFigures,
    TruthKind,
    Unmatched,
)
from dmmn_qp.labels.boundaries import BoundaryRules
from dmmn_qp.labels.resampling import by_sample, exchange_test
from dmmn_qp.labels.tallies import CLASS_FIGURES, MEANS, Floats, Tallies, tallies_of
from dmmn_qp.vectors.sources import LabelSource

Opened = Callable[[], AbstractContextManager[LabelSource]]

_COMPARED_MEANS = ("mean_iou", "mean_dice", "accuracy")


@dataclass(frozen=True, slots=True)
class TruthSide:
    """What is true of the slides.

    Attributes:
        labels: Of each slide.
        kinds: Of each origin that counts, the kind of truth and how people call it.
        is_full: Whether every pixel has its class, so that borders and objects can be compared.
        origins: Rasters of whose word labels are, where there are any.
        regions: What is not 0 where pixels count, where not all do.
    """

    labels: Mapping[str, SlideLabels]
    kinds: Mapping[Origin, tuple[TruthKind, str]]
    is_full: bool
    origins: Mapping[str, Path] = field(default_factory=dict)
    regions: Mapping[str, LabelSource] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all true classes."""
        return tuple(dict.fromkeys(name for labels in self.labels.values() for name in labels.values.values()))


@dataclass(frozen=True, slots=True)
class ModelSide:
    """What one model says of the slides.

    Attributes:
        name: What it is called; no two are called the same.
        labels: Of each slide, by the names that the truth has for its classes.
        confidences: Opens the probability of its labels, 0 .. 255, where it is known.
    """

    name: str
    labels: Mapping[str, SlideLabels]
    confidences: Mapping[str, Opened] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of one kind of truth.

    Attributes:
        kind: The kind.
        figures: Of each model; None where no pixel counts.
        unpredicted: Of each model the true pixels without a prediction.
        comparisons: Of each pair of models.
    """

    kind: TruthKind
    figures: tuple[TruthFigures | None, ...]
    unpredicted: tuple[int, ...]
    comparisons: tuple[PairedComparison, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of all slides and models.

    Attributes:
        slides: The slides.
        models: The models.
        rules: What counted.
        by_slide: Of each slide, what was counted of each model.
    """

    slides: tuple[EvaluatedSlide, ...]
    models: tuple[ModelSide, ...]
    rules: CountRules
    by_slide: tuple[list[SlideCounts], ...]

    def labelled(self, origin: Origin) -> int:
        """True pixels of one origin."""
        return sum(of_slide[0].labelled.get(origin, 0) for of_slide in self.by_slide)


def count_all(
    truth: TruthSide,
    models: Sequence[ModelSide],
    slides: Sequence[EvaluatedSlide],
    options: EvaluateOptions,
    reporter: Reporter,
) -> Counted:
    """Counts all pixels of all slides, one slide after the other.

    Args:
        truth: What is true.
        models: What is compared with it.
        slides: The slides.
        options: How to compare.
        reporter: Told of the progress.

    Raises:
        DatasetError: A raster is damaged, of another shape, or holds values that are no classes.
    """
    classes = tuple(name for name in truth.classes if name not in options.exclude)
    others = tuple(
        tuple(dict.fromkeys(n for labels in m.labels.values() for n in labels.values.values() if n not in classes))
        for m in models
    )
    plain = CountRules(classes, others, options.skip_unpredicted)
    by_slide = []
    with reporter.task("comparing", len(slides)) as task:
        for slide in slides:
            rules = _with_borders(plain, slide, options) if truth.is_full and options.boundary_um else plain
            by_slide.append(count_slide(_compared(slide.slide_id, truth, models), rules))
            task.advance(1, note=slide.slide_id)
    return Counted(tuple(slides), tuple(models), plain, tuple(by_slide))


def compare(
    counted: Counted, origin: Origin, kind: TruthKind, unmatched: Sequence[Unmatched], options: EvaluateOptions
) -> Compared:
    """Makes figures of what was counted of one origin.

    Args:
        counted: What was counted.
        origin: The origin.
        kind: The kind of truth that it is.
        unmatched: Classes of each model without a counterpart.
        options: How to compare.
    """
    figures: list[TruthFigures | None] = []
    unpredicted = []
    for i in range(len(counted.models)):
        of_model = _OfModel(counted, i, origin, options)
        figures.append(of_model.figures(kind, unmatched[i]))
        unpredicted.append(of_model.unpredicted())
    comparisons = [
        comparison
        for one, other in combinations(range(len(counted.models)), 2)
        if figures[one] is not None and figures[other] is not None
        for comparison in _paired(counted, (one, other), origin, kind, options)
    ]
    return Compared(kind, tuple(figures), tuple(unpredicted), tuple(comparisons))


def samples_of(slides: Sequence[EvaluatedSlide], options: EvaluateOptions) -> Samples:
    """The slides as samples: their cases, where several are of one."""
    return Samples.of([s.case for s in slides], [s.pixel_um for s in slides], options)


def sample_kind(slides: Sequence[EvaluatedSlide]) -> SampleKind:
    """What samples are: slides, or cases where several slides are of one."""
    return "cases" if len({slide.case for slide in slides}) < len(slides) else "slides"


@dataclass(frozen=True, slots=True)
class _OfModel:
    """What was counted of one model against one origin."""

    counted: Counted
    number: int
    origin: Origin
    options: EvaluateOptions

    def of(self, i: int) -> SlideCounts:
        """What was counted of it on a slide."""
        return self.counted.by_slide[i][self.number]

    def there(self, numbers: Sequence[int] | None = None) -> list[int]:
        """Numbers of the slides with pixels of the origin."""
        wanted = range(len(self.counted.slides)) if numbers is None else numbers
        return [i for i in wanted if self.of(i).labelled.get(self.origin, 0)]

    def unpredicted(self) -> int:
        """True pixels without a prediction."""
        return sum(self.of(i).unpredicted[self.origin] for i in self.there())

    def figures(self, kind: TruthKind, unmatched: Unmatched) -> TruthFigures | None:
        """All its figures; None where no pixel counts."""
        there = self.there()
        pooled = self.pooled(there) if there else None
        if pooled is None or not pooled.pixels:
            return None
        slides = [self.counted.slides[i] for i in there]
        samples = samples_of(slides, self.options)
        classes, has_truth = self.counted.rules.classes, np.array([bool(c.true_pixels) for c in pooled.classes])
        borders = [b for i in there if (b := self.of(i).boundaries) is not None]
        objects = [o for i in there if (o := self.of(i).objects) is not None]
        return TruthFigures(
            kind=kind,
            pooled=pooled,
            slides=tuple(SlideFigures(slide_id=s.slide_id, figures=self.pooled([i]))
                         for i, s in zip(there, slides, strict=True)),
            subgroups=tuple(group for key in self.options.by for group in self.subgroups(key)),
            boundaries=boundary_figures(borders, classes, has_truth, samples) if borders else (),
            objects=object_figures(objects, classes, has_truth, samples) if objects else (),
            calibration=self.calibration() if self.origin == "drawn" else None,
            unmatched=unmatched,
        )  # fmt: skip

    def pooled(self, numbers: Sequence[int]) -> Figures:
        """Figures of some slides together."""
        counts = [self.of(i) for i in numbers]
        return figures_of(
            [c.confusion[self.origin] for c in counts],
            self.counted.rules.classes,
            self.counted.rules.others[self.number],
            samples_of([self.counted.slides[i] for i in numbers], self.options),
            labelled=sum(c.labelled[self.origin] for c in counts),
            unpredicted=sum(c.unpredicted[self.origin] for c in counts),
        )

    def subgroups(self, key: str) -> list[Subgroup]:
        """Figures of the slides of each value of a key, in the order of the values."""
        groups: dict[str, list[int]] = {}
        for i in self.there():
            groups.setdefault(self.counted.slides[i].properties.get(key, ""), []).append(i)
        return [
            Subgroup(
                key=key,
                value=value,
                slides=tuple(self.counted.slides[i].slide_id for i in groups[value]),
                figures=self.pooled(groups[value]),
            )
            for value in sorted(groups)
        ]

    def calibration(self) -> Calibration | None:
        """Calibration of the slides with probabilities."""
        sums = {i: r for i in self.there() if (r := self.of(i).reliability) is not None}
        slides = [self.counted.slides[i] for i in sums]
        if not slides:
            return None
        named = {slide.slide_id: of_slide for slide, of_slide in zip(slides, sums.values(), strict=True)}
        return calibration_of(named, samples_of(slides, self.options))


def _with_borders(rules: CountRules, slide: EvaluatedSlide, options: EvaluateOptions) -> CountRules:
    borders = BoundaryRules(options.boundary_um, DISTANCE_LIMIT_UM, slide.pixel_um)
    return replace(rules, boundaries=borders, object_min_px=options.object_min_um2 / slide.pixel_um**2)


def _compared(slide_id: str, truth: TruthSide, models: Sequence[ModelSide]) -> ComparedSlide:
    return ComparedSlide(
        slide_id,
        truth.labels[slide_id],
        tuple(model.labels[slide_id] for model in models),
        truth.origins.get(slide_id),
        truth.regions.get(slide_id),
        tuple(model.confidences.get(slide_id) for model in models),
    )


def _paired(
    counted: Counted, pair: tuple[int, int], origin: Origin, kind: TruthKind, options: EvaluateOptions
) -> list[PairedComparison]:
    """Compares two models slide by slide: means, and the IoU of each class with true pixels."""
    there = [i for i, slide in enumerate(counted.by_slide) if slide[0].labelled.get(origin, 0)]
    slides = [counted.slides[i] for i in there]
    samples = samples_of(slides, options)
    sides = []
    for number in pair:
        confusions = np.stack([counted.by_slide[i][number].confusion[origin] for i in there])
        sides.append(samples.by_area(tallies_of(confusions)))
    both = np.stack(sides, axis=1)
    first, second = (by_sample(tallies, samples.names) for tallies in sides)

    def made(figure: str, statistic: Callable[[Tallies], Floats]) -> list[PairedComparison]:
        differences = samples.figures(both, lambda sums: statistic(sums[..., 0, :, :]) - statistic(sums[..., 1, :, :]))
        p_values = np.atleast_1d(exchange_test(first, second, statistic, options.seed))
        return [
            PairedComparison(
                kind=kind,
                figure=figure,
                class_name=counted.rules.classes[i] if figure in CLASS_FIGURES else None,
                first=counted.models[pair[0]].name,
                second=counted.models[pair[1]].name,
                difference=difference,
                p_value=None if np.isnan(p_values[i]) else float(p_values[i]),
                samples=len(first),
                sample_kind=sample_kind(slides),
            )
            for i, difference in enumerate(differences)
            if difference.value is not None
        ]

    means = [comparison for name in _COMPARED_MEANS for comparison in made(name, MEANS[name])]
    return means + made("iou", CLASS_FIGURES["iou"])
