"""What the page of a cohort shows: distributions over slides, and which slides lie far from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from dmmn_qp.collecting.figures import SlideFigures, percent_of_tissue, ratio_of
from dmmn_qp.collecting.options import Ratio
from dmmn_qp.collecting.quality import BLURRED
from dmmn_qp.reports.cohort_report import CohortPage, Distribution, Outlier, SlideLine

LEAST_SLIDES: Final = 5
"""With fewer, no slide is called far from the others."""

FENCE: Final = 1.5
"""Tukey's rule: so many times the distance of the quartiles beyond them."""

_GREY: Final = (110, 122, 136)

Values = Mapping[str, float]
"""Slide -> figure, of the slides that have one."""


def page_of(
    slides: Sequence[SlideFigures],
    ratios: Sequence[Ratio],
    failed: Mapping[str, str],
    colors: Mapping[str, tuple[int, int, int]],
) -> CohortPage:
    """Gathers what the page shows.

    Args:
        slides: The slides.
        ratios: Ratios that were asked for.
        failed: Why slides could not be measured.
        colors: Colour of each class.
    """
    figures: list[tuple[str, str, Values, tuple[int, int, int]]] = []
    for name in dict.fromkeys(one.name for slide in slides for one in slide.classes if one.is_tissue):
        color = colors.get(name, _GREY)
        figures.append((name, "% of tissue", _of_class(slides, name), color))
        figures.append((name, "µm to the outline, nearest 5 %", _distances(slides, name), color))
    figures += [(ratio.name, "ratio of areas", _ratios(slides, ratio), _GREY) for ratio in ratios]
    figures.append(("tissue", "mm²", _values(slides, lambda s: s.tissue_mm2), _GREY))
    shown = [Distribution.of(name, unit, [*values.values()], color) for name, unit, values, color in figures if values]
    outliers = [line for name, unit, values, _ in figures for line in _outliers(name, unit, values)]
    return CohortPage(
        distributions=shown,
        outliers=[*_unlike(slides), *_flawed(slides), *outliers],
        slides=[_line(slide) for slide in slides],
        failed=failed,
        tissue_mm2=sum(slide.tissue_mm2 for slide in slides),
        cases=len({slide.case for slide in slides} - {""}),
    )


def _values(slides: Sequence[SlideFigures], figure: Callable[[SlideFigures], float | None]) -> Values:
    return {slide.slide_id: value for slide in slides if (value := figure(slide)) is not None}


def _of_class(slides: Sequence[SlideFigures], name: str) -> Values:
    def percent(slide: SlideFigures) -> float | None:
        return next((percent_of_tissue(c, slide.tissue_mm2) for c in slide.classes if c.name == name), None)

    return _values(slides, percent)


def _ratios(slides: Sequence[SlideFigures], ratio: Ratio) -> Values:
    return _values(slides, lambda slide: ratio_of(ratio, slide.classes))


def _distances(slides: Sequence[SlideFigures], name: str) -> Values:
    def nearest(slide: SlideFigures) -> float | None:
        return next(
            (c.distance.nearest_part_um for c in slide.classes if c.name == name and c.distance is not None), None
        )

    return _values(slides, nearest)


def _outliers(name: str, unit: str, values: Values) -> list[Outlier]:
    """Slides beyond the fences of a figure, the farthest first."""
    if len(values) < LEAST_SLIDES:
        return []
    low, high = np.quantile([*values.values()], (0.25, 0.75)).tolist()
    spread = FENCE * (high - low)
    far = {slide: value for slide, value in values.items() if not low - spread <= value <= high + spread}
    ordered = sorted(far.items(), key=lambda item: (-max(low - item[1], item[1] - high), item[0]))
    middle = f"the middle half of the slides: {low:.4g} to {high:.4g}"
    return [Outlier(slide, f"{name}, {unit}: {value:.4g}", middle) for slide, value in ordered]


def _unlike(slides: Sequence[SlideFigures]) -> list[Outlier]:
    """Slides that are unlike those that the model was trained on."""
    return [
        Outlier(
            slide.slide_id,
            f"unlike the training slides: distance {slide.record.distance_from_training or 0:.2f}",
            f"beyond {slide.record.distance_threshold:.2f}" if slide.record.distance_threshold is not None else "",
        )
        for slide in slides
        if slide.record is not None and slide.record.is_unlike
    ]


def _flawed(slides: Sequence[SlideFigures]) -> Iterator[Outlier]:
    """Slides that are out of focus or written on."""
    for slide in slides:
        found = slide.quality
        if found is not None and found.is_blurred:
            yield Outlier(slide.slide_id, f"out of focus: blur {found.blur or 0:.2f}", f"beyond {BLURRED:g}")
        if found is not None and found.has_pen:
            yield Outlier(slide.slide_id, f"written on: {found.pen_mm2:.2f} mm² of pen", "none")


def _line(slide: SlideFigures) -> SlideLine:
    record = slide.record
    shares = [(c.name, c.mm2 / slide.tissue_mm2) for c in slide.classes if c.is_tissue and slide.tissue_mm2 > 0]
    return SlideLine(
        slide.slide_id,
        slide.case,
        slide.tissue_mm2,
        sorted(shares, key=lambda item: -item[1])[:3],
        record.model if record is not None else "",
        None if record is None else record.distance_from_training,
        slide.note,
    )
