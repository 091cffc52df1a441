"""The figures of an evaluation as lines for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Final

from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    Figure,
    Figures,
    PairedComparison,
    TruthFigures,
)
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import printable

LINE: Final = 80
"""Columns of a line."""

_CELL: Final = 6
_LONGEST_LABEL: Final = 30
_MOST_LISTED: Final = 5


def listed(names: Sequence[str]) -> str:
    """Names in one line, the first few of many."""
    shown = ", ".join(map(printable, names[:_MOST_LISTED]))
    return shown + (f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else "")


def numbered_classes(class_map: ClassMap) -> str:
    """The classes of a map with their numbers, in one line."""
    return ", ".join(f"{c.label} {printable(c.name)}" for c in class_map.classes)


def which_slides(names: Sequence[str]) -> str:
    """Slides in a heading: by their names where these are short."""
    names_listed = listed(names)
    return names_listed if len(names_listed) <= LINE // 2 else _slides(names)


def truth_lines(found: TruthFigures, *, skipped: bool, confidence: float, samples: str) -> Iterator[str]:
    """All that one model reached against one kind of truth.

    Args:
        found: The figures.
        skipped: Whether pixels without a prediction were left out.
        confidence: Part of the resamples in an interval.
        samples: What was drawn anew for them, such as ``4 cases``.
    """
    yield from table_lines(found.pooled, skipped=skipped, confidence=confidence, samples=samples)
    yield from _full_lines(found)
    if found.calibration is not None:
        error = found.calibration.expected_error
        yield f"  expected calibration error {_figure(error)}{_interval(error)} ({_slides(found.calibration.slides)})"
    if len(found.slides) > 1:
        yield from _rows_of("slide", [(slide.slide_id, slide.figures) for slide in found.slides])
    for key in dict.fromkeys(group.key for group in found.subgroups):
        groups = [group for group in found.subgroups if group.key == key]
        rows = [(f"{group.value or '(not known)'} ({_slides(group.slides)})", group.figures) for group in groups]
        yield from _rows_of(printable(key, _LONGEST_LABEL), rows)


def table_lines(figures: Figures, *, skipped: bool, confidence: float = 0.95, samples: str = "") -> Iterator[str]:
    """The means, a row for each class, and the confusion matrix.

    Classes have numbers, by which the matrix names its columns: a name may be of any length. A matrix with more columns
    than a line holds is cut into several, one below the other.

    Args:
        figures: The figures.
        skipped: Whether pixels without a prediction were left out.
        confidence: Part of the resamples in an interval.
        samples: What was drawn anew for them.
    """
    yield (
        f"  mIoU {_figure(figures.mean_iou)}  mean recall {_figure(figures.mean_recall)}  "
        f"mean precision {_figure(figures.mean_precision)}  accuracy {_figure(figures.accuracy)}"
    )
    yield (
        f"  mean Dice {_figure(figures.mean_dice)}  "
        f"frequency-weighted IoU {_figure(figures.frequency_weighted_iou)}  kappa {_figure(figures.kappa)}"
    )
    if figures.mean_iou.low is not None:
        yield (
            f"  {100 * confidence:g} % intervals over {samples}: mIoU{_interval(figures.mean_iou)}  "
            f"mean Dice{_interval(figures.mean_dice)}"
        )
    if figures.unpredicted_pixels:
        share = 100 * figures.unpredicted_pixels / figures.labelled_pixels
        how = "left out" if skipped else "counted as missed"
        yield f"  not predicted: {figures.unpredicted_pixels:,} px ({share:.1f} %), {how}"
        if not skipped:
            yield "    (--skip-unpredicted leaves them out)"
    if figures.without_truth and len(figures.without_truth) < len(figures.classes):
        said = f"without a true pixel, and so in no mean: {', '.join(map(printable, figures.without_truth))}"
        yield from wrap(said, LINE, initial_indent="  ", subsequent_indent="    ")
    names = _numbered(figures)
    rows = [(_figure(c.iou), _interval(c.iou).strip(), _figure(c.dice), _figure(c.recall), _figure(c.precision))
            for c in figures.classes]  # fmt: skip
    if any(row[1] for row in rows):
        yield from _table(("class", "IoU", "interval", "Dice", "recall", "precision"), names[: len(rows)], rows)
    else:
        short = [(row[0], *row[2:]) for row in rows]
        yield from _table(("class", "IoU", "Dice", "recall", "precision"), names[: len(rows)], short)
    yield from _confusion_lines(figures, names)


def model_lines(models: Sequence[tuple[str, TruthFigures]], comparisons: Sequence[PairedComparison]) -> Iterator[str]:
    """Several models on the same pixels, and whether their differences are more than chance.

    Args:
        models: Their names and figures.
        comparisons: Each pair of them; of these the figures of classes are left to the report.
    """
    heads = ("model", "mIoU", "interval", "Dice", "accuracy", "kappa")
    rows = []
    for _, found in models:
        f = found.pooled
        shown = (_figure(f.mean_iou), _interval(f.mean_iou).strip(), *map(_figure, (f.mean_dice, f.accuracy, f.kappa)))
        rows.append(shown)
    yield from _table(heads, [printable(name) for name, _ in models], rows)
    for c in comparisons:
        if c.figure != "mean_iou":
            continue
        difference = f"{c.difference.value or 0.0:+.3f}{_interval(c.difference, signed=True)}"
        if c.p_value is None:
            said = f"a single {c.sample_kind.removesuffix('s')}, so no test"
        else:
            least = " (no less is possible with so few)" if c.p_value <= 2 / 2**c.samples else ""
            said = f"p {_p_value(c.p_value)}{least}, {c.samples} {c.sample_kind} exchanged"
        yield from wrap(
            f"mIoU of {printable(c.first)} less that of {printable(c.second)}: {difference}, {said}",
            LINE,
            initial_indent="  ",
            subsequent_indent="    ",
        )


def _full_lines(found: TruthFigures) -> Iterator[str]:
    """Borders and objects of each class."""
    numbers = {c.name: i for i, c in enumerate(found.pooled.classes, start=1)}
    if found.boundaries:
        rows = [(_figure(b.boundary_iou), _um(b.mean_distance_um), _um(b.p95_distance_um)) for b in found.boundaries]
        names = [f"{numbers[b.name]} {printable(b.name)}" for b in found.boundaries]
        yield from _table(("borders", "IoU", "mean um", "95 % um"), names, rows)
    if found.objects:
        rows = [(f"{o.true:,}", f"{o.predicted:,}", f"{o.matched:,}", _figure(o.f1)) for o in found.objects]  # type: ignore[misc]
        names = [f"{numbers[o.name]} {printable(o.name)}" for o in found.objects]
        yield from _table(("objects", "true", "predicted", "both", "F1"), names, rows)


def _rows_of(head: str, rows: Sequence[tuple[str, Figures]]) -> Iterator[str]:
    """A row for each slide, or for each group of slides."""
    cells = [(f"{f.pixels:,}", *map(_figure, (f.mean_iou, f.mean_dice, f.accuracy, f.kappa))) for _, f in rows]
    yield from _table((head, "px", "mIoU", "Dice", "accuracy", "kappa"), [printable(name) for name, _ in rows], cells)


def _table(heads: Sequence[str], names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names and what belongs to them; a name that leaves no room for it has lines of its own before it."""
    widths = [2 + max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads[1:])]
    room = LINE - 2 - sum(widths)
    width = min(room, max(len(heads[0]), *map(len, names)))

    def line(name: str, cells: Iterable[str]) -> str:
        return f"  {name:<{width}}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))

    yield line(heads[0][:width], heads[1:])
    for name, row in zip(names, rows, strict=True):
        lines = [name] if len(name) <= width else wrap(name, LINE - 2, subsequent_indent="    ")
        yield from (f"  {part}" for part in lines[:-1])
        if len(lines[-1]) > width:
            yield f"  {lines[-1]}"
            lines[-1] = ""
        yield line(lines[-1], row)


def _confusion_lines(figures: Figures, names: Sequence[str]) -> Iterator[str]:
    """The confusion matrix; columns of what the truth lacks are shown where anything was predicted as them."""
    confusion, n = figures.confusion, len(figures.classes)
    sums = [sum(column) for column in zip(*confusion, strict=True)]
    columns = [c for c in range(len(figures.columns)) if c < n or sums[c]]
    none = len(figures.columns) - 1 if figures.columns[-1] == NOT_PREDICTED else None
    heads = {c: "none" if c == none else str(c + 1) for c in columns}
    yield "  confusion, % of the true class (rows: true, columns: predicted, by number)"
    labels = [printable(name, _LONGEST_LABEL) for name in names[:n]]
    width = max(map(len, labels))
    at_once = (LINE - 2 - width) // _CELL
    shares = figures.row_shares()
    for start in range(0, len(columns), at_once):
        part = columns[start : start + at_once]
        yield f"  {'':<{width}}" + "".join(f"{heads[c]:>{_CELL}}" for c in part)
        for label, row in zip(labels, shares, strict=True):
            cells = ("-" if (share := row[c]) is None else f"{100 * share:.1f}" for c in part)
            yield f"  {label:<{width}}" + "".join(f"{cell:>{_CELL}}" for cell in cells)
    for c in columns:
        if c >= n and c != none:
            yield f"  {names[c]}: predicted, but not among the true classes ({sums[c]:,} px)"
    if none in columns:
        yield "  none: not predicted"


def _numbered(figures: Figures) -> list[str]:
    """The columns of a matrix with their numbers."""
    return [f"{number} {printable(name)}" for number, name in enumerate(figures.columns, start=1)]


def _slides(names: Sequence[str]) -> str:
    return "1 slide" if len(names) == 1 else f"{len(names)} slides"


def _figure(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.3f}"


def _um(figure: Figure) -> str:
    return "-" if figure.value is None else f"{figure.value:.1f}"


def _interval(figure: Figure, *, signed: bool = False) -> str:
    """`` 0.512-0.634``, or `` (-0.010 to +0.034)``; nothing where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f" ({figure.low:+.3f} to {figure.high:+.3f})" if signed else f" {figure.low:.3f}-{figure.high:.3f}"


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
