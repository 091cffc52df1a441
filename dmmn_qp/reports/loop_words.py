"""What the ledger of the loop says in sentences: is it good enough, and what is left?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmmn_qp.folders.round_figures import ROUNDS_FOR_A_CURVE, RoundFigures, checked_rounds, gain_of, is_flat
from dmmn_qp.reports.html import mm2_text, percent_text
from dmmn_qp.text import count_of

_MOST_ERRORS: Final = 3


def curve_sentence(rounds: Sequence[RoundFigures]) -> str:
    """Whether another round pays, by the curve."""
    points = checked_rounds(rounds)
    if len(points) < ROUNDS_FOR_A_CURVE:
        checked = count_of(len(points), "round") + " checked" if points else "nothing is checked"
        return f"Too early to tell: {checked} so far, and a curve needs {ROUNDS_FOR_A_CURVE}."
    gain, chance = gain_of(points)
    last = ", ".join(f"{100 * (p.share or 0):.1f}" for p in points[-ROUNDS_FOR_A_CURVE:])
    shares = f"{last} % right in the last {ROUNDS_FOR_A_CURVE} rounds"
    match is_flat(rounds):
        case None:
            return (
                f"It cannot be told whether the curve is flat: {shares}, but so few areas were checked that the "
                f"difference is known to about ± {_points(chance)} only. Lock more of what is right."
            )
        case True if gain < -chance:
            return f"The curve falls: {shares}. Look at what was corrected last, and whether it was harder tissue."
        case True:
            return f"The curve is flat: {shares}. Another round of the same kind gains little."
    return f"The curve still rises: {shares}, {_points(gain)} more. Another round pays."


def curve_word(rounds: Sequence[RoundFigures]) -> str:
    """The same in a word or two."""
    points = checked_rounds(rounds)
    if len(points) < ROUNDS_FOR_A_CURVE:
        return "too early to tell whether that is its best"
    gain, chance = gain_of(points)
    words = {None: "too little checked to tell whether it is flat", False: "still rising"}
    return words.get(is_flat(rounds), "falling" if gain < -chance else "flat")


def errors_sentence(rounds: Sequence[RoundFigures]) -> str | None:
    """Which errors the last round had; None where nothing was checked, or all of it was right."""
    points = checked_rounds(rounds)
    if not points or not points[-1].errors:
        return None
    last = points[-1]
    parts = [
        f"{percent_text(error.mm2 / last.checked_mm2)} ({mm2_text(error.mm2)} mm²) predicted as {error.predicted} "
        + (f"is {error.said}" if error.said is not None else "was taken away")
        for error in last.errors[:_MOST_ERRORS]
    ]
    wrong = f"What is wrong in {last.name}, of the area that was checked: {'; '.join(parts)}."
    classes = [c for c in last.classes if last.counts(c)]
    if len(classes) < 2:
        return wrong
    weakest = min(classes, key=lambda c: c.share)
    return f"{wrong} The weakest class is {weakest.name}, with {100 * weakest.share:.0f} % of it right."


def _points(difference: float) -> str:
    points = 100 * abs(difference)
    return f"{points:.1f} {'point' if f'{points:.1f}' == '1.0' else 'points'}"
