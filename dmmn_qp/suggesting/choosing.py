"""Which windows are suggested: high scores, but not ten of one fold.

One after the other the window is chosen whose score is highest once it is made less by how much it is like those that
were chosen before: near them on the slide, alike in looks, on the same slide, of the same predicted class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.suggesting.looks import Vectors
from dmmn_qp.suggesting.options import REGIONS, SuggestOptions
from dmmn_qp.suggesting.windows import Window

_NEAR, _ALIKE, _SAME_SLIDE, _SAME_CLASS = 0.3, 0.3, 0.2, 0.2
"""Parts of what makes a window like others."""

_NEAR_SIDES: Final = 2.0
"""Distance in sides of a window at which nearness on the slide has fallen to exp(-1/2)."""

_APART_SIDES: Final = 0.45
"""Distance in sides of a window within which another one shows much the same; windows begin at quarters of it."""

_ALIKE_QUANTILE: Final = 0.1
"""Windows as near in looks as this part of all pairs count as alike."""


def budget(options: SuggestOptions, window_mm2: float) -> int:
    """How many windows may be chosen, at least one."""
    if options.mm2 is None:
        return options.regions or REGIONS
    return max(1, math.floor(options.mm2 / window_mm2 + 1e-9))


def choose(
    windows: Sequence[Window], total: NDArray[np.float64], looks: Vectors, count: int, spread: float
) -> list[int]:
    """Chooses windows that do not overlap.

    Args:
        windows: The windows, in an order that is always the same: of equal ones the first is chosen.
        total: (windows,) their scores.
        looks: (windows, numbers) what they look like; NaN where that is not known.
        count: How many to choose, at most.
        spread: Weight of being unlike those that were chosen.

    Returns:
        Numbers of the windows, the best first.
    """
    place = _Places(windows)
    apart = _alike_within(looks)
    free = np.ones(len(windows), np.bool_)
    near, alike = np.zeros(len(windows)), np.zeros(len(windows))
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        like = _NEAR * near + _ALIKE * alike + place.shares(chosen)
        value = np.where(free, np.round(total - spread * like, 9), -np.inf)
        best = int(np.argmax(value))
        chosen.append(best)
        free &= ~place.overlapping(best)
        near = np.maximum(near, place.nearness(best))
        if apart > 0:
            square = np.square(looks - looks[best]).mean(axis=1)
            alike = np.maximum(alike, np.nan_to_num(np.exp(-square / (2 * apart**2))))
    return chosen


def best_apart(windows: Sequence[Window], total: NDArray[np.float64], count: int) -> list[int]:
    """The windows of the highest scores, none within half a side of a better one; numbers of them, the best first.

    Else the many windows about one place that overlap would be all that is left of a large slide.
    """
    place, value = _Places(windows), np.array(total, float)
    limit = math.exp(-((_APART_SIDES / _NEAR_SIDES) ** 2) / 2)
    found: list[int] = []
    while len(found) < count and np.isfinite(value).any():
        found.append(int(np.argmax(value)))
        value[place.nearness(found[-1]) > limit] = -np.inf
    return found


class _Places:
    """Where windows are, and what they are predicted as."""

    def __init__(self, windows: Sequence[Window]) -> None:
        _, self._slide = np.unique([w.slide_id for w in windows], return_inverse=True)
        _, self._class = np.unique([w.main_class for w in windows], return_inverse=True)
        self._box = np.array([(w.region.x, w.region.y, w.region.right, w.region.bottom) for w in windows], float)

    def overlapping(self, one: int) -> NDArray[np.bool_]:
        """Which windows share pixels with one of them; it does so itself."""
        box, (left, top, right, bottom) = self._box, self._box[one]
        meets = (box[:, 0] < right) & (box[:, 2] > left) & (box[:, 1] < bottom) & (box[:, 3] > top)
        return np.asarray(meets & (self._slide == self._slide[one]))

    def nearness(self, one: int) -> NDArray[np.float64]:
        """How near windows are to one of them, 1 for itself; 0 on other slides."""
        centres = (self._box[:, :2] + self._box[:, 2:]) / 2
        sides = (self._box[one, 2:] - self._box[one, :2]).max() * _NEAR_SIDES
        square = np.square((centres - centres[one]) / sides).sum(axis=1)
        return np.asarray(np.exp(-square / 2) * (self._slide == self._slide[one]))

    def shares(self, chosen: Sequence[int]) -> NDArray[np.float64]:
        """What part of the chosen windows is on the slide of each window, and of its class."""
        if not chosen:
            return np.zeros(len(self._slide))
        slides, classes = (
            np.bincount(numbers[chosen], minlength=numbers.max() + 1)[numbers] for numbers in (self._slide, self._class)
        )
        return np.asarray((_SAME_SLIDE * slides + _SAME_CLASS * classes) / len(chosen))


def _alike_within(looks: Vectors) -> float:
    """The distance in looks within which windows count as alike; 0 where nothing is known of them."""
    known = looks[~np.isnan(looks).any(axis=1)]
    if len(known) < 2 or not known.shape[1]:
        return 0.0
    some = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), 200)).astype(int))]
    pairs = np.sqrt(np.square(some[:, None] - some[None]).mean(axis=2))[np.triu_indices(len(some), 1)]
    return float(np.quantile(pairs, _ALIKE_QUANTILE))
