"""Folds of a cross-validation: which cases are held out, and which choose the best epoch. A case is never divided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import DatasetError
from dmmn_qp.labels.random_splits import HELD_BACK
from dmmn_qp.text import shorten

_TRIES: Final = 1000
"""As many choices are compared; of more, so many at random."""

_LOST: Final = 1000.0
"""What it costs when a class is left without a case for training."""

_ABSENT: Final = 0.5
"""What it costs when one is without a case among those that are held out, or that choose the epoch."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold; all other cases are for training.

    Attributes:
        held_out: Cases that neither teach nor choose anything.
        validation: Cases that choose the best epoch.
    """

    held_out: tuple[str, ...]
    validation: tuple[str, ...]


def choose_folds(
    pixels: Mapping[str, NDArray[np.int64]], names: Sequence[str], number: int, seed: int, *, validated: bool = True
) -> list[Fold]:
    """Divides cases into folds at random, so that every class can be learned in each.

    Each case is held out once, but for those that alone have a class: they are for training in every fold. Among
    random choices the one counts that divides the area of each class best.

    Args:
        pixels: (C,) labelled pixels per class of each case.
        names: The classes.
        number: Number of folds, at least 2.
        seed: Seed of the choice.
        validated: Whether a fold needs cases that choose the best epoch.

    Raises:
        DatasetError: There are too few cases.
    """
    cases = sorted(pixels)
    counts = np.array([pixels[case] for case in cases], np.float64).reshape(len(cases), len(names))
    annotated = counts.sum(axis=0) > 0
    known = [name for name, is_known in zip(names, annotated, strict=True) if is_known]
    shares = counts[:, annotated] / counts[:, annotated].sum(axis=0)
    alone = (shares == 1).any(axis=1)
    free = np.flatnonzero(~alone)
    if len(free) < number or len(cases) - -(-len(free) // number) < 1 + validated:
        raise DatasetError(
            _too_few(cases, free, [n for n, a in zip(names, annotated, strict=True) if a], shares, number)
        )
    rng = np.random.default_rng(seed)
    folds = min(_assignments(len(free), number, rng), key=lambda held: _uneven(shares[free], held, number))
    chosen = []
    for fold in range(number):
        held_out = free[folds == fold]
        rest = np.setdiff1d(np.arange(len(cases)), held_out)
        validation = _validation(shares, rest, rng) if validated else ()
        taught = np.setdiff1d(rest, np.array(validation, np.int64))
        for lost in np.flatnonzero(shares[taught].sum(axis=0) == 0)[:1]:
            raise DatasetError(
                f'class "{shorten(known[lost])}" is on so few cases that a fold would have none to learn it from; pass '
                "another number of --folds, or annotate it on more slides"
            )
        chosen.append(Fold(tuple(cases[i] for i in held_out), tuple(cases[i] for i in validation)))
    return chosen


def _too_few(
    cases: Sequence[str], free: NDArray[np.int64], names: Sequence[str], shares: NDArray[np.float64], number: int
) -> str:
    alone = [
        f'"{shorten(cases[case])}" alone has "{shorten(names[label])}"'
        for label in range(len(names))
        for case in np.flatnonzero(shares[:, label] == 1).tolist()
    ]
    why = f", because {'; '.join(alone[:3])}, and is for training in every fold" if alone else ""
    enough = 2 <= len(free) != number and len(cases) > 2
    way_out = f"pass --folds {len(free)}" if enough else "annotate more slides"
    return (
        f"{number} folds need as many cases to hold out, and others to learn from and to choose the best epoch by; "
        f"there are {len(free)} to hold out{why}; {way_out}"
    )


def _assignments(n_cases: int, number: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The fold of each case, in random divisions into folds of equal size."""
    return (rng.permutation(np.arange(n_cases) % number) for _ in range(_TRIES))


def _uneven(shares: NDArray[np.float64], folds: NDArray[np.int64], number: int) -> float:
    """How far folds are from equal parts of each class."""
    parts = np.array([shares[folds == fold].sum(axis=0) for fold in range(number)])
    lost = (parts >= shares.sum(axis=0)) & (shares.sum(axis=0) == 1)
    return float(((parts * number - 1) ** 2).sum() + _LOST * lost.sum() + _ABSENT * (parts == 0).sum())


def _validation(shares: NDArray[np.float64], rest: NDArray[np.int64], rng: np.random.Generator) -> tuple[int, ...]:
    """About `HELD_BACK` of the cases that are not held out, which leave every class some of its area."""
    number = max(1, round(HELD_BACK * len(rest)))
    totals = shares[rest].sum(axis=0)

    def cost(chosen: tuple[int, ...]) -> float:
        own = shares[list(chosen)].sum(axis=0)
        part = np.divide(own, totals, out=np.ones_like(own), where=totals > 0)
        off = ((part - HELD_BACK) ** 2).sum()
        return float(off + _LOST * (part > 1 - 1e-9).sum() + _ABSENT * (part == 0).sum())

    choices: Iterable[tuple[int, ...]] = combinations(rng.permutation(rest).tolist(), number)
    if comb(len(rest), number) > _TRIES:
        choices = (tuple(rng.choice(rest, number, replace=False).tolist()) for _ in range(_TRIES))
    return min(islice(choices, _TRIES), key=cost)
