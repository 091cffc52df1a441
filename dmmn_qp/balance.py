"""In which order patches are drawn, and what each class weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import WeightRule
from dmmn_qp.patches import PatchRef

MIN_CLASS_FRACTION = 0.01
"""A patch shows a class when *more* than this part of its pixels has it."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One training example: which patch, and the seed of everything random about it."""

    patch: int
    seed: int


def shuffled_draws(n_patches: int, length: int, seed: int, epoch: int) -> list[Draw]:
    """Every patch once per pass, in random order, until ``length`` draws are made."""
    rng = np.random.default_rng([seed, epoch])
    passes = -(-length // n_patches)
    order = np.concatenate([rng.permutation(n_patches) for _ in range(passes)])[:length]
    return _seeded(order, rng)


def class_balanced_draws(
    patches: Sequence[PatchRef], length: int, seed: int, epoch: int, min_fraction: float = MIN_CLASS_FRACTION
) -> list[Draw]:
    """The classes take turns; each turn draws a patch in which more than ``min_fraction`` shows that class.

    A class that fills no patch so far takes all patches that contain it.

    Args:
        patches: The patch index; every class must occur in it.
        length: Number of draws.
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has its own order.
        min_fraction: Part of the target's pixels.
    """
    rng = np.random.default_rng([seed, epoch])
    pools = _pools(patches, min_fraction)
    turns = _endless_permutations(len(pools), length, rng)
    decks: list[NDArray[np.int64]] = [
        _endless_permutations(pool.size, int((turns == c).sum()), rng) for c, pool in enumerate(pools)
    ]
    position = [0] * len(pools)
    order = np.empty(length, np.int64)
    for i, c in enumerate(turns):
        order[i] = pools[c][decks[c][position[c]]]
        position[c] += 1
    return _seeded(order, rng)


def balanced_probabilities(
    patches: Sequence[PatchRef], min_fraction: float = MIN_CLASS_FRACTION
) -> NDArray[np.float64]:
    """How probable each patch is in a draw of `class_balanced_draws`: (P,), with a sum of 1.

    Args:
        patches: The patch index; every class must occur in it.
        min_fraction: Part of the target's pixels.
    """
    pools = _pools(patches, min_fraction)
    probabilities = np.zeros(len(patches))
    for pool in pools:
        probabilities[pool] += 1 / (len(pools) * pool.size)
    return probabilities


def class_weights(label_counts: NDArray[np.int64], rule: WeightRule) -> NDArray[np.float32]:
    """Weights of the classes in the loss.

    ``paper`` is Eq. 2, ``w_c = 1 - N_c / sum N``. ``inverse-sqrt`` is ``(N_c / sum N) ** -0.5`` scaled to a mean
    of 1, which favours rare classes more.

    Args:
        label_counts: (C,) labelled training pixels per class, each above 0.
        rule: Which of the two.

    Returns:
        (C,) float32. A single class weighs 1.
    """
    if label_counts.size == 1:
        return np.ones(1, np.float32)
    share = label_counts / label_counts.sum()
    weights = 1 - share if rule == "paper" else share**-0.5 / (share**-0.5).mean()
    return np.asarray(weights, np.float32)


def _pools(patches: Sequence[PatchRef], min_fraction: float) -> list[NDArray[np.int64]]:
    """The patches from which each class draws when its turn comes."""
    counts = np.array([patch.label_counts for patch in patches])
    threshold = min_fraction * counts[0].sum()
    pools = [np.flatnonzero(c > threshold) for c in counts.T[1:]]
    return [p if p.size else np.flatnonzero(c > 0) for p, c in zip(pools, counts.T[1:], strict=True)]


def _endless_permutations(n: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``length`` numbers below ``n``: one random permutation after the other."""
    rounds = max(1, -(-length // n))
    return np.concatenate([rng.permutation(n) for _ in range(rounds)])[:length]


def _seeded(order: NDArray[np.int64], rng: np.random.Generator) -> list[Draw]:
    seeds = rng.integers(2**63 - 1, size=order.size)
    return [Draw(int(patch), int(seed)) for patch, seed in zip(order, seeds, strict=True)]
