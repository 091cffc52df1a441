"""Splits chosen at random, for slides of which nobody says what they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import SPLITS, Split

HELD_BACK: Final = 0.2
"""Part of the cases, and of each class's area, that is meant for each of validation and test."""

_ABSENT: Final = (1000.0, 0.5, 0.25)
"""What it costs when a class is in none of a split's cases, by split."""

_EMPTY: Final = 100.0
"""What it costs when no case is for validation: training could not tell its best epoch."""

_AS_GOOD: Final = (1.25, 0.02)
"""A choice is as good as the best when it costs at most so many times as much, and so much more for each class."""

_MAX_COMPARED: Final = 5000
"""As many choices are compared one by one; of more, some are improved step by step."""

_MAX_TRIES: Final = 20_000
"""Steps that are tried where not all choices can be compared."""


def choose_splits(
    pixels: Mapping[str, NDArray[np.int64]],
    seed: int,
    cases: Mapping[str, str] | None = None,
    settled: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Chooses a split for every slide at random, so that each class keeps training pixels, and most of its area.

    Of n cases, at most about `HELD_BACK` go to validation (from two on) and as many to test (from three on). Of all
    such choices those count that divide the area of each class, and the number of cases, best: 60 % for training, the
    rest halved, and no class absent from validation or test where that can be. Among choices that are as good as the
    best the seed decides. All slides of a case share a split.

    Args:
        pixels: (C,) labelled pixels per class of each slide.
        seed: Seed of the choice.
        cases: Case of each slide; every slide is its own case unless given.
        settled: Slides whose split is kept, such as from an earlier import; so is that of the other slides of
            their cases.
    """
    cases = cases or {name: name for name in pixels}
    kept: dict[str, Split] = {cases[name]: split for name, split in (settled or {}).items()}
    by_case: dict[str, NDArray[np.int64]] = {}
    for name in sorted(pixels):
        by_case[cases[name]] = by_case.get(cases[name], np.int64(0)) + pixels[name]
    names = sorted(by_case)
    shares = _shares(np.array([by_case[name] for name in names], np.float64))
    before = np.array([SPLITS.index(kept.get(name, "train")) for name in names])
    free = np.array([i for i, name in enumerate(names) if name not in kept and by_case[name].any()], np.int64)
    number = max(1, round(HELD_BACK * len(names)))
    room = [
        max(0, (number if len(names) > split else 0) - int((before == split).sum())) for split in range(1, len(SPLITS))
    ]
    chosen = _chosen(shares, before, free, room, np.random.default_rng(seed))
    splits = {name: SPLITS[split] for name, split in zip(names, chosen, strict=True)}
    return {name: splits[cases[name]] for name in pixels}


def _shares(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of each class, and last of all cases that have any pixel, that each case is: (cases, C + 1)."""
    parts = np.hstack([pixels, pixels.any(axis=1, keepdims=True)])
    totals = parts.sum(axis=0)
    shares: NDArray[np.float64] = parts[:, totals > 0] / totals[totals > 0]
    return shares


def _cost(shares: NDArray[np.float64], splits: NDArray[np.int64], meant: NDArray[np.float64]) -> float:
    """How far a choice is from what is meant: the sum over classes of squared distances in units of what is meant."""
    parts = np.array([shares[splits == split].sum(axis=0) for split in range(len(SPLITS))]).T
    off = np.where(meant > 0, (parts - meant) ** 2 / np.where(meant > 0, meant, 1), 0)
    absent = np.where((parts == 0) & (meant > 0), _ABSENT, 0)
    return float((off + absent).sum()) + (_EMPTY if meant[1] > 0 and not parts[-1, 1] else 0.0)


def _chosen(
    shares: NDArray[np.float64],
    before: NDArray[np.int64],
    free: NDArray[np.int64],
    room: Sequence[int],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """A choice among the best: the number of each case's split.

    Args:
        shares: See `_shares`.
        before: The split of each case; that of free ones is train.
        free: Cases that may be held back.
        room: How many of them may go to validation and to test.
        rng: Random numbers.
    """
    held_back = np.array([0.0, *(HELD_BACK if n or (before == s).any() else 0.0 for s, n in enumerate(room, start=1))])
    meant = np.array([1 - held_back.sum(), *held_back[1:]])
    n_choices = sum(comb(len(free), v) * comb(len(free) - v, t) for v, t in _numbers(len(free), room))
    if n_choices > _MAX_COMPARED:
        return _improved(shares, before, free, room, meant, rng)
    choices = list(_all_choices(before, free, room))
    costs = np.array([_cost(shares, choice, meant) for choice in choices])
    times, more = _AS_GOOD
    best = np.flatnonzero(costs <= times * costs.min() + more * shares.shape[1])
    return choices[int(rng.choice(best))]


def _numbers(n_free: int, room: Sequence[int]) -> Iterator[tuple[int, int]]:
    """How many cases may go to validation and to test."""
    return ((v, t) for v in range(min(room[0], n_free) + 1) for t in range(min(room[1], n_free - v) + 1))


def _all_choices(
    before: NDArray[np.int64], free: NDArray[np.int64], room: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    for n_val, n_test in _numbers(len(free), room):
        for val in combinations(free, n_val):
            for test in combinations([case for case in free if case not in val], n_test):
                choice = before.copy()
                choice[list(val)], choice[list(test)] = 1, 2
                yield choice


def _improved(
    shares: NDArray[np.float64],
    before: NDArray[np.int64],
    free: NDArray[np.int64],
    room: Sequence[int],
    meant: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """A random choice, in which cases change splits or places as long as that makes it better."""
    choice = before.copy()
    shuffled = rng.permutation(free)
    choice[shuffled[: room[0]]], choice[shuffled[room[0] : sum(room)]] = 1, 2
    for of_class in shares.T:
        if not of_class[choice == 0].any():
            choice[free[int(of_class[free].argmax())]] = 0
    cost = _cost(shares, choice, meant)
    limits = (len(before), *((before == split).sum() + n for split, n in enumerate(room, start=1)))
    for case, other in rng.choice(free, (min(_MAX_TRIES, 10 * len(free) ** 2), 2)):
        changed = choice.copy()
        if case == other:
            changed[case] = rng.integers(len(SPLITS))
        else:
            changed[[case, other]] = choice[[other, case]]
        if (changed == choice).all() or any((changed == s).sum() > limit for s, limit in enumerate(limits)):
            continue
        cost_then = _cost(shares, changed, meant)
        if cost_then < cost:
            choice, cost = changed, cost_then
    return choice
