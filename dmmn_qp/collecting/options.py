"""What `dmmn-qp cohort` is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Final

from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.class_rules import nearest_name
from dmmn_qp.text import shorten

WITHIN_UM: Final = (500.0, 1000.0, 2000.0)
"""Distances within which areas are given unless others are asked for."""

MIN_AREA_UM2, MIN_HOLE_UM2 = 20_000.0, 1_000_000.0
"""Smaller parts of the tissue are dirt, smaller holes in it are tissue, as for `predict`."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """An area divided by another one.

    Attributes:
        name: As the user wrote it.
        above: Classes whose areas are added up.
        below: Those that they are divided by.
    """

    name: str
    above: tuple[str, ...]
    below: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, classes: Collection[str]) -> Ratio:
        """Reads ``tumour/stroma`` or ``necrosis/necrosis+tumour``; names may hold ``/`` and ``+`` themselves.

        Raises:
            ConfigError: It names no classes, or can be read in two ways.
        """
        readings = [
            (above, below)
            for at, sign in enumerate(text)
            if sign == "/"
            for above in _sums(text[:at].strip(), classes)
            for below in _sums(text[at + 1 :].strip(), classes)
        ]
        if len(readings) == 1:
            return cls(text, *readings[0])
        if readings:
            raise ConfigError(f'--ratio "{shorten(text)}" can be read in {len(readings)} ways; name other classes')
        if "/" not in text:
            raise ConfigError(f'--ratio "{shorten(text)}" is no ratio; write such as tumour/stroma')
        words = [word.strip() for part in text.split("/") for word in part.split("+")]
        unknown = next((word for word in words if word not in classes), text)
        near = nearest_name(unknown, classes)
        hint = f'did you mean "{shorten(near)}"?' if near else f"the classes are {', '.join(classes) or 'none'}"
        raise ConfigError(f'--ratio "{shorten(text)}": "{shorten(unknown)}" is no predicted class; {hint}')


def _sums(text: str, classes: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Every way to read a text as names of classes with ``+`` between them."""
    if text in classes:
        yield (text,)
    for at, sign in enumerate(text):
        if sign == "+" and text[:at].strip() in classes:
            yield from ((text[:at].strip(), *rest) for rest in _sums(text[at + 1 :].strip(), classes))


@dataclass(frozen=True, slots=True)
class CohortRules:
    """What is told of each slide.

    Attributes:
        ratios: Ratios of areas, as the user wrote them.
        within_um: Distances from the tissue's outline within which the area of each class is given, ascending.
        case_pattern: Regular expression on slide names that finds the case; None where there are no cases.
        min_area_um2: Smaller parts of the tissue are dirt.
        min_hole_um2: Smaller holes in the tissue are tissue.
    """

    ratios: Sequence[str] = ()
    within_um: Sequence[float] = field(default=WITHIN_UM)
    case_pattern: str | None = None
    min_area_um2: float = MIN_AREA_UM2
    min_hole_um2: float = MIN_HOLE_UM2

    def __post_init__(self) -> None:
        """Refuses what cannot be meant.

        Raises:
            ConfigError: A distance or an area is none, or something is named twice.
        """
        given = sorted(self.within_um)
        if not all(isfinite(um) and um >= 0 for um in given) or any(one == other for one, other in pairwise(given)):
            raise ConfigError("--within takes different distances in um, 0 or more, such as --within 500 --within 1000")
        if len(set(self.ratios)) < len(self.ratios):
            raise ConfigError("--ratio is given twice for one ratio; leave one of them out")
        for name, value in (("min-area-um2", self.min_area_um2), ("min-hole-um2", self.min_hole_um2)):
            if not value >= 0:
                raise ConfigError(f"--tissue-{name} {value:g} is no area; pass 0 or more um2")
        object.__setattr__(self, "within_um", tuple(given))
