"""Connected areas of a class that were found, strip by strip: what is complete is judged and forgotten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dmmn_qp.labels.tallies import quotient
from dmmn_qp.specs import LabelArray

MATCH_IOU: Final = 0.5
"""Areas match above it, so that none has two matches."""

ObjectSums = NDArray[np.float64]
"""(..., C, 4): of each class the true areas, the predicted ones, the matches, and the sum of the matches' IoU."""

Integers = NDArray[np.int64]

_NONE: Final = np.zeros(0, np.int64)


@dataclass(slots=True)
class ObjectCounter:
    """Counts the areas of one slide: pixels that touch at a side are of one. Memory grows with a strip, not the slide.

    Attributes:
        classes: Number of classes.
        min_px: Areas of fewer pixels are none.
        sums: What has been counted.
    """

    classes: int
    min_px: float
    sums: ObjectSums = field(init=False)
    _of_class: dict[int, _ClassCounter] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.classes, 4))

    def add(self, true: LabelArray, found: LabelArray) -> None:
        """Adds the strip below those before.

        Args:
            true: (rows, columns) true classes from 1 on, 0 where nothing counts.
            found: Predicted ones: 0 at the same pixels, and more than ``classes`` for what is no true class.
        """
        present = np.zeros(256, np.bool_)
        for labels in (true, found):
            present |= cv2.calcHist([labels], [0], None, [256], [0, 256]).ravel() > 0
        for label in range(1, self.classes + 1):
            if present[label] or label in self._of_class:
                counter = self._of_class.setdefault(label, _ClassCounter(self.min_px))
                self.sums[label - 1] += counter.add(true == label, found == label)
                if counter.is_idle:
                    del self._of_class[label]

    def finish(self) -> ObjectSums:
        """Judges what reaches the last row, and returns what was counted."""
        for label, counter in self._of_class.items():
            self.sums[label - 1] += counter.finish()
        self._of_class.clear()
        return self.sums


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of set pixels in the rows of a mask, from its first row to its last.

    Attributes:
        starts: First pixel of each in the flat mask.
        ends: Pixel behind the last one.
    """

    starts: Integers
    ends: Integers

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> _Runs:
        """Finds the runs of a mask."""
        rows, columns = mask.shape
        edged = np.zeros((rows, columns + 1), np.bool_)
        edged[:, 1:] = mask
        flat = edged.ravel()
        ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if len(ends) % 2:
            ends = np.append(ends, flat.size)
        return cls(*(places - 1 - (places - 1) // (columns + 1) for places in (ends[::2], ends[1::2])))

    def touching(self, columns: int) -> tuple[Integers, Integers]:
        """Pairs of runs of which the second lies below the first, by number, in masks of so many columns."""
        first = np.searchsorted(self.ends, self.starts + columns, "right")
        count = np.searchsorted(self.starts, self.ends + columns, "left") - first
        upper = np.repeat(np.arange(len(count)), count)
        before = np.cumsum(count) - count
        return upper, np.arange(len(upper)) - before[upper] + first[upper]

    def at(self, places: Integers) -> Integers:
        """Number of the run that holds each pixel."""
        return np.searchsorted(self.starts, places, "right") - 1


@dataclass(slots=True)
class _Side:
    """Areas of one side that reach the last row.

    Attributes:
        last: Runs of the last row, as places in a row.
        of_last: Number of the area of each of these runs, from 1 on.
        areas: Pixels of each area so far; those of number 0 play no part.
    """

    last: _Runs = field(default_factory=lambda: _Runs(_NONE, _NONE))
    of_last: Integers = field(default_factory=lambda: _NONE)
    areas: Integers = field(default_factory=lambda: np.zeros(1, np.int64))

    def extended(self, runs: _Runs, shape: tuple[int, int]) -> tuple[Integers, Integers, Integers]:
        """Joins a strip's runs to the areas above.

        Args:
            runs: Those of the strip.
            shape: Its (rows, columns).

        Returns:
            New number of each area above (0 stays 0) and of each run, and the pixels of each new number.
        """
        rows, columns = shape
        above, here = len(self.areas) - 1, len(runs.starts)
        with_last = _Runs(
            np.concatenate([self.last.starts - columns, runs.starts]),
            np.concatenate([self.last.ends - columns, runs.ends]),
        )
        nodes = np.concatenate([self.of_last - 1, np.arange(here) + above])
        upper, lower = (nodes[ends] for ends in with_last.touching(columns))
        graph = coo_array((np.ones(len(upper), np.int8), (upper, lower)), shape=(above + here, above + here))
        joined, of = connected_components(graph, directed=False) if above + here else (0, _NONE)
        new = np.asarray(of, np.int64) + 1
        of_above, of_here = np.concatenate([[0], new[:above]]), new[above:]
        areas = np.zeros(joined + 1, np.int64)
        np.add.at(areas, of_above, self.areas)
        np.add.at(areas, of_here, runs.ends - runs.starts)
        areas[0] = 0
        first = (rows - 1) * columns
        in_last = runs.starts >= first
        self.last = _Runs(runs.starts[in_last] - first, runs.ends[in_last] - first)
        self.of_last = of_here[in_last]
        return of_above, of_here, areas

    def forget_last(self) -> None:
        """Takes the last row for the last of the slide."""
        self.last, self.of_last = _Runs(_NONE, _NONE), _NONE

    def keep(self, kept: NDArray[np.bool_], areas: Integers) -> Integers:
        """Keeps some areas and numbers them anew; returns the number of each, 0 for what is forgotten."""
        renumbered = np.where(kept, np.cumsum(kept), 0)
        self.areas = np.concatenate([[0], areas[kept]])
        self.of_last = renumbered[self.of_last]
        return renumbered

    def reaches(self, number: int) -> NDArray[np.bool_]:
        """Which of so many areas reach the last row."""
        reached = np.zeros(number, np.bool_)
        reached[self.of_last] = True
        return reached


@dataclass(slots=True)
class _ClassCounter:
    """Areas of one class, and the pixels that a true and a predicted one share."""

    min_px: float
    _true: _Side = field(default_factory=_Side)
    _found: _Side = field(default_factory=_Side)
    _shared: _Shared = field(default_factory=lambda: _Shared(_NONE, _NONE, _NONE, _NONE))

    @property
    def is_idle(self) -> bool:
        """Whether no area reaches the last row."""
        return len(self._true.areas) == len(self._found.areas) == 1 and not len(self._shared.pixels)

    def add(self, true: NDArray[np.bool_], found: NDArray[np.bool_]) -> ObjectSums:
        """Adds a strip; returns what of the areas is complete."""
        true_runs, found_runs, both = (_Runs.of(mask) for mask in (true, found, true & found))
        true_above, true_here, true_areas = self._true.extended(true_runs, true.shape)
        found_above, found_here, found_areas = self._found.extended(found_runs, found.shape)
        numbers = true_here[true_runs.at(both.starts)], found_here[found_runs.at(both.starts)]
        here = _Shared.counted(*numbers, both.ends - both.starts, len(found_areas))
        earlier = self._shared.renumbered(true_above, found_above)
        shared = _Shared.joined(earlier, here, len(found_areas))
        return self._judge(shared, true_areas, found_areas)

    def finish(self) -> ObjectSums:
        """Judges all that is left."""
        for side in (self._true, self._found):
            side.forget_last()
        return self._judge(self._shared, self._true.areas, self._found.areas)

    def _judge(self, shared: _Shared, true_areas: Integers, found_areas: Integers) -> ObjectSums:
        """Counts what is complete, and keeps what is not."""
        open_true, open_found = self._true.reaches(len(true_areas)), self._found.reaches(len(found_areas))
        true_px = np.where(shared.true > 0, true_areas[shared.true], shared.complete)
        found_px = np.where(shared.found > 0, found_areas[shared.found], shared.complete)
        iou = shared.pixels / (true_px + found_px - shared.pixels)
        is_match = (iou > MATCH_IOU) & (np.minimum(true_px, found_px) >= self.min_px)
        wait_true, wait_found = open_true[shared.true], open_found[shared.found]
        matched = iou[is_match & ~wait_true & ~wait_found]
        # Where one of the two is complete, what they share is too, and the other only grows.
        kept = (wait_true & wait_found) | ((wait_true ^ wait_found) & (iou > MATCH_IOU))
        true_numbers, found_numbers = self._true.keep(open_true, true_areas), self._found.keep(open_found, found_areas)
        self._shared = _Shared(
            true_numbers[shared.true][kept],
            found_numbers[shared.found][kept],
            shared.pixels[kept],
            np.where(wait_true, found_px, true_px)[kept],
        )
        sizes = true_areas[~open_true], found_areas[~open_found]
        counts = [np.count_nonzero(areas >= max(self.min_px, 1)) for areas in sizes]
        return np.array([*counts, len(matched), matched.sum()], np.float64)


@dataclass(frozen=True, slots=True)
class _Shared:
    """Pixels that a true and a predicted area share.

    Attributes:
        true: Number of the true one; 0 where it is complete.
        found: Number of the predicted one; 0 likewise, never both.
        pixels: What they share.
        complete: Pixels of the complete one, if any.
    """

    true: Integers
    found: Integers
    pixels: Integers
    complete: Integers

    @classmethod
    def counted(cls, true: Integers, found: Integers, lengths: Integers, found_count: int) -> _Shared:
        """Adds up runs of pixels by the numbers of their areas."""
        keys, of = np.unique(true * found_count + found, return_inverse=True)
        pixels = np.zeros(len(keys), np.int64)
        np.add.at(pixels, of, lengths)
        return cls(keys // found_count, keys % found_count, pixels, np.zeros(len(keys), np.int64))

    @classmethod
    def joined(cls, one: _Shared, other: _Shared, found_count: int) -> _Shared:
        """Adds what is of the same two areas; what is shared with a complete one stays by itself."""
        alone = (one.true == 0) | (one.found == 0)
        true, found = (np.concatenate([getattr(one, name)[~alone], getattr(other, name)]) for name in ("true", "found"))
        keys, of = np.unique(true * found_count + found, return_inverse=True)
        pixels = np.zeros(len(keys), np.int64)
        np.add.at(pixels, of, np.concatenate([one.pixels[~alone], other.pixels]))
        return cls(
            np.concatenate([one.true[alone], keys // found_count]),
            np.concatenate([one.found[alone], keys % found_count]),
            np.concatenate([one.pixels[alone], pixels]),
            np.concatenate([one.complete[alone], np.zeros(len(keys), np.int64)]),
        )

    def renumbered(self, true: Integers, found: Integers) -> _Shared:
        """The same with new numbers."""
        return _Shared(true[self.true], found[self.found], self.pixels, self.complete)


def object_f1(sums: NDArray[Any]) -> NDArray[np.float64]:
    """(..., C) harmonic mean of the matched parts of true and predicted areas; NaN for a class without a true one."""
    return np.where(sums[..., 0] > 0, quotient(2 * sums[..., 2], sums[..., 0] + sums[..., 1]), np.nan)


def matched_iou(sums: NDArray[Any]) -> NDArray[np.float64]:
    """(..., C) mean IoU of the matches; NaN for a class without any."""
    return quotient(sums[..., 3], sums[..., 2])
