"""A comparison as lines for a terminal of 80 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from dmmn_qp.folders.comparison import Agreement, ComparedSlideFigures, Comparison
from dmmn_qp.folders.evaluation import Figure
from dmmn_qp.reports.evaluation_tables import LINE, named_rows, text_of
from dmmn_qp.text import count_of, printable

_MOST_PAIRS: Final = 10
_MOST_REGIONS: Final = 5
_LARGE_MM2: Final = 100


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The figures of all slides, of each class, of each pair of classes that are not one, and of each slide.

    Args:
        comparison: What came of it.
    """
    pooled, slides = comparison.pooled, comparison.slides
    yield f"first   {printable(comparison.first)}"
    yield f"second  {printable(comparison.second)}"
    yield f"{count_of(len(slides), 'slide')}: both label {_mm2(pooled.both_mm2)} mm2 ({pooled.pixels:,} px)"
    yield f"  they agree on {_mm2(pooled.agreed_mm2)} mm2, {_percent(pooled.agreement)}, kappa {_sure(pooled.kappa)}"
    yield f"  mean Dice {_sure(pooled.mean_dice)}, mean IoU {_sure(pooled.mean_iou)}"
    yield (
        f"  not compared: only the first labels {_mm2(pooled.only_first_mm2)} mm2, "
        f"only the second {_mm2(pooled.only_second_mm2)}"
    )
    yield from _pixel_rows(slides)
    yield from _class_rows(pooled)
    yield from _pair_rows(pooled)
    if len(slides) > 1:
        rows = [
            (_mm2(f.both_mm2), _percent(f.agreement), text_of(f.kappa), text_of(f.mean_dice))
            for f in (slide.figures for slide in slides)
        ]
        heads = ("slide", "both mm2", "agree", "kappa", "Dice")
        yield from named_rows(heads, [printable(slide.slide_id) for slide in slides], rows)
    yield from _region_rows(comparison)


def _pixel_rows(slides: Sequence[ComparedSlideFigures]) -> Iterator[str]:
    """On which pixels label maps of different um/px were compared, and of how many slides where not of all."""
    found: Counter[str] = Counter()
    for slide in slides:
        um, unit = slide.mpp or 1.0, "um" if slide.mpp else "px"
        for finer, coarser, px in (("first", "second", slide.second_px), ("second", "first", slide.first_px)):
            if px is not None:
                these, those = f"{slide.grid_px * um:.4g} {unit}", f"{px * um:.4g} {unit}"
                found[f"  on the {finer}'s pixels of {these}, the finer; the {coarser}'s are of {those}"] += 1
    for line, number in found.items():
        yield line if number == len(slides) else f"{line} ({count_of(number, 'slide')})"


def _class_rows(figures: Agreement) -> Iterator[str]:
    heads = ("class", "1st mm2", "2nd mm2", "shared", "Dice", "IoU")
    rows = [
        (_mm2(c.first_mm2), _mm2(c.second_mm2), _mm2(c.shared_mm2), text_of(c.dice), text_of(c.iou))
        for c in figures.classes
    ]
    yield from named_rows(heads, [printable(c.name) for c in figures.classes], rows)


def _pair_rows(figures: Agreement) -> Iterator[str]:
    """Pairs of classes, the largest areas first."""
    if not figures.pairs:
        return
    shown = figures.pairs[:_MOST_PAIRS]
    names = [printable(f"{pair.first} / {pair.second}") for pair in shown]
    yield from named_rows(("first says / second says", "mm2"), names, [(_mm2(pair.mm2),) for pair in shown])
    rest = figures.pairs[_MOST_PAIRS:]
    if rest:
        yield f"  and {count_of(len(rest), 'pair')} more with {_mm2(sum(pair.mm2 for pair in rest))} mm2"


def _region_rows(comparison: Comparison) -> Iterator[str]:
    """The largest areas of disagreement, with a point to jump to."""
    found = [(slide.slide_id, region) for slide in comparison.slides for region in slide.regions]
    found.sort(key=lambda one: -one[1].mm2)
    if not found:
        return
    yield f"  largest of {count_of(len(found), 'area')} to look at (x, y in level-0 px):"
    for slide_id, region in found[:_MOST_REGIONS]:
        where = f"{_mm2(region.mm2)} mm2 at {region.x_px:.0f}, {region.y_px:.0f}"
        what = printable(f"{slide_id}: {region.first} / {region.second}")
        line = f"    {what}  {where}"
        yield from [line] if len(line) <= LINE else [f"    {what}", f"      {where}"]


def _mm2(area: float) -> str:
    return f"{area:.4f}" if area < _LARGE_MM2 else f"{area:.1f}"


def _percent(figure: Figure) -> str:
    return "-" if figure.value is None else f"{100 * figure.value:.1f} %"


def _sure(figure: Figure) -> str:
    """A figure with its interval, where it has one."""
    if figure.value is None or figure.low is None or figure.high is None:
        return text_of(figure)
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
