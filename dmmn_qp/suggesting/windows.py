"""Windows over the tissue of a slide, and what can be counted in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.regions import Region
from dmmn_qp.slides.tissue import part_covered
from dmmn_qp.suggesting.cells import SlideCells

STEPS: Final = 4
"""Windows begin at every so many parts of their side, so that one can be laid about what is unsure."""

UNSURE: Final = 0.8
"""Part of a window's tissue beyond which the rest is what is said to be unsure. The entropy where it ends tells errors
better than the mean, which asks as well how much is sure around them (docs/suggest.md); the mean tells a window that is
unsure all over from one that is so in a fifth. So their mean is taken.
"""

_SEEN: Final = 0.15
"""Part of the unsure pixels that a class must have to be named as one of those that the model is unsure between."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A place that may be suggested.

    Attributes:
        slide_id: The slide.
        region: In level-0 px of QuPath's frame.
        entropy: How unsure the model is of its tissue, 0 to 1: the mean of the entropy's mean and of its upper quantile
            (`UNSURE`).
        shares: Predicted classes by their part of its tissue, the largest first.
        unsure: The classes that are predicted where the model is least sure, the most frequent first.
    """

    slide_id: str
    region: Region
    entropy: float
    shares: tuple[tuple[str, float], ...]
    unsure: tuple[str, ...]

    @property
    def main_class(self) -> str:
        """The class that most of it is predicted as."""
        return self.shares[0][0]


def starts(length_px: int, side_px: int) -> NDArray[np.int64]:
    """Where windows begin along a side of a slide: every `STEPS`th part of their side, and one that ends with it."""
    free = max(0, length_px - side_px)
    step = max(1, side_px // STEPS)
    return np.unique(np.append(np.arange(0, free + 1, step), free)).astype(np.int64)


def windows_of(
    slide_id: str,
    cells: SlideCells,
    names: tuple[str, ...],
    size_px: tuple[int, int],
    side_px: int,
    *,
    min_tissue: float,
    max_annotated: float,
) -> list[Window]:
    """The windows of a slide, row by row.

    Args:
        slide_id: The slide.
        cells: What is there.
        names: Names of the predicted classes, label 1 first.
        size_px: (width, height) of the slide in level-0 px.
        side_px: Side of a window in level-0 px; of a smaller slide, its own.
        min_tissue: Part of a window that must be tissue.
        max_annotated: Part of it that may be annotated.
    """
    width, height = min(side_px, size_px[0]), min(side_px, size_px[1])
    lefts, tops = starts(size_px[0], width), starts(size_px[1], height)
    bounds = _Bounds.of(tops, height, lefts, width, cells)
    tissue, annotated = bounds.mean(cells.tissue), bounds.mean(cells.annotated)
    wanted = (tissue >= max(min_tissue, 1e-9)) & (annotated <= max_annotated)
    found = []
    for row, column in np.argwhere(wanted).tolist():
        part = bounds.part(row, column)
        here = cells.tissue[part]
        labels, entropy = cells.labels[part][here], cells.entropy[part][here]
        counts = np.bincount(labels, minlength=len(names) + 1)[1 : len(names) + 1]
        if not counts.sum():
            continue
        least = float(np.quantile(entropy, UNSURE))
        unsure = np.bincount(labels[entropy >= least], minlength=len(names) + 1)
        found.append(
            Window(
                slide_id,
                Region(int(lefts[column]), int(tops[row]), width, height),
                (least + float(entropy.mean())) / 2 / 255,
                tuple((names[i], float(counts[i] / counts.sum())) for i in _largest_first(counts)),
                tuple(
                    names[i]
                    for i in _largest_first(unsure[1 : len(names) + 1])
                    if unsure[i + 1] >= _SEEN * unsure.sum()
                ),
            )
        )
    return found


def _largest_first(counts: NDArray[np.int64]) -> list[int]:
    """Places of the counts above 0, the largest first, equal ones in their order."""
    return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] > 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
    """Rows and columns of cells that windows cover, end exclusive."""

    top: NDArray[np.int64]
    bottom: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    @classmethod
    def of(
        cls, tops: NDArray[np.int64], height: int, lefts: NDArray[np.int64], width: int, cells: SlideCells
    ) -> _Bounds:
        rows, columns = cells.labels.shape
        top, left = (np.round(start / cells.cell_px).astype(np.int64) for start in (tops, lefts))
        bottom, right = (np.round(ends / cells.cell_px).astype(np.int64) for ends in (tops + height, lefts + width))
        top, left = np.minimum(top, rows - 1), np.minimum(left, columns - 1)
        return cls(top, np.clip(bottom, top + 1, rows), left, np.clip(right, left + 1, columns))

    def part(self, row: int, column: int) -> tuple[slice, slice]:
        """The cells of one window."""
        return slice(self.top[row], self.bottom[row]), slice(self.left[column], self.right[column])

    def mean(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Part of each window that a mask covers."""
        return part_covered(mask, self.top, self.bottom, self.left, self.right)
