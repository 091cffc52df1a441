"""What the ledger of the loop says: the share that had been right, what a round took, and whether the curve is flat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path
from typing import Final

from dmmn_qp.files.tables import write_table
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.rounds import Drawn, Judged, Ledger, Round

ROUNDS_FOR_A_CURVE: Final = 3
"""With fewer, a curve has no bend."""

WORTH: Final = 0.01
"""A gain over the last two rounds below one part in a hundred is not worth two rounds of anybody's time."""

TOO_UNCERTAIN: Final = 0.05
"""A difference that is known no better than to five parts in a hundred says nothing of whether a curve is flat."""


LEAST_OF_A_CLASS: Final = 0.01
"""A class of which less of the checked area is left out of the mean: slivers along borders say nothing of it."""


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class in the checked area of a round.

    Attributes:
        name: The class.
        mm2: Area that was predicted as it, or is it by a person's word.
        right_mm2: What of it was both.
    """

    name: str
    mm2: float
    right_mm2: float

    @property
    def share(self) -> float:
        """The part that was both (IoU)."""
        return self.right_mm2 / self.mm2 if self.mm2 else 0.0


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """A round in figures.

    Attributes:
        number: Its number: 0 for what was drawn before any prediction; None where the model is not known.
        round: What the ledger has of it.
        judged: Checked areas of all slides, by what was predicted and what was said, largest first.
        classes: By class, in the order of their names.
        drawn: What was drawn in this round.
        person_min: Estimated minutes of a person.
    """

    number: int | None
    round: Round
    judged: tuple[Judged, ...]
    classes: tuple[ClassShare, ...]
    drawn: Drawn
    person_min: float

    @property
    def name(self) -> str:
        """The round in a sentence: ``round 2 (dmmn-p-2)``."""
        if self.number is None:
            return "predictions of a model that is not known"
        return f"round {self.number}" + (f" ({self.round.model})" if self.round.model else "")

    @property
    def checked_mm2(self) -> float:
        """Area that a person confirmed or corrected."""
        return sum(entry.mm2 for entry in self.judged)

    @property
    def right_mm2(self) -> float:
        """What of it had been predicted as what it is."""
        return sum(entry.mm2 for entry in self.judged if entry.predicted == entry.said)

    @property
    def share(self) -> float | None:
        """The part of the checked area that had been right; None where nothing was checked."""
        return self.right_mm2 / self.checked_mm2 if self.checked_mm2 else None

    @property
    def uncertainty(self) -> float:
        """Standard error of the share, if the objects were drawn at random; 1 where nothing was checked.

        It is that of a ratio of two sums over the objects, right area and area. Two objects of mean size are added, one
        right and one wrong, so that few objects that are all right are no certainty.
        """
        objects = self.confirmed + self.corrected
        if not self.checked_mm2 or not objects:
            return 1.0
        mean = self.checked_mm2 / objects
        whole = self.checked_mm2 + 2 * mean
        p = (self.right_mm2 + mean) / whole
        area, product, right = (sum(slide.squares_mm4[i] for slide in self.round.slides) for i in range(3))
        residuals = right - 2 * p * product + p**2 * area + mean**2 * (p**2 + (1 - p) ** 2)
        return sqrt(max(0.0, residuals)) / whole

    @property
    def mean_share(self) -> float | None:
        """Mean of the classes' shares (mIoU of the checked area); None where nothing was checked."""
        shares = [c.share for c in self.classes if self.counts(c)]
        return sum(shares) / len(shares) if shares else None

    def counts(self, of_class: ClassShare) -> bool:
        """Whether enough of a class was checked for its share to say something."""
        return of_class.mm2 >= LEAST_OF_A_CLASS * self.checked_mm2

    @property
    def errors(self) -> tuple[Judged, ...]:
        """What had been wrong, largest first."""
        return tuple(entry for entry in self.judged if entry.predicted != entry.said)

    @property
    def confirmed(self) -> int:
        """Predicted areas that were locked as they are."""
        return sum(slide.confirmed for slide in self.round.slides)

    @property
    def corrected(self) -> int:
        """Predicted areas whose class or outline was changed."""
        return sum(slide.corrected for slide in self.round.slides)

    @property
    def is_compared(self) -> bool:
        """Whether all that was changed is compared with the outlines as they were predicted."""
        return all(slide.is_compared for slide in self.round.slides)

    @property
    def machine_min(self) -> float | None:
        """Minutes of the machine, as far as they are known."""
        machine = self.round.machine
        known = [s for s in (machine.import_s, machine.train_s, machine.predict_s) if s is not None]
        return sum(known) / 60 if known else None


def figures_of(ledger: Ledger, person: PersonSeconds) -> list[RoundFigures]:
    """The rounds in figures, in their order.

    Args:
        ledger: The ledger.
        person: How long a person takes.
    """
    found: list[RoundFigures] = []
    before, number = Drawn(), 1
    for one in ledger.rounds:
        drawn = Drawn() if one.drawn is None else one.drawn.since(before)
        before = one.drawn or before
        judged = _judged(one)
        minutes = person.minutes(
            looked_at=sum(s.confirmed + s.corrected for s in one.slides),
            reclassified=sum(s.reclassified for s in one.slides),
            reshaped=sum(s.reshaped for s in one.slides),
            drawn=drawn.areas,
            drawn_mm=drawn.outline_mm,
        )
        shown = {"start": 0, "model": number, "unknown": None}[one.kind]
        found.append(RoundFigures(shown, one, judged, _classes(judged), drawn, minutes))
        number += one.kind == "model"
    return found


def _judged(one: Round) -> tuple[Judged, ...]:
    areas: defaultdict[tuple[str, str | None], float] = defaultdict(float)
    for slide in one.slides:
        for entry in slide.judged:
            areas[entry.predicted, entry.said] += entry.mm2
    ordered = sorted(areas.items(), key=lambda item: (-item[1], item[0][0], item[0][1] or ""))
    return tuple(Judged(predicted=p, said=s, mm2=mm2) for (p, s), mm2 in ordered)


def _classes(judged: Sequence[Judged]) -> tuple[ClassShare, ...]:
    names = sorted({e.predicted for e in judged} | {e.said for e in judged if e.said is not None})
    return tuple(
        ClassShare(
            name,
            sum(e.mm2 for e in judged if name in (e.predicted, e.said)),
            sum(e.mm2 for e in judged if e.predicted == name == e.said),
        )
        for name in names
    )


def checked_rounds(rounds: Sequence[RoundFigures]) -> list[RoundFigures]:
    """The points of the curve: rounds of a known model of which something was checked."""
    return [r for r in rounds if r.round.kind == "model" and r.share is not None]


def is_flat(rounds: Sequence[RoundFigures]) -> bool | None:
    """Whether the curve has become flat; None where that cannot be told.

    It is flat when the last two rounds together gained less than is worth them, or no more than chance gives where so
    few objects were checked. Where chance alone may give much, nothing can be told.
    """
    points = checked_rounds(rounds)
    if len(points) < ROUNDS_FOR_A_CURVE:
        return None
    gain, chance = gain_of(points)
    if gain > max(WORTH, chance):
        return False
    return None if chance > TOO_UNCERTAIN else True


def gain_of(points: Sequence[RoundFigures]) -> tuple[float, float]:
    """What the last two rounds gained over the one before them, and the standard error of that."""
    last, before = points[-1], points[-ROUNDS_FOR_A_CURVE]
    assert last.share is not None and before.share is not None
    return last.share - before.share, hypot(last.uncertainty, before.uncertainty)


COLUMNS: Final = (
    *("round", "model", "model_run", "since", "checked_mm2", "right_mm2", "share_right", "share_mean_of_classes"),
    *("uncertainty", "confirmed", "corrected", "drawn_areas", "drawn_mm2", "drawn_outline_mm"),
    *("import_minutes", "train_minutes", "predict_minutes", "person_minutes_estimated", "compared_with_outlines"),
)
"""Of ``rounds.csv``, before those of the classes."""


def write_rounds(path: Path, rounds: Sequence[RoundFigures]) -> None:
    """Writes ``rounds.csv``: a row for each round, with a column for the share of each class.

    Args:
        path: The table.
        rounds: The rounds.
    """
    names = sorted({c.name for r in rounds for c in r.classes})
    write_table(path, [*COLUMNS, *(f"share {name}" for name in names)], (_row(r, names) for r in rounds))


def _row(r: RoundFigures, names: Sequence[str]) -> list[object]:
    def rounded(value: float | None, digits: int = 4) -> float | str:
        return "" if value is None else round(value, digits)

    machine, one = r.round.machine, r.round
    seconds = (machine.import_s, machine.train_s, machine.predict_s)
    shares = {c.name: c.share for c in r.classes}
    return [
        *("" if r.number is None else r.number, one.model or "", one.model_run or "", one.since),
        *(rounded(r.checked_mm2, 6), rounded(r.right_mm2, 6), rounded(r.share), rounded(r.mean_share)),
        *("" if r.share is None else rounded(r.uncertainty), r.confirmed, r.corrected),
        *(r.drawn.areas, rounded(r.drawn.mm2, 6), rounded(r.drawn.outline_mm)),
        *(rounded(None if s is None else s / 60, 2) for s in seconds),
        *(rounded(r.person_min, 2), "yes" if r.is_compared else "no"),
        *(rounded(shares.get(name)) for name in names),
    ]
