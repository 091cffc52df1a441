"""The mean of a figure over several trainings, and how much it differs between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from statistics import mean, stdev
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of several trainings; those that have none do not count.

    Attributes:
        number: How many have it.
        mean: Its mean; None where none has it.
        spread: Its standard deviation (of a sample, n - 1); None of fewer than two.
        lowest: The least; None where none has it.
        highest: The greatest; None likewise.
    """

    number: int
    mean: float | None = None
    spread: float | None = None
    lowest: float | None = None
    highest: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Takes the figures, NaN of those that have none."""
        known = [value for value in map(float, values) if not isnan(value)]
        if not known:
            return cls(0)
        return cls(len(known), mean(known), stdev(known) if len(known) > 1 else None, min(known), max(known))
