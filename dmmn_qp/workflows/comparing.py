"""`dmmn-qp compare`: any two things that say which class is where, by the ruler of `evaluate`, neither of them true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.counting import ComparedSlide, CountRules, count_slide
from dmmn_qp.evaluating.figures import Samples
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.files import check_free, new_folder
from dmmn_qp.folders.comparison import (
    COMPARISON,
    Agreement,
    ClassAgreement,
    ComparedSlideFigures,
    Comparison,
    PairArea,
    write_comparison,
)
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.labels.agreement import either_dice, either_iou
from dmmn_qp.labels.metrics import Confusion
from dmmn_qp.labels.tallies import accuracy, kappa, mean_of_classes, tallies_of
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.reports.comparison_tables import comparison_lines
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import names_text, printable
from dmmn_qp.workflows.compared_classes import Meeting, meet
from dmmn_qp.workflows.compared_grids import GRID_MPP, Grid, grid_of, sides_of
from dmmn_qp.workflows.compared_pairs import LISTED, Pair, SlideFiles, paired, with_slides
from dmmn_qp.workflows.compared_sides import Side, read_side
from dmmn_qp.workflows.disagreements import Disagreements, disagreements


@dataclass(frozen=True, slots=True)
class ComparisonRules:
    """How two things are compared.

    Attributes:
        maps: ``SECOND=FIRST`` for classes of the second that are named otherwise in the first.
        exclude: Classes that do not count, by the names of the first.
        mpp: um/px at level 0 of slides of which neither side says it.
        grid_mpp: um/px of the pixels in which annotations are compared with annotations.
        min_um2: Smaller areas of disagreement are not told.
        slides: Folder of slides, for sizes and um/px that neither side says.
        slides_roots: Where to look for slides that have been moved.
    """

    maps: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    mpp: float | None = None
    grid_mpp: float = GRID_MPP
    min_um2: float = 1000.0
    slides: Path | None = None
    slides_roots: Sequence[SlidesRoot] = ()


@dataclass(frozen=True, slots=True)
class _Counted:
    """What was counted on one slide.

    Attributes:
        pair: The slide.
        grid: The pixels.
        confusion: (C, C) pixels that both label: classes of the first by row, of the second by column.
        first: (C,) pixels of the first.
        second: (C,) pixels of the second.
        only_first: Pixels that the first alone labels.
        only_second: Pixels that the second alone labels.
        areas: The largest areas of disagreement.
    """

    pair: Pair
    grid: Grid
    confusion: Confusion
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    only_first: int
    only_second: int
    areas: Disagreements


@dataclass(slots=True)
class _Work:
    """What is compared, and what was warned of."""

    first: Side
    second: Side
    rules: ComparisonRules
    slides: SlideFiles | None
    reporter: Reporter
    warnings: list[str] = field(default_factory=list)

    def warn(self, line: str) -> None:
        """Warns of something, once."""
        if line not in self.warnings:
            self.warnings.append(line)
            self.reporter.warn(line)


def compare_into(
    first: Path,
    second: Path,
    rules: ComparisonRules,
    reporter: Reporter,
    out: Path | None = None,
    *,
    overwrite: bool = False,
) -> Comparison:
    """Compares two things, prints what came of it, and writes it with the areas to jump to.

    Args:
        first: A project of QuPath, a dataset, a folder of predictions, GeoJSON or a label map, or a folder of such.
        second: Another.
        rules: How to compare.
        reporter: Where to report.
        out: Folder to write into; None writes nothing.
        overwrite: Whether an earlier comparison may be replaced.

    Raises:
        OutputExistsError: The folder may not be replaced.
        DatasetError: The two cannot be compared.
        ConfigError: A rule names a class that does not exist.
    """
    if out is not None:
        check_free(out, overwrite=overwrite, marker=COMPARISON)
    started = now()
    sides = [read_side(path, rules.slides_roots, reporter.warn) for path in (first, second)]
    slides = None if rules.slides is None else SlideFiles(rules.slides)
    work = _Work(sides[0], sides[1], rules, slides, reporter)
    pairs, only_first, only_second = paired(work.first, work.second)
    _warn_of_slides(work, only_first, only_second)
    if work.first.is_one_file and work.second.is_one_file and pairs[0].first.slide_id != pairs[0].second.slide_id:
        names = [printable(slide.slide_id) for slide in (pairs[0].first, pairs[0].second)]
        work.warn(f'two files are compared as one, slide "{names[0]}" with "{names[1]}"')
    named = [tuple(dict.fromkeys(name for slide in side for name in slide.classes.values()))
             for side in ([p.first for p in pairs], [p.second for p in pairs])]  # fmt: skip
    meeting = meet((named[0], named[1]), rules.maps, rules.exclude, (first, second), work.warn)
    counted: list[_Counted] = []
    with reporter.task("comparing", len(pairs)) as task:
        for pair in pairs:
            counted.append(_count(work, pair, meeting))
            task.advance(1, note=pair.slide_id)
    if not sum(int(one.confusion.sum()) for one in counted):
        raise DatasetError(
            f'"{first}" and "{second}" label no pixel in common of {printable(", ".join(p.slide_id for p in pairs))}; '
            "what only one of them labels tells of no agreement"
        )
    comparison = _comparison(work, counted, meeting, (only_first, only_second), started)
    for line in comparison_lines(comparison):
        reporter.say(line)
    if out is not None:
        _write(out, comparison, counted, overwrite=overwrite)
        reporter.say(f"Wrote {out}/: {COMPARISON}, and areas to jump to (<slide>.geojson)")
    return comparison


def _warn_of_slides(work: _Work, only_first: Sequence[str], only_second: Sequence[str]) -> None:
    for names, has, lacks in ((only_first, work.first, work.second), (only_second, work.second, work.first)):
        if names:
            work.warn(f'only "{has.path}" has {names_text(names, LISTED)}, not "{lacks.path}"; left out')


def _count(work: _Work, pair: Pair, meeting: Meeting) -> _Counted:
    """Counts one slide, and finds the areas of disagreement on it."""
    rules, classes, counted = work.rules, meeting.classes, meeting.counted
    pair = with_slides(pair, work.slides)
    grid = grid_of(pair, rules.mpp, rules.grid_mpp, work.warn)
    sides = sides_of(pair, grid, meeting.maps)
    counts = count_slide(ComparedSlide(pair.slide_id, sides[0], (sides[1],)), CountRules(classes, ((),)))[0]
    everything, n = counts.confusion["drawn"], len(classes)
    keep = [classes.index(name) for name in counted]
    second = np.array([counts.predicted.get(name, 0) for name in classes], np.int64)
    both = everything[:, :n]
    confusion = both[np.ix_(keep, keep)]
    order = [(counted[i], counted[j]) for i, j in _differing(confusion)]
    return _Counted(
        pair,
        grid,
        confusion,
        everything[keep].sum(axis=1),
        second[keep],
        int(everything[keep, n:].sum()),
        int((second - both.sum(axis=0))[keep].sum()),
        disagreements(pair.slide_id, sides, order, grid, rules.min_um2) if order else Disagreements(),
    )


def _differing(confusion: NDArray[Any]) -> list[tuple[int, int]]:
    """Rows and columns of pairs of different classes, the largest first."""
    off = [(-confusion[i, j], int(i), int(j)) for i, j in np.argwhere(confusion) if i != j]
    return [(i, j) for _, i, j in sorted(off)]


def _comparison(
    work: _Work,
    counted: Sequence[_Counted],
    meeting: Meeting,
    only: tuple[Sequence[str], Sequence[str]],
    started: str,
) -> Comparison:
    rules = work.rules
    named: dict[str, Any] = {
        "first": printable(str(work.first.path)),
        "second": printable(str(work.second.path)),
        "maps": list(rules.maps),
        "exclude": list(rules.exclude),
        "mpp": rules.mpp,
        "grid_mpp": rules.grid_mpp,
        "min_um2": rules.min_um2,
    }
    return Comparison(
        first=named["first"],
        second=named["second"],
        maps=tuple(meeting.maps.items()),
        exclude=meeting.exclude,
        pooled=_agreement(counted, meeting.counted),
        slides=tuple(
            ComparedSlideFigures(
                slide_id=one.pair.slide_id,
                first=printable(str(one.pair.first.path)),
                second=printable(str(one.pair.second.path)),
                mpp=one.grid.mpp,
                grid_px=one.grid.downsample,
                first_px=one.grid.other_px[0],
                second_px=one.grid.other_px[1],
                figures=_agreement([one], meeting.counted),
                regions=one.areas.regions,
            )
            for one in counted
        ),
        only_first=tuple(only[0]),
        only_second=tuple(only[1]),
        warnings=tuple(work.warnings),
        provenance=describe_run("compare", named, started),
    )


def _agreement(counted: Sequence[_Counted], classes: Sequence[str]) -> Agreement:
    """Figures of some slides together."""
    um = [one.grid.pixel_um for one in counted]
    samples = Samples.of([str(i) for i in range(len(counted))], um, EvaluateOptions())
    mm2 = np.array([one.grid.pixel_mm2 for one in counted])
    confusions = np.stack([one.confusion for one in counted])
    tallies = samples.by_area(tallies_of(confusions))
    areas = np.tensordot(mm2, confusions, axes=1)
    first, second = (
        np.tensordot(mm2, np.stack(side), axes=1)
        for side in ([one.first for one in counted], [one.second for one in counted])
    )
    dice, iou = samples.figures(tallies, either_dice), samples.figures(tallies, either_iou)
    return Agreement(
        pixels=int(confusions.sum()),
        both_mm2=float(areas.sum()),
        agreed_mm2=float(np.trace(areas)),
        only_first_mm2=float(mm2 @ [one.only_first for one in counted]),
        only_second_mm2=float(mm2 @ [one.only_second for one in counted]),
        agreement=samples.figure(tallies, accuracy),
        kappa=samples.figure(tallies, kappa),
        mean_dice=samples.figure(tallies, lambda sums: mean_of_classes(either_dice(sums))),
        mean_iou=samples.figure(tallies, lambda sums: mean_of_classes(either_iou(sums))),
        classes=tuple(
            ClassAgreement(
                name=name,
                first_mm2=float(first[i]),
                second_mm2=float(second[i]),
                shared_mm2=float(areas[i, i]),
                dice=dice[i],
                iou=iou[i],
            )
            for i, name in enumerate(classes)
        ),
        pairs=tuple(
            PairArea(first=classes[i], second=classes[j], mm2=float(areas[i, j])) for i, j in _differing(areas)
        ),
    )


def _write(out: Path, comparison: Comparison, counted: Sequence[_Counted], *, overwrite: bool) -> None:
    """Writes the figures, and the areas to jump to of each slide."""
    with new_folder(out, overwrite=overwrite, marker=COMPARISON) as folder:
        for name, one in zip(slide_ids([f"{one.pair.slide_id}.x" for one in counted]), counted, strict=True):
            write_geojson(folder / f"{name}.geojson", one.areas.outlines)
        write_comparison(folder, comparison)
