"""Options of `dmmn-qp evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """How predictions are compared.

    Attributes:
        maps: ``PREDICTED=TRUTH`` for predicted classes that are named otherwise than the true ones.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses.
        mixed_models: Whether the slides may be predicted by different models.
    """

    maps: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skip_unpredicted: bool = False
    mixed_models: bool = False
