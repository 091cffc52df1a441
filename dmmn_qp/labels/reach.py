"""How far around a target training may look."""

from __future__ import annotations

from math import sqrt

from dmmn_qp.specs import MAX_ZOOM

SIGMA_PX = 4.0
"""Standard deviation of a node's displacement in grid px, on the paper's widest field (section 2.3)."""

PAPER_FIELD_PX = 1024
"""Side of the paper's widest field in grid px."""

MAX_SIGMAS = 4.0
"""Displacements of nodes are cut here, because what a patch may see must have a bound."""

MAX_DISPLACEMENT = MAX_SIGMAS * SIGMA_PX * 1.25**2 / PAPER_FIELD_PX
"""No point moves further on an axis, in sides of the widest field: cubic weights add up to 1.25 on each of two axes."""

MAX_AUGMENTED_FIELD = MAX_ZOOM * sqrt(2) * (1 + 2 * MAX_DISPLACEMENT)
"""Side of the square that any rotation, zoom and elastic deformation may show of a field, in sides of the field."""

SAMPLING_MARGIN_PX = 2
"""Pixels of a magnification beyond that square which count all the same: for sampling, and for a field that is
resampled from the slide's pixels."""


def augmented_reach_px(size_px: int, magnifications: int) -> float:
    """How far from its centre, on each axis and in grid px, an augmented patch may ever see.

    Args:
        size_px: Side of the patch at each magnification.
        magnifications: Number of magnifications.
    """
    return (size_px * MAX_AUGMENTED_FIELD / 2 + SAMPLING_MARGIN_PX) * 2.0 ** (magnifications - 1)
