"""`cohort.html`: distributions over the slides of a cohort, and the slides that lie far from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from dmmn_qp.files import new_file
from dmmn_qp.reports.html import page_template
from dmmn_qp.version import __version__

COHORT_PAGE: Final = "cohort.html"

_TEMPLATE: Final = "cohort.html.j2"
_BARS: Final = 24
_MOST_OUTLIERS: Final = 100
_MOST_SLIDES: Final = 200
"""Lines that are shown, so that a page of many thousand slides stays small enough to open."""

WIDTH, HEIGHT, _TOP = 320.0, 110.0, 8.0
"""Of a picture of a distribution, without its words, in px."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a figure is spread over the slides, as a picture.

    Attributes:
        name: Class, ratio or whatever it is of.
        unit: What it is.
        color: Of its bars.
        slides: Number of slides that have it.
        low: Least value.
        median: Middle value.
        high: Largest value.
        bars: (x, y, width, height, slides) of each bar in px.
        middle: (x of the lower quartile, of the median, of the upper quartile) in px.
    """

    name: str
    unit: str
    color: tuple[int, int, int]
    slides: int
    low: float
    median: float
    high: float
    bars: Sequence[tuple[float, float, float, float, int]]
    middle: tuple[float, float, float]

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float], color: tuple[int, int, int]) -> Self:
        """Draws at least one value."""
        low, quarter, median, most, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
        span = high - low
        places = [min(_BARS - 1, int((v - low) / span * _BARS)) if span > 0 else _BARS // 2 for v in values]
        counts = np.bincount(places, minlength=_BARS).tolist()
        step, scale = WIDTH / _BARS, (HEIGHT - _TOP) / max(counts)
        bars = [
            (round(i * step + 0.5, 1), round(HEIGHT - n * scale, 1), round(step - 1, 1), round(n * scale, 1), n)
            for i, n in enumerate(counts)
            if n
        ]
        x = [round((v - low) / span * WIDTH, 1) if span > 0 else WIDTH / 2 for v in (quarter, median, most)]
        return cls(name, unit, color, len(values), low, median, high, bars, (x[0], x[1], x[2]))


@dataclass(frozen=True, slots=True)
class Outlier:
    """A slide that lies far from the others: what of it, and where the others are."""

    slide_id: str
    what: str
    others: str


@dataclass(frozen=True, slots=True)
class SlideLine:
    """A slide in the list.

    Attributes:
        slide_id: The slide.
        case: Its case; empty without cases.
        tissue_mm2: Area of its tissue.
        shares: Its largest classes with their part of the tissue.
        model: What predicted it.
        distance: How far it is from the training slides; None where that is not known.
        note: What to know of its figures.
    """

    slide_id: str
    case: str
    tissue_mm2: float
    shares: Sequence[tuple[str, float]]
    model: str
    distance: float | None
    note: str


@dataclass(frozen=True, slots=True)
class CohortPage:
    """What the page shows.

    Attributes:
        distributions: Figures over the slides.
        outliers: Slides far from the others.
        slides: All slides.
        failed: Why slides could not be measured.
        tissue_mm2: Area of tissue in all.
        cases: Number of cases; 0 without cases.
    """

    distributions: Sequence[Distribution]
    outliers: Sequence[Outlier]
    slides: Sequence[SlideLine]
    failed: Mapping[str, str]
    tissue_mm2: float
    cases: int


def write_cohort_report(folder: Path, page: CohortPage) -> Path:
    """Writes the page: no script, no request.

    Returns:
        The file.
    """
    template = page_template(_TEMPLATE)
    failed = [*page.failed.items()]
    text = template.render(
        page=page,
        outliers=page.outliers[:_MOST_OUTLIERS],
        slides=page.slides[:_MOST_SLIDES],
        failed=failed[:_MOST_OUTLIERS],
        width=WIDTH,
        height=HEIGHT,
        made_by=f"dmmn-qp {__version__}",
    )
    with new_file(folder / COHORT_PAGE) as temporary:
        temporary.write_text(text, "utf-8")
    return folder / COHORT_PAGE
