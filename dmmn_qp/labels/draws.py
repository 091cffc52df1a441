"""In which random order patches are sampled, and what each class weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import SPLITS, Sampler, Split, WeightRule
from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.specs import ClassMap, FileModel

MIN_CLASS_FRACTION = 0.01
"""A patch shows a class when *more* than this part of its pixels has it."""


MAX_SUGGESTED_RATE = 50
"""A class is never suggested to be multiplied more than so often: its patches stay the same few."""

_COMMON_RATES = 11  # a search that starts with copies of every patch can balance in finer steps
_AS_GOOD = 0.05
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Draw:
    """One training example: an example depends on nothing else.

    Attributes:
        patch: Number of the patch.
        seed: Seed of everything random about it.
        deformed: Whether it is an elastically deformed copy (section 2.3).
    """

    patch: int
    seed: int
    deformed: bool = False


@dataclass(frozen=True, slots=True)
class ElasticRule:
    """Elastic class balancing (section 2.3).

    A patch belongs to the first class of the order of which it has any pixel. To each patch of class c, r_c deformed
    copies are added, so it counts (1 + r_c) times, once as it is.

    Attributes:
        class_order: All labels, the highest class first.
        rates: r_c of each class, in the order of the labels: ``rates[label - 1]``.
    """

    class_order: tuple[int, ...]
    rates: tuple[int, ...]

    @classmethod
    def of_options(
        cls, class_map: ClassMap, patches: Sequence[PatchRef], class_order: Sequence[str], rates: Mapping[str, int]
    ) -> ElasticRule:
        """Resolves the options of ``[train]``.

        Args:
            class_map: The classes.
            patches: The training patches, for rates that are left out (`suggested_rates`).
            class_order: Names of all classes, the highest first; empty for the order of the class map.
            rates: r_c by name.

        Raises:
            ConfigError: A name is unknown, missing from the order, or in it twice.
        """
        names = ", ".join(class_map.names)
        for option, given in (("class_order", class_order), ("rates", rates)):
            for name in given:
                if class_map.label_of(name) is None:
                    raise ConfigError(f'[train] {option}: "{name}" is no class of the dataset; choose from {names}')
        if class_order and sorted(class_order) != sorted(class_map.names):
            raise ConfigError(f"[train] class_order must name each class of the dataset once: {names}")
        order = tuple(class_map.names.index(name) + 1 for name in class_order or class_map.names)
        given_rates = {class_map.names.index(name) + 1: rate for name, rate in rates.items()}
        return cls(order, suggested_rates(patches, order, given_rates))

    def labels_of(self, patches: Sequence[PatchRef]) -> NDArray[np.int64]:
        """Label of the class that each patch belongs to: (P,)."""
        return _owners(_counts(patches, len(self.rates)), self.class_order)

    def copies_of(self, patches: Sequence[PatchRef]) -> NDArray[np.int64]:
        """Number of deformed copies of each patch: (P,)."""
        return np.array(self.rates, np.int64)[self.labels_of(patches) - 1]

    def balanced_pixels(self, patches: Sequence[PatchRef]) -> NDArray[np.int64]:
        """N_c of Eq. 2, counted after balancing: (C,); a deformed copy counts as its original does."""
        return np.asarray((1 + self.copies_of(patches)) @ _counts(patches, len(self.rates)), np.int64)


@dataclass(frozen=True, slots=True)
class TrainingDraws:
    """What training samples from, and how.

    Attributes:
        patches: The training patches; every class must occur in them.
        sampler: How they are sampled.
        seed: Seed of the run.
        elastic: Rule of the sampler ``elastic``; None for the others.
        corrections: How many times as often as others those patches come in which a person corrected a prediction.
    """

    patches: Sequence[PatchRef]
    sampler: Sampler
    seed: int
    elastic: ElasticRule | None = None
    corrections: float = 1.0

    @property
    def often(self) -> NDArray[np.float64]:
        """How many times each patch comes in a pass: (P,)."""
        return np.array([self.corrections if patch.corrected else 1.0 for patch in self.patches])

    @property
    def pass_length(self) -> int:
        """Draws in which every patch, and every copy, comes as often as it counts: once, unless it was corrected."""
        copies = 0 if self.elastic is None else self.elastic.copies_of(self.patches)
        return ceil(float((self.often * (1 + copies)).sum()))

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """N_c of Eq. 2, counted after elastic balancing if there is any: (C,)."""
        if self.elastic is not None:
            return self.elastic.balanced_pixels(self.patches)
        return np.asarray(np.array([patch.label_counts[1:] for patch in self.patches], np.int64).sum(axis=0))

    def of_epoch(self, epoch: int, length: int) -> list[Draw]:
        """The draws of one epoch."""
        often = None if (self.often == 1).all() else self.often
        if self.elastic is not None:
            return elastic_draws(self.elastic.copies_of(self.patches), length, self.seed, epoch, often)
        if self.sampler == "balanced":
            return class_balanced_draws(self.patches, length, self.seed, epoch, often=often)
        return shuffled_draws(len(self.patches), length, self.seed, epoch, often)


def shuffled_draws(
    n_patches: int, length: int, seed: int, epoch: int, often: NDArray[np.float64] | None = None
) -> list[Draw]:
    """Every patch once per pass, in random order, until ``length`` draws are made.

    Args:
        n_patches: Number of patches P.
        length: Number of draws.
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has its own order.
        often: (P,) how often each comes in a pass, at least 1; once unless given.
    """
    rng = np.random.default_rng([seed, epoch])
    return _seeded(_endless_permutations(n_patches, length, rng, often), rng)


def elastic_draws(
    copies: NDArray[np.int64], length: int, seed: int, epoch: int, often: NDArray[np.float64] | None = None
) -> list[Draw]:
    """Every patch and its copies once per pass, in random order; copies are deformed anew in each epoch (section 2.3).

    Args:
        copies: (P,) deformed copies of each patch.
        length: Number of draws.
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has its own order.
        often: (P,) how often each patch, and each of its copies, comes in a pass; once unless given.
    """
    n_patches = copies.size
    patch_of = np.concatenate([np.arange(n_patches), np.repeat(np.arange(n_patches), copies)])
    rng = np.random.default_rng([seed, epoch])
    order = _endless_permutations(patch_of.size, length, rng, None if often is None else often[patch_of])
    seeds = rng.integers(2**63 - 1, size=order.size)
    return [Draw(int(patch_of[i]), int(s), bool(i >= n_patches)) for i, s in zip(order, seeds, strict=True)]


def suggested_rates(
    patches: Sequence[PatchRef], class_order: Sequence[int], given: Mapping[int, int] | None = None
) -> tuple[int, ...]:
    """Rates r_c with which the classes come out as evenly as they can, as in Figure 5.

    The measure is the standard deviation of the logarithm of the classes' pixels after balancing, so a factor counts
    the same for a rare class as for a frequent one. From several common rates on, one class after the other, the rarest
    first, gets the rate that is best, until none changes. Of the results within 5 % of the best the one with fewest
    patches is taken. Classes to which no patch belongs have rate 0; those without a pixel, which no rate can change,
    do not count.

    Args:
        patches: The training patches.
        class_order: All labels, the highest class first.
        given: Rates that are fixed, by label.

    Returns:
        r_c in the order of the labels.
    """
    fixed = given or {}
    n_classes = len(class_order)
    counts = _counts(patches, n_classes)
    owners = _owners(counts, class_order)
    pixels = np.array([counts[owners == label].sum(axis=0) for label in range(1, n_classes + 1)], np.float64)
    start = np.array([fixed.get(label, 0) for label in range(1, n_classes + 1)])
    free = [int(c) for c in np.argsort(pixels.sum(axis=0), kind="stable") if c + 1 not in fixed and pixels[c].any()]
    pixels = pixels[:, pixels.any(axis=0)]
    results = []
    for common in range(_COMMON_RATES if free else 1):
        rates = start.copy()
        rates[free] = common
        results.append(_evened(pixels, rates, free))
    imbalance = np.array([_imbalance((1 + rates) @ pixels) for rates in results])
    n_patches = np.array([((1 + rates)[owners - 1]).sum() for rates in results])
    best = min(np.flatnonzero(imbalance <= imbalance.min() + _AS_GOOD), key=lambda i: n_patches[i])
    return tuple(int(r) for r in results[best])


def _evened(pixels: NDArray[np.float64], rates: NDArray[np.int64], free: Sequence[int]) -> NDArray[np.int64]:
    """Sets one free rate after the other to the lowest that is best, until none changes.

    Args:
        pixels: (C, n) pixels of each class that has any (columns) in the patches that belong to each class (rows).
        rates: (C,) rates to begin with.
        free: Classes whose rates may change.
    """
    tried = np.arange(MAX_SUGGESTED_RATE + 1)
    for _ in range(MAX_SUGGESTED_RATE):
        before = rates.copy()
        for c in free:
            others = (1 + rates) @ pixels - (1 + rates[c]) * pixels[c]
            imbalance = _imbalance(others + np.outer(1 + tried, pixels[c]))
            rates[c] = np.flatnonzero(imbalance <= imbalance.min() + _SAME)[0]
        if np.array_equal(rates, before):
            break
    return rates


def _imbalance(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviation of the logarithm of the classes' pixels: (..., C) -> (...)."""
    return np.asarray(np.log(np.maximum(pixels, 1)).std(axis=-1))


class ClassCounts(FileModel):
    """One class before and after elastic balancing.

    Attributes:
        class_name: The class.
        rate: r_c, deformed copies of each training patch that belongs to the class.
        patches: Patches that belong to the class, by split.
        patches_balanced: Training patches of the class with their copies.
        pixels: Labelled training pixels of the class, in all patches.
        pixels_balanced: The same with all copies: N_c of Eq. 2.
    """

    class_name: str
    rate: int
    patches: dict[Split, int]
    patches_balanced: int
    pixels: int
    pixels_balanced: int


class BalanceCounts(FileModel):
    """What elastic balancing does, in the manner of the paper's Table 1 and Figure 5.

    Attributes:
        classes: The classes, the highest first.
    """

    classes: tuple[ClassCounts, ...]

    def rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """A header, and a row for each class and for their sum."""
        header = (
            *("class", "rate", "patches\ntrain", "patches\nbalanced", "patches\nval", "patches\ntest"),
            *("pixels\ntrain", "share", "pixels\nbalanced", "share"),
        )
        before, after = (max(1, sum(getattr(c, p) for c in self.classes)) for p in ("pixels", "pixels_balanced"))
        rows = [
            (
                c.class_name,
                str(c.rate),
                *(f"{n:,}" for n in (c.patches["train"], c.patches_balanced, c.patches["val"], c.patches["test"])),
                *(f"{c.pixels:,}", f"{c.pixels / before:.1%}"),
                *(f"{c.pixels_balanced:,}", f"{c.pixels_balanced / after:.1%}"),
            )
            for c in self.classes
        ]
        patches = [sum(c.patches[split] for c in self.classes) for split in SPLITS]
        balanced = sum(c.patches_balanced for c in self.classes)
        total = (f"{n:,}" for n in (patches[0], balanced, *patches[1:]))
        return header, [*rows, ("all", "", *total, f"{before:,}", "", f"{after:,}", "")]


def balance_counts(patches: Sequence[PatchRef], class_map: ClassMap, rule: ElasticRule) -> BalanceCounts:
    """Counts patches and pixels before and after balancing.

    Args:
        patches: The patches of all splits.
        class_map: The classes.
        rule: The rule.
    """
    owners = rule.labels_of(patches)
    of_split = {split: np.array([patch.split == split for patch in patches], bool) for split in SPLITS}
    training = [patch for patch in patches if patch.split == "train"]
    pixels, pixels_balanced = _counts(training, len(class_map)).sum(axis=0), rule.balanced_pixels(training)
    classes = []
    for label in rule.class_order:
        belonging = {split: int((owners[here] == label).sum()) for split, here in of_split.items()}
        classes.append(
            ClassCounts(
                class_name=class_map.names[label - 1],
                rate=rule.rates[label - 1],
                patches=belonging,
                patches_balanced=belonging["train"] * (1 + rule.rates[label - 1]),
                pixels=int(pixels[label - 1]),
                pixels_balanced=int(pixels_balanced[label - 1]),
            )
        )
    return BalanceCounts(classes=tuple(classes))


def class_balanced_draws(
    patches: Sequence[PatchRef],
    length: int,
    seed: int,
    epoch: int,
    min_fraction: float = MIN_CLASS_FRACTION,
    often: NDArray[np.float64] | None = None,
) -> list[Draw]:
    """The classes take turns; each turn draws a patch in which more than ``min_fraction`` shows that class.

    A class that fills no patch so far takes all patches that contain it; one that none contains has no turn.

    Args:
        patches: The patch index.
        length: Number of draws.
        seed: Seed of the run.
        epoch: Number of the epoch; each epoch has its own order.
        min_fraction: Part of the target's pixels.
        often: (P,) how often each patch comes in the turns of a class in which others come once; once unless given.
    """
    rng = np.random.default_rng([seed, epoch])
    pools = _pools(patches, min_fraction)
    turns = _endless_permutations(len(pools), length, rng)
    decks: list[NDArray[np.int64]] = [
        _endless_permutations(pool.size, int((turns == c).sum()), rng, None if often is None else often[pool])
        for c, pool in enumerate(pools)
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
        patches: The patch index.
        min_fraction: Part of the target's pixels.
    """
    pools = _pools(patches, min_fraction)
    probabilities = np.zeros(len(patches))
    for pool in pools:
        probabilities[pool] += 1 / (len(pools) * pool.size)
    return probabilities


def shown_classes(
    patches: Sequence[PatchRef], n_classes: int, min_fraction: float = MIN_CLASS_FRACTION
) -> NDArray[np.bool_]:
    """Which classes patches show: (P, C).

    Args:
        patches: The patch index.
        n_classes: C.
        min_fraction: Part of the target's pixels that a class must exceed.
    """
    counts = np.array([patch.label_counts for patch in patches], np.int64).reshape(-1, n_classes + 1)
    return np.asarray(counts[:, 1:] > min_fraction * counts.sum(axis=1, keepdims=True))


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
    """The patches from which each class that occurs draws when its turn comes."""
    counts = np.array([patch.label_counts for patch in patches])
    threshold = min_fraction * counts[0].sum()
    pools = [np.flatnonzero(c > threshold) for c in counts.T[1:]]
    return [p if p.size else np.flatnonzero(c > 0) for p, c in zip(pools, counts.T[1:], strict=True) if c.any()]


def _counts(patches: Sequence[PatchRef], n_classes: int) -> NDArray[np.int64]:
    """Labelled pixels of each class in each patch: (P, C)."""
    return np.array([patch.label_counts[1:] for patch in patches], np.int64).reshape(-1, n_classes)


def _owners(counts: NDArray[np.int64], class_order: Sequence[int]) -> NDArray[np.int64]:
    """Label of the first class of the order that each patch has: (P,)."""
    order = np.array(class_order, np.int64)
    return np.asarray(order[np.argmax(counts[:, order - 1] > 0, axis=1)])


def _endless_permutations(
    n: int, length: int, rng: np.random.Generator, often: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """``length`` numbers below ``n``: one random permutation after the other.

    Args:
        n: How many numbers there are.
        length: How many are wanted.
        rng: Source of chance.
        often: (n,) how often each comes in a permutation, at least 1; what is left of a whole number is the chance to
            come once more. Once unless given.
    """
    if often is None:
        rounds = max(1, -(-length // n))
        return np.concatenate([rng.permutation(n) for _ in range(rounds)])[:length]
    passes: list[NDArray[np.int64]] = []
    while sum(map(len, passes)) < max(1, length):
        times = np.floor(often + rng.random(n)).astype(np.int64)
        passes.append(rng.permutation(np.repeat(np.arange(n), times)))
    return np.concatenate(passes)[:length]


def _seeded(order: NDArray[np.int64], rng: np.random.Generator) -> list[Draw]:
    seeds = rng.integers(2**63 - 1, size=order.size)
    return [Draw(int(patch), int(seed)) for patch, seed in zip(order, seeds, strict=True)]
