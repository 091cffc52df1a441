"""`loop.html`: the curve of the loop, and what each round took; one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final

from dmmn_qp.files import new_file
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.round_figures import RoundFigures, checked_rounds
from dmmn_qp.folders.rounds import ROUNDS
from dmmn_qp.reports.html import page_template
from dmmn_qp.reports.loop_words import curve_sentence, errors_sentence
from dmmn_qp.specs import ClassMap
from dmmn_qp.version import __version__

_TEMPLATE: Final = "loop_report.html.j2"
_WIDTH, _HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 12, 28
_MOST_TICKS: Final = 12
_MOST_ERRORS: Final = 8
_MOST_ROUNDS: Final = 8
"""Columns of the table of classes; earlier rounds are in `rounds.csv`."""

_OTHER_COLOR: Final = (120, 120, 120)
_ALL, _MEAN = (42, 111, 119), (106, 91, 149)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a chart.

    Attributes:
        name: What it shows.
        color: Its colour.
        points: (x, y) in px of the chart.
        bars: (x, lower y, upper y) of the standard errors.
        dashed: Whether it is dashed.
    """

    name: str
    color: tuple[int, int, int]
    points: tuple[tuple[float, float], ...]
    bars: tuple[tuple[float, float, float], ...] = ()
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Shares over the rounds.

    Attributes:
        title: What it shows, for those who do not see it.
        lines: The lines.
        x_ticks: (x, number of the round).
        y_ticks: (y, per cent).
        width: px.
        height: px.
        left: Where the axes begin, px.
        right: Where they end.
        bottom: Where the lower one lies.
    """

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, int], ...]
    y_ticks: tuple[tuple[float, int], ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def write_loop_page(path: Path, rounds: Sequence[RoundFigures], class_map: ClassMap, person: PersonSeconds) -> None:
    """Writes the page.

    Args:
        path: The page.
        rounds: The rounds in figures.
        class_map: The classes, for their colours; others are grey.
        person: How long a person takes, as it was taken for the figures.
    """
    with new_file(path) as temporary:
        temporary.write_text(render_loop_page(rounds, class_map, person), "utf-8")


def render_loop_page(rounds: Sequence[RoundFigures], class_map: ClassMap, person: PersonSeconds) -> str:
    """The page: HTML with its style and charts inside, no script, and a policy that forbids any request."""
    points = checked_rounds(rounds)
    colors = {**{c.name: _OTHER_COLOR for r in points for c in r.classes}, **class_map.colors}
    names = [name for name in colors if any(name == c.name for r in points for c in r.classes)]
    machine = [r.machine_min for r in rounds if r.machine_min is not None]
    return page_template(_TEMPLATE).render(
        rounds=rounds,
        points=points,
        last=points[-1] if points else None,
        shown=points[-_MOST_ROUNDS:],
        names=names,
        colors=colors,
        charts=_charts(points, names, colors) if points else [],
        curve=curve_sentence(rounds),
        errors_in_words=errors_sentence(rounds),
        errors=points[-1].errors[:_MOST_ERRORS] if points else (),
        person=person,
        person_min=sum(r.person_min for r in rounds),
        machine_min=sum(machine) if machine else None,
        drawn_mm2=sum(r.drawn.mm2 for r in rounds),
        table=ROUNDS,
        made_by=f"dmmn-qp {__version__}",
    )


def _charts(
    points: Sequence[RoundFigures], names: Sequence[str], colors: dict[str, tuple[int, int, int]]
) -> list[Chart]:
    """All classes together, and each by itself."""
    shares = [{c.name: c.share for c in r.classes if r.counts(c)} for r in points]
    numbers = [r.number or 0 for r in points]
    whole = [r.share or 0.0 for r in points]
    lowest = min([*whole, *(r.mean_share or 0.0 for r in points)])
    frame = _Frame(numbers, lowest)
    x = frame.x
    bars = tuple(
        (x(i), frame.y(max(frame.lowest, s - r.uncertainty)), frame.y(min(1.0, s + r.uncertainty)))
        for i, (s, r) in enumerate(zip(whole, points, strict=True))
    )
    together = (
        Line("all of it", _ALL, tuple((x(i), frame.y(s)) for i, s in enumerate(whole)), bars),
        Line(
            "mean over classes",
            _MEAN,
            tuple((x(i), frame.y(r.mean_share or 0.0)) for i, r in enumerate(points)),
            dashed=True,
        ),
    )
    own = _Frame(numbers, min((s for of_round in shares for s in of_round.values()), default=1.0))
    of_classes = tuple(
        Line(name, colors[name], tuple((own.x(i), own.y(s[name])) for i, s in enumerate(shares) if name in s))
        for name in names
    )
    return [
        Chart("Share of the checked area that had been right, by round", together, frame.x_ticks(), frame.y_ticks()),
        Chart("Share that had been right of each class, by round", of_classes, own.x_ticks(), own.y_ticks()),
    ]


class _Frame:
    """Where shares and rounds lie in a chart.

    Args:
        numbers: Of the rounds.
        lowest: The lowest share; the axis begins a little below.
    """

    def __init__(self, numbers: Sequence[int], lowest: float) -> None:
        self._numbers, self._n = numbers, len(numbers)
        self.lowest = max(0.0, min(0.9, floor((lowest - 0.03) * 10) / 10))

    def x(self, i: int) -> float:
        """Px of a round, from 0."""
        inner = _WIDTH - _LEFT - _RIGHT - 36
        return round(_LEFT + 18 + (inner / 2 if self._n == 1 else inner * i / (self._n - 1)), 1)

    def y(self, share: float) -> float:
        """Px of a share."""
        inner = _HEIGHT - _TOP - _BOTTOM
        return round(_TOP + inner * (1 - share) / (1 - self.lowest), 1)

    def x_ticks(self) -> tuple[tuple[float, int], ...]:
        """Some of the rounds, the last among them."""
        step = -(-self._n // _MOST_TICKS)
        return tuple((self.x(i), n) for i, n in enumerate(self._numbers) if (self._n - 1 - i) % step == 0)

    def y_ticks(self) -> tuple[tuple[float, int], ...]:
        """Round numbers of per cent."""
        low = round(100 * self.lowest)
        step = 20 if low < 50 else 10 if low < 80 else 5
        return tuple((self.y(p / 100), p) for p in range(100, low - 1, -step))
