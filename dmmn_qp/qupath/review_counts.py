"""How many objects of an image, or of several, people drew, reviewed or never checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dmmn_qp.qupath.review import Doubt

Corrections = Mapping[tuple[str, str | None], float]
"""px2 by (class that the model had predicted, class that a person gave), None for what was taken away."""


@dataclass(frozen=True, slots=True)
class ReviewedModel:
    """What people made of the predictions of one model on one image.

    Attributes:
        model_run: The model's training; None where the objects do not tell it any more.
        model: Its name; None likewise.
        confirmed: Areas that were locked as they are.
        corrected: Areas whose class or outline was changed, and of these:
        reclassified: those that got another class,
        reshaped: and those that got another outline.
        corrections: px2 of these areas, by what this model had predicted there and what it is now.
        squares_px4: Sums over the objects of area x area, area x right area and right area x right area, for the
            uncertainty of the share that was right.
        is_compared: Whether all that was changed is compared with the outlines as this model had predicted them; else
            by its class alone.
        unchecked: Areas that nobody vouched for.
    """

    model_run: str | None
    model: str | None
    confirmed: int = 0
    corrected: int = 0
    reclassified: int = 0
    reshaped: int = 0
    corrections: Corrections = field(default_factory=dict)
    squares_px4: tuple[float, float, float] = (0.0, 0.0, 0.0)
    is_compared: bool = True
    unchecked: int = 0


def corrections_of(models: Iterable[ReviewedModel]) -> dict[tuple[str, str | None], float]:
    """The corrections of the predictions of several models together."""
    found: dict[tuple[str, str | None], float] = {}
    for reviewed in models:
        for pair, px2 in reviewed.corrections.items():
            found[pair] = found.get(pair, 0.0) + px2
    return found


@dataclass(frozen=True, slots=True)
class ReviewCounts:
    """How many objects of an image people drew, reviewed or never checked.

    Attributes:
        drawn: Objects that a person drew.
        confirmed: Predictions that were locked as they are.
        corrected: Predictions whose class or outline was changed.
        unchecked: Predictions that nobody vouched for.
        doubts: How many of ``unchecked`` may have been vouched for, by why it cannot be known.
        outlines: Outlines of the tissue, and suggested regions, that we wrote.
        left_out: How many of all these are not taken.
        left_out_classes: Names of the classes of these.
    """

    drawn: int = 0
    confirmed: int = 0
    corrected: int = 0
    unchecked: int = 0
    doubts: Mapping[Doubt, int] = field(default_factory=dict)
    outlines: int = 0
    left_out: int = 0
    left_out_classes: frozenset[str] = frozenset()

    @property
    def predicted(self) -> int:
        """Predictions of all kinds."""
        return self.confirmed + self.corrected + self.unchecked


def total(counts: Iterable[ReviewCounts]) -> ReviewCounts:
    """The counts of several images together."""
    counts = list(counts)
    doubts: Counter[Doubt] = Counter()
    for one in counts:
        doubts.update(one.doubts)
    return ReviewCounts(
        drawn=sum(one.drawn for one in counts),
        confirmed=sum(one.confirmed for one in counts),
        corrected=sum(one.corrected for one in counts),
        unchecked=sum(one.unchecked for one in counts),
        doubts=doubts,
        outlines=sum(one.outlines for one in counts),
        left_out=sum(one.left_out for one in counts),
        left_out_classes=frozenset[str]().union(*(one.left_out_classes for one in counts)),
    )
