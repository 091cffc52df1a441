"""How far a slide is from the slides that a model was trained on: the arithmetic, and what the model's card keeps.

A slide is described by vectors, one for each tile of its tissue (`dmmn_qp.features.tissue`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dmmn_qp.specs import FileModel

DomainKind = Literal["color", "color and encoder"]
"""What the vectors of tiles hold: the colour of their tissue, and perhaps what a pretrained encoder sees there."""

COLOR_NUMBERS = 6
"""Mean and standard deviation of the optical density, red, green and blue."""

ENCODER_NUMBERS = 24
"""Numbers to which the means of an encoder's maps are brought."""

MOST_SLIDES = 40
"""Training slides that are described."""

SLIDES_FOR_A_VERDICT = 5
"""Below, what slides differ by among themselves is not known well enough to draw a line."""

CONFIDENCE = 0.99
"""Part of the slides that are like those of the training and shall be within the threshold."""

TILES_FOR_A_SLIDE = 12
"""Tiles from which on their median is nearly that of the whole slide."""

_MOST_TILES = 10_000
_LARGEST = 1e6
_LEAST_VARIANCE = 1e-4
"""Of an optical density: a deviation of 0.01, which is within what a scanner changes from day to day."""

_LEAST_PART = 1e-3
"""Deviation of a number of the encoder that counts as none, as part of the length of its mean vector."""

_DIGITS = 9

Value = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]

Distance = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]

Vectors = NDArray[np.float64]
"""(tiles, numbers) float64: a slide."""


class TrainingDomain(FileModel):
    """What a card keeps of the tissue of the training slides; it names none of them.

    Attributes:
        kind: What the vectors of tiles hold.
        slides: Training slides that were described.
        tiles: Tiles of all of them.
        mean: Mean vector; each slide counts the same.
        covariance: Covariance about it, shrunk towards its diagonal: the lower triangle, row by row.
        among_themselves: Distance of each slide from all others, ascending; empty of a single slide.
        threshold: Distance from which on a slide is unlike them; None where they are too few for a verdict.
        tile_threshold: The same for a slide of few tiles: what `CONFIDENCE` of the single tiles of slides that were
            left out stay within, and never below the threshold.
    """

    kind: DomainKind
    slides: int = Field(ge=1, le=MOST_SLIDES)
    tiles: int = Field(ge=2, le=_MOST_TILES)
    mean: tuple[Value, ...] = Field(min_length=COLOR_NUMBERS, max_length=COLOR_NUMBERS + ENCODER_NUMBERS)
    covariance: tuple[Value, ...] = Field(max_length=(COLOR_NUMBERS + ENCODER_NUMBERS + 1) ** 2 // 2)
    among_themselves: tuple[Distance, ...] = Field(default=(), max_length=MOST_SLIDES)
    threshold: Distance | None = None
    tile_threshold: Distance | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        numbers = len(self.mean)
        if len(self.covariance) != numbers * (numbers + 1) // 2:
            raise ValueError(
                f"covariance must have {numbers * (numbers + 1) // 2} values for {numbers} of mean, not "
                f"{len(self.covariance)}"
            )
        if (numbers == COLOR_NUMBERS) != (self.kind == "color"):
            raise ValueError(f"a mean of {numbers} numbers is not of the kind {self.kind!r}")
        try:
            np.linalg.cholesky(self._matrix())
        except np.linalg.LinAlgError:
            raise ValueError("covariance must be positive definite") from None
        return self

    def _matrix(self) -> NDArray[np.float64]:
        numbers = len(self.mean)
        matrix = np.zeros((numbers, numbers))
        matrix[np.tril_indices(numbers)] = self.covariance
        return matrix + np.tril(matrix, -1).T

    @property
    def largest_among_themselves(self) -> float | None:
        """Distance of the training slide that is least like the others; None of a single slide."""
        return max(self.among_themselves, default=None)

    def distance(self, vectors: Vectors) -> float:
        """How far a slide is from the training slides.

        Args:
            vectors: (tiles, numbers), at least one tile.

        Returns:
            The median over its tiles of their Mahalanobis distance from the mean, divided by the root of the number of
            numbers: about 1 for a tile of the training slides.

        Raises:
            ValueError: There is no tile, or its numbers are not those of the card, or not finite.
        """
        return _median(_distances(vectors, np.asarray(self.mean), self._matrix()))

    def judge(self, vectors: Vectors) -> FromTraining | None:
        """How far a slide is from the training slides, and what that means, to three places.

        Args:
            vectors: (tiles, numbers).

        Returns:
            None for a slide without a tile.

        Raises:
            ValueError: Its numbers are not those of the card, or not finite.
        """
        if not len(vectors):
            return None
        threshold = self.threshold if len(vectors) >= TILES_FOR_A_SLIDE else self.tile_threshold
        return FromTraining(round(self.distance(vectors), 3), None if threshold is None else round(threshold, 3))


@dataclass(frozen=True, slots=True)
class FromTraining:
    """How far a slide is from the training slides of a model.

    Attributes:
        distance: `TrainingDomain.distance`.
        threshold: Distance from which on a slide of so many tiles is unlike them; None where there is no verdict.
    """

    distance: float
    threshold: float | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether it is unlike them."""
        return self.threshold is not None and self.distance > self.threshold


def domain_of(slides: Sequence[Vectors], kind: DomainKind) -> TrainingDomain | None:
    """What a card keeps of training slides.

    Args:
        slides: Their vectors; those without a tile do not count.
        kind: What the vectors hold.

    Returns:
        None where they have no two tiles.
    """
    known = [vectors for vectors in slides if len(vectors)]
    if sum(map(len, known)) < 2:
        return None
    mean, covariance = fitted(known)
    distances: list[float] = []
    of_tiles: list[float] = []
    for left_out, vectors in enumerate(known):
        others = [*known[:left_out], *known[left_out + 1 :]]
        if sum(map(len, others)) >= 2:
            of_own = _distances(vectors, *fitted(others))
            distances.append(_median(of_own))
            of_tiles.extend(of_own.tolist())
    distances.sort()
    threshold = threshold_of(distances)
    single = None if threshold is None else max(threshold, min(_LARGEST, float(np.quantile(of_tiles, CONFIDENCE))))
    return TrainingDomain(
        kind=kind,
        slides=len(known),
        tiles=sum(map(len, known)),
        mean=tuple(_rounded(mean)),
        covariance=tuple(_rounded(covariance[np.tril_indices(len(mean))])),
        among_themselves=tuple(_rounded(distances)),
        threshold=threshold,
        tile_threshold=single,
    )


def threshold_of(distances: Sequence[float]) -> float | None:
    """The distance from which on a slide is unlike the training slides.

    The largest distance that was found among them will not do: of n + 1 slides of one kind the new one is the most
    distant with probability 1 / (n + 1), a false alarm for every sixth slide where five were trained on. Distances are
    positive and skewed, so their logarithms are taken as normal, and the threshold is what the next of them stays below
    with a probability of `CONFIDENCE`: mean + t s sqrt(1 + 1 / n), with Student's t of n - 1 degrees of freedom, as
    mean and deviation are themselves known from n distances only. It is never below the largest that was found. Each
    was measured from one slide less than new slides are, which errs towards silence.

    Args:
        distances: Of each training slide from all others.

    Returns:
        None for fewer than `SLIDES_FOR_A_VERDICT`.
    """
    n = len(distances)
    if n < SLIDES_FOR_A_VERDICT:
        return None
    logarithms = [math.log(max(distance, 1e-6)) for distance in distances]
    t = _student(CONFIDENCE, n - 1)
    bound = fmean(logarithms) + t * stdev(logarithms) * math.sqrt(1 + 1 / n)
    return _rounded([min(_LARGEST, max(math.exp(min(bound, 50.0)), *distances))])[0]


def fitted(slides: Sequence[Vectors]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and shrunk covariance of the tiles of some slides, each slide of which counts the same.

    The covariance keeps its diagonal; all else is multiplied by tiles / (tiles + numbers), because that many tiles tell
    so much of it. A least variance is added, so that slides all of one colour have a covariance too.
    """
    joined = np.concatenate(slides)
    tiles, numbers = joined.shape
    weights = np.concatenate([np.full(len(vectors), 1 / len(vectors)) for vectors in slides])
    mean = np.average(joined, axis=0, weights=weights)
    covariance = np.cov(joined.T, aweights=weights).reshape(numbers, numbers)
    diagonal = np.diag(np.diag(covariance))
    shrunk = diagonal + (covariance - diagonal) * tiles / (tiles + numbers)
    least = np.full(numbers, _LEAST_VARIANCE)
    least[COLOR_NUMBERS:] = _LEAST_PART**2 * max(float(np.square(mean[COLOR_NUMBERS:]).sum()), 1e-6)
    return mean, shrunk + np.diag(least)


def _distances(vectors: Vectors, mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance of each tile."""
    if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != len(mean):
        raise ValueError(f"vectors of shape {vectors.shape} do not fit a mean of {len(mean)} numbers")
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (vectors - mean).T)
    distances = np.asarray(np.sqrt(np.square(whitened).sum(axis=0) / len(mean)))
    if not np.isfinite(distances).all():
        raise ValueError("numbers of a tile are not finite")
    return distances


def _median(distances: NDArray[np.float64]) -> float:
    return float(min(np.median(distances), _LARGEST))


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution, by its expansion about the normal one: within 1 % from 4 degrees on."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """Values to so many digits that no machine's last bits are in the card."""
    return [float(f"{value:.{_DIGITS}g}") for value in values]
