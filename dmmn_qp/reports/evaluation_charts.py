"""The charts of an evaluation, as places and texts from which the page draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Final

from dmmn_qp.folders.evaluation import Calibration, Figure, ModelEvaluation, TruthKind
from dmmn_qp.text import shorten

Rgb = tuple[int, int, int]

MODEL_COLORS: Final[tuple[Rgb, ...]] = (
    (42, 111, 119), (190, 90, 20), (106, 91, 149), (160, 40, 80), (80, 99, 122), (110, 110, 30),
)  # fmt: skip
"""Colours of the models in their order; beyond, they begin again, and marks are of another shape."""

_LEAST_MM2: Final = 1e-4
_SIDE: Final = 190
_EDGE: Final = 48


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a chart: its shape as SVG draws it, its colour, and what it says."""

    path: str
    color: Rgb
    title: str


def mark_path(x: float, y: float, shape: int) -> str:
    """A circle, square, diamond or triangle about a point, as the path of an SVG."""
    r = 4.2
    if shape % 4 == 0:
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r:.1f},0a{r},{r} 0 1 0 {-2 * r:.1f},0Z"
    corners = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)),
        3: ((0, -1.3 * r), (1.3 * r, r), (-1.3 * r, r)),
    }[shape % 4]
    return "M" + "L".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners) + "Z"


def color_of(number: int) -> Rgb:
    """The colour of a model."""
    return MODEL_COLORS[number % len(MODEL_COLORS)]


def shape_of(number: int, of_all: int) -> int:
    """The shape of a model's marks; one model alone has circles."""
    return number if of_all > 1 else 0


@dataclass(frozen=True, slots=True)
class Rung:
    """The figures of one class on an axis from 0 to 1, in per cent of its length.

    Attributes:
        name: The class.
        marks: One of each model that has a figure.
    """

    name: str
    marks: tuple[RungMark, ...]


@dataclass(frozen=True, slots=True)
class RungMark:
    """A figure: the model's number, where it lies, where its interval begins and how long that is, and what it says."""

    number: int
    at: float
    bar: tuple[float, float] | None
    title: str


def rung_of(name: str, figures: Sequence[tuple[int, str, Figure]]) -> Rung:
    """Places the figures of a class.

    Args:
        name: The class.
        figures: Number and name of each model, with its figure.
    """
    marks = []
    for number, model, figure in figures:
        if figure.value is not None:
            low, high = (None if v is None else _percent(v) for v in (figure.low, figure.high))
            bar = None if low is None or high is None else (low, round(high - low, 2))
            marks.append(RungMark(number, _percent(figure.value), bar, f"{model}: {figure.value:.3f}"))
    return Rung(name, tuple(marks))


def _percent(value: float) -> float:
    return round(100 * min(1.0, max(0.0, value)), 2)


@dataclass(frozen=True, slots=True)
class Square:
    """A chart whose axes have the same scale, with the diagonal.

    Attributes:
        title: What it is of.
        color: Colour of the class; None where it is of none.
        marks: The points.
        ticks: (place along the axis from its origin, text).
        lines: Points of lines, and their colours.
        bars: (x, width, height) of bars at the bottom, in px.
        notes: What is said below.
        side: Length of an axis.
        edge: Left of the axes, and below them.
    """

    title: str
    color: Rgb | None
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[tuple[str, Rgb], ...] = ()
    bars: tuple[tuple[float, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    side: int = _SIDE
    edge: int = _EDGE


def agreement_of(name: str, color: Rgb, models: Sequence[ModelEvaluation], kind: TruthKind) -> Square | None:
    """True and predicted areas of one class, a mark for each slide and model; None where there is none.

    Args:
        name: The class.
        color: Its colour.
        models: The models.
        kind: Which truth.
    """
    points = [
        (n, model.name, slide, t, p) for n, model in enumerate(models) for slide, t, p in _areas(model, kind, name)
    ]
    largest = max((max(t, p) for *_, t, p in points), default=0.0)
    if not largest:
        return None
    step = _step(largest)
    scale = _SIDE / (ceil(round(largest / step, 6)) * step)
    marks = tuple(
        Mark(
            mark_path(_EDGE + t * scale, 8 + _SIDE - p * scale, shape_of(n, len(models))),
            color_of(n) if len(models) > 1 else color,
            f"{slide}{f', {model}' if len(models) > 1 else ''}: true {t:.3g} mm², predicted {p:.3g} mm²",
        )
        for n, model, slide, t, p in points
    )
    ticks = tuple((round(i * step * scale, 1), f"{i * step:.3g}") for i in range(round(_SIDE / (step * scale)) + 1))
    return Square(name, color, marks, ticks, notes=tuple(_limits(models, kind, name)))


def _areas(model: ModelEvaluation, kind: TruthKind, name: str) -> list[tuple[str, float, float]]:
    """Slide, true and predicted mm2 of a class, of slides that have either."""
    figures = model.of(kind)
    found = (
        []
        if figures is None
        else [(s.slide_id, c) for s in figures.slides for c in s.figures.classes if c.name == name]
    )
    return [(slide, c.true_mm2, c.predicted_mm2) for slide, c in found if c.true_mm2 or c.predicted_mm2]


def _limits(models: Sequence[ModelEvaluation], kind: TruthKind, name: str) -> Iterable[str]:
    """Mean difference and its spread over slides, of each model."""
    for model in models:
        differences = [p - t for _, t, p in _areas(model, kind, name)]
        if not differences:
            continue
        mean = sum(differences) / len(differences)
        of = f"{shorten(model.name)}: " if len(models) > 1 else ""
        spread = ""
        if len(differences) > 2:
            sd = (sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)) ** 0.5
            spread = f" ({_signed(mean - 1.96 * sd)} to {_signed(mean + 1.96 * sd)})"
        yield f"{of}mean difference {_signed(mean)} mm²{spread}"


def _signed(mm2: float) -> str:
    """A difference of areas with two digits; 0 for what is less than 100 um2."""
    return f"{mm2:+.2g}".replace("-", "−") if abs(mm2) >= _LEAST_MM2 else "0"


def _step(largest: float) -> float:
    """Distance of ticks: 1, 2 or 5 times a power of ten, so that there are two to five of them."""
    power = 10.0 ** floor(log10(largest / 2))
    return next((m * power for m in (1, 2, 5) if largest / (m * power) <= 5), 10 * power)


def calibration_of(models: Sequence[tuple[int, str, Calibration]], of_all: int) -> Square | None:
    """Confidence against accuracy; None where no model has any.

    Args:
        models: Number, name and calibration of each model that has probabilities.
        of_all: How many models there are.
    """
    if not models:
        return None
    lines, marks = [], []
    for n, name, calibration in models:
        points = [(b.confidence, b.accuracy, b.pixels) for b in calibration.bins if b.pixels]
        known = [(c, a, px) for c, a, px in points if c is not None and a is not None]
        places = [(_EDGE + _SIDE * c, 8 + _SIDE * (1 - a)) for c, a, _ in known]
        lines.append((" ".join(f"{x:.1f},{y:.1f}" for x, y in places), color_of(n)))
        marks += [
            Mark(
                mark_path(x, y, shape_of(n, of_all)),
                color_of(n),
                f"{name}: {100 * c:.0f} % sure, {100 * a:.0f} % right, {px:,} px",
            )
            for (x, y), (c, a, px) in zip(places, known, strict=True)
        ]
    ticks = tuple((round(_SIDE * i / 4, 1), f"{25 * i} %") for i in range(5))
    return Square("", None, tuple(marks), ticks, lines=tuple(lines), bars=_bars(models[0][2]))


def _bars(calibration: Calibration) -> tuple[tuple[float, float, float], ...]:
    """How many pixels each bin has, as bars of at most a quarter of the height."""
    most = max((b.pixels for b in calibration.bins), default=0) or 1
    return tuple(
        (round(_EDGE + _SIDE * b.low, 1), round(_SIDE * (b.high - b.low), 1), round(_SIDE / 4 * b.pixels / most, 1))
        for b in calibration.bins
    )
