"""How often an outline crosses itself, and whether it runs along itself: bounded, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

MAX_CROSSINGS: Final = 200_000
"""What repairing takes grows with the crossings: this many take seconds."""

MAX_PAIRS: Final = 20_000_000
"""Most pairs of edges with touching boxes that are looked at."""

_PAIRS_AT_ONCE: Final = 1_000_000
_NEAR_PX: Final = 1e-6

Points = NDArray[np.float64]


TOO_TANGLED: Final = "outline that crosses itself too often to be repaired"


class TangledError(ValueError):
    """An outline that crosses itself more often than anybody draws."""


def count_crossings(ring: Points) -> tuple[int, bool]:
    """Looks at all pairs of edges that may meet.

    Args:
        ring: (vertices, 2) a closed outline.

    Returns:
        How many pairs of edges cross, and whether any two run along each other for more than a point.

    Raises:
        TangledError: They cross too often, or there are too many pairs to look at.
    """
    long = (ring[:-1] != ring[1:]).any(axis=1)  # a point that is repeated is no edge
    starts, ends = ring[:-1][long], ring[1:][long]
    crossings = pairs = 0
    overlap = False
    for i, j in _pairs(starts, ends):
        pairs += len(i)
        a, b, c, d = starts[i], ends[i], starts[j], ends[j]
        of_c, of_d = _side(a, b, c), _side(a, b, d)
        crossings += int(np.count_nonzero((of_c * of_d < 0) & (_side(c, d, a) * _side(c, d, b) < 0)))
        if crossings > MAX_CROSSINGS or pairs > MAX_PAIRS:
            raise TangledError
        if not overlap:
            along, length = b - a, np.hypot(*(b - a).T)
            near = np.maximum(np.abs(of_c), np.abs(of_d)) <= _NEAR_PX * length
            a, along, length, c, d = a[near], along[near], length[near], c[near], d[near]
            of_c, of_d = ((along * (point - a)).sum(axis=1) for point in (c, d))
            shared = np.minimum(np.maximum(of_c, of_d), length**2) - np.maximum(np.minimum(of_c, of_d), 0)
            overlap = bool((shared > _NEAR_PX * length).any())
    return crossings, overlap


def _pairs(starts: Points, ends: Points) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of edges whose boxes touch, each once, so many at a time."""
    edges = shapely.linestrings(np.stack([starts, ends], axis=1))
    tree = shapely.STRtree(edges)
    step = max(1, _PAIRS_AT_ONCE // max(1, len(edges)))
    for first in range(0, len(edges), step):
        i, j = tree.query(edges[first : first + step])
        i = i + first
        yield i[i < j], j[i < j]


def _side(a: Points, b: Points, point: Points) -> NDArray[np.float64]:
    """On which side of the line from a to b points lie: twice the area of the triangles."""
    side: NDArray[np.float64] = (b[:, 0] - a[:, 0]) * (point[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (
        point[:, 0] - a[:, 0]
    )
    return side
