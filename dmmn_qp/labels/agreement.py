"""How well two label maps agree, where neither is the truth: figures that stay when both change places."""

from __future__ import annotations

from dmmn_qp.labels.tallies import Floats, Tallies, parts, quotient


def either_dice(tallies: Tallies) -> Floats:
    """(..., C) twice the shared pixels over the sum of both; NaN for a class that neither has.

    Args:
        tallies: (..., 3, C), see `dmmn_qp.labels.tallies.tallies_of`.
    """
    shared, first, second = parts(tallies)
    return quotient(2 * shared, first + second)


def either_iou(tallies: Tallies) -> Floats:
    """(..., C) intersection over union, likewise."""
    shared, first, second = parts(tallies)
    return quotient(shared, first + second - shared)
