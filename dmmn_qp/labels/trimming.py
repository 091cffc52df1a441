"""Outlines shortened to what a window sees of them, without moving a single edge that it sees."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(vertices, 2) x and y in level-0 px, closed: the last is the first."""


def trimmed(rings: Iterable[Ring], axis: int, low: float, high: float) -> list[Ring]:
    """Rings without the vertices that play no part between two limits.

    Of a run of vertices beyond one limit, the first and the last stay: the line between them lies beyond it as well,
    and crosses each row and column as often as the run does, odd or even. Edges that reach between the limits stay as
    they are, to the bit, so that filling by the even-odd rule gives the same pixels there. (Cutting at the limits
    would put new vertices onto these edges, and round.)

    Args:
        rings: Closed rings of one polygon.
        axis: 0 for limits of x, 1 for limits of y.
        low: The lower limit.
        high: The upper limit.

    Returns:
        The rings that may reach between the limits, closed.
    """
    found: list[Ring] = []
    for whole in rings:
        values = whole[:-1, axis]
        below, above = values < low, values > high
        if below.all() or above.all():
            continue
        idle = _within_run(below) | _within_run(above)
        seen = whole[:-1][~idle]
        ring = np.concatenate([seen, seen[:1]]) if idle.any() else whole
        if len(ring) > 3:  # else it runs to a point and back, and covers nothing
            found.append(ring)
    return found


def _within_run(beyond: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which vertices of a ring are beyond a limit together with both their neighbours."""
    idle: NDArray[np.bool_] = beyond & np.roll(beyond, 1) & np.roll(beyond, -1)
    return idle
