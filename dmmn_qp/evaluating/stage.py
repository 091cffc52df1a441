"""`dmmn-qp evaluate`: predictions against annotations and full truth (paper, section 3).

Classes of truth and predictions meet by their names; the numbers in the files are nobody's but the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dmmn_qp.annotations import Color, Origin
from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.chosen import chosen_slides, counted_areas, evaluated_slides
from dmmn_qp.evaluating.comparing import Compared, Counted, TruthSide, compare, count_all, sample_kind
from dmmn_qp.evaluating.describing import describe_models, describe_truths, settings_of
from dmmn_qp.evaluating.folders import Predictions, checked, find_predictions
from dmmn_qp.evaluating.ground import on_ground
from dmmn_qp.evaluating.names import pairs_of, unmatched_classes, warn_of_unmatched, with_true_names
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.evaluating.sides import model_side, truth_side
from dmmn_qp.evaluating.truth import Truth, annotated_truth, full_truth
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.evaluation import EvaluatedSlide, Evaluation, TruthFigures, Unmatched
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.reports.evaluation_tables import model_lines, truth_lines, which_slides
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import printable
from dmmn_qp.vectors.sources import LabelSource


class Warnings:
    """Warns, and keeps what was said."""

    def __init__(self, reporter: Reporter) -> None:
        self.lines: list[str] = []
        self._reporter = reporter

    def __call__(self, line: str) -> None:
        """Warns of something."""
        self.lines.append(line)
        self._reporter.warn(line)

    def of(self, name: str | None) -> Callable[[str], None]:
        """Warns of what concerns one of several models."""
        return self if name is None else lambda line: self(f"{printable(name)}: {line}")


@dataclass(slots=True)
class _Work:
    """What is compared, and what came of it so far."""

    options: EvaluateOptions
    dataset: Dataset
    records: Sequence[SlideRecord]
    slides: Sequence[EvaluatedSlide]
    models: Sequence[Predictions]
    truths: Sequence[Truth]
    pairs: Sequence[tuple[str, str]]
    regions: Mapping[str, LabelSource]
    reporter: Reporter
    warn: Warnings
    compared: list[Compared] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    unchecked: int = 0


def evaluate(
    predictions: Path | Sequence[Path],
    dataset_folder: Path,
    split: Split,
    truth: Path | None,
    reporter: Reporter,
    options: EvaluateOptions | None = None,
    *,
    slides_roots: Sequence[SlidesRoot] = (),
    regions: Mapping[str, LabelSource] | None = None,
) -> Evaluation:
    """Compares the predicted labels of a split's slides with what people said of them.

    Args:
        predictions: Folder of `dmmn-qp predict`, or several, which are compared on the same pixels.
        dataset_folder: The dataset with the annotations' masks.
        split: Which slides.
        truth: Folder of ``<slide>.png`` label maps at the resolution of the predictions, or one such file; 0 is not
            counted, and the classes of other values stand in a ``classes.csv`` beside them, else the dataset's.
        reporter: Where to print the tables.
        options: How to compare.
        slides_roots: Folders to search for slides that have been moved, where they are looked at.
        regions: What is not 0 where pixels of a slide count; None for the areas that the options name.

    Raises:
        DatasetError: There are no such slides or no truth of them, or a prediction or truth map is missing, does not
            fit, or is of another file.
        ConfigError: The options name a class, slide or key that does not exist.
    """
    started, options, warn = now(), options or EvaluateOptions(), Warnings(reporter)
    folders = [predictions] if isinstance(predictions, Path) else [*predictions]
    dataset = Dataset(dataset_folder)
    records = chosen_slides(dataset, split, options.slides)
    models = find_predictions(folders, records, dataset)
    names = _names_if_several(models)
    models = [checked(m, records, options, dataset, warn.of(name)) for m, name in zip(models, names, strict=True)]
    truths = [annotated_truth(dataset, records)]
    truths += [full_truth(truth, records, dataset, warn)] if truth is not None else []
    models = [on_ground(m, records, dataset, warn) for m in models]
    pairs = pairs_of([model.labels for model in models], truths, options)
    slides = evaluated_slides(dataset, records, options, slides_roots, warn)
    regions = counted_areas(dataset, records, options) if regions is None else regions
    work = _Work(options, dataset, records, slides, models, truths, pairs, regions, reporter, warn)
    for one in truths:
        _compare(work, one)
    if not any(figures for compared in work.compared for figures in compared.figures):
        raise DatasetError(
            f'dataset "{dataset_folder}" has no labelled pixel on the slides for {split} that counts; choose another '
            "split with --split, or pass the full truth with --truth"
        )
    return _evaluation(work, split, started)


def _names_if_several(models: Sequence[Predictions]) -> list[str | None]:
    return [model.name if len(models) > 1 else None for model in models]


def _compare(work: _Work, truth: Truth) -> None:
    """Counts, prints and keeps the figures of each model against one truth, and in annotations of each origin."""
    true_names = [with_true_names(model.labels, truth, work.pairs) for model in work.models]
    sides = [model_side(m.name, m.labels, named) for m, named in zip(work.models, true_names, strict=True)]
    side = truth_side(truth, work.regions)
    counted = count_all(side, sides, work.slides, work.options, work.reporter)
    work.counted.append(counted)
    unmatched = []
    for name, named in zip(_names_if_several(work.models), true_names, strict=True):
        found = unmatched_classes(truth, named, work.options.exclude)
        warn_of_unmatched(found, truth, named, work.warn.of(name))
        unmatched.append(Unmatched.model_validate(found))
    for origin, (kind, _) in side.kinds.items():
        compared = compare(counted, origin, kind, unmatched, work.options)
        work.compared.append(compared)
        _print(work, side, origin, compared)
    if truth.origins:
        work.unchecked = counted.labelled("unchecked")
        if work.unchecked:
            work.reporter.say(f"  {work.unchecked:,} px of predictions that nobody has checked do not count")


def _print(work: _Work, side: TruthSide, origin: Origin, compared: Compared) -> None:
    """Prints the tables of one kind of truth; says of what was drawn, or is full, why there are none."""
    title, slides = side.kinds[origin][1], which_slides([record.slide_id for record in work.records])
    names = [printable(model.name) for model in work.models]
    several = len(names) > 1
    for name, figures, unpredicted in zip(names, compared.figures, compared.unpredicted, strict=True):
        of_model = f"{name} on " if several else ""
        if figures is None:
            if origin == "drawn":
                why = "each of them is without a prediction" if unpredicted else "there are none"
                work.warn(f"{of_model}{slides}: no figures of {title}, because {why}")
            continue
        work.reporter.heading(f"{of_model}{slides}: {title} ({figures.pooled.pixels:,} px)")
        skipped, confidence = work.options.skip_unpredicted, work.options.confidence
        for line in truth_lines(figures, skipped=skipped, confidence=confidence, samples=_samples(work, figures)):
            work.reporter.say(line)
    there = [(name, figures) for name, figures in zip(names, compared.figures, strict=True) if figures is not None]
    if len(there) > 1:
        work.reporter.heading(f"models on the same {there[0][1].pooled.pixels:,} px: {title}")
        for line in model_lines(there, compared.comparisons):
            work.reporter.say(line)


def _samples(work: _Work, figures: TruthFigures) -> str:
    """What was drawn anew: ``4 cases``."""
    there = {slide.slide_id for slide in figures.slides}
    slides = [slide for slide in work.slides if slide.slide_id in there]
    return f"{len({slide.case for slide in slides})} {sample_kind(slides)}"


def _colors(work: _Work) -> dict[str, Color]:
    """Colours of all classes, the dataset's first; a class without any gets one."""
    known: dict[str, Color] = dict(work.dataset.class_map.colors)
    for model in work.models:
        for predicted in model.labels.values():
            if predicted.record is not None and predicted.record.class_map is not None:
                known = {**predicted.record.class_map.colors, **known}
    names = [n for truth in work.truths for n in truth.classes.values()]
    names += [n for model in work.models for predicted in model.labels.values() for n in predicted.names]
    return {**distinct_colors(name for name in names if name not in known), **known}


def _evaluation(work: _Work, split: Split, started: str) -> Evaluation:
    sides = [truth_side(truth, {}) for truth in work.truths]
    configuration = {
        **work.options.model_dump(mode="json"),
        "predictions": [str(model.folder) for model in work.models],
        "dataset": str(work.dataset.folder),
        "split": split,
    }
    many = len(work.records) > 1
    title = (
        f"{' and '.join(printable(m.name) for m in work.models)} on {len(work.records)} slide{'s' * many} for {split}"
    )
    models = describe_models(work.models, work.slides, work.compared, work.counted[-1])
    settings = settings_of(work.options, work.pairs, sample_kind(work.slides), len({s.case for s in work.slides}))
    return Evaluation(
        title=title,
        split=split,
        dataset=str(work.dataset.folder.absolute()),
        slides=tuple(work.slides),
        colors=_colors(work),
        settings=settings,
        truths=describe_truths(sides, work.slides),
        models=tuple(model.model_copy(update={"unchecked_pixels": work.unchecked}) for model in models),
        comparisons=tuple(c for compared in work.compared for c in compared.comparisons),
        warnings=tuple(work.warn.lines),
        provenance=describe_run("evaluate", configuration, started),
    )
