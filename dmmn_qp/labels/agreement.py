"""How well two label maps agree, where neither is the truth: figures that stay when both change places."""

from __future__ import annotations

import numpy as np

from dmmn_qp.labels.tallies import Floats, Tallies


def either_dice(tallies: Tallies) -> Floats:
    """(..., C) twice the shared pixels over the sum of both; NaN for a class that neither has.

    Args:
        tallies: (..., 3, C), see `dmmn_qp.labels.tallies.tallies_of`.
    """
    shared, first, second = _parts(tallies)
    return _over(2 * shared, first + second)


def either_iou(tallies: Tallies) -> Floats:
    """(..., C) intersection over union, likewise."""
    shared, first, second = _parts(tallies)
    return _over(shared, first + second - shared)


def agreement(tallies: Tallies) -> Floats:
    """(...) share of the pixels that both give one class, of those to which both give any."""
    shared, first, _ = _parts(tallies)
    return _over(shared.sum(axis=-1), first.sum(axis=-1))


def _parts(tallies: Tallies) -> tuple[Floats, Floats, Floats]:
    shared, first, second = (tallies[..., i, :].astype(np.float64) for i in range(3))
    return shared, first, second


def _over(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator == 0, np.nan, np.asarray(numerator / denominator))
