"""Labels of one um/px on the pixels of another: each pixel has the label of that in which its centre lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.folders.evaluation import Ground
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.vectors.sources import LabelSource

_ROWS_AT_ONCE: Final = 512
"""Rows of the source that are read together: two rows of tiles."""

_ROUNDING: Final = 1e-9


class ResampledLabels:
    """Labels on other pixels than their own, taken and not averaged.

    Pixel i of both lies in level-0 px from i to i + 1 times its downsample. A centre on the border between two source
    pixels lies in the right or lower one; what the source does not reach to has the label of its last pixel.

    Args:
        source: The labels.
        downsample: Level-0 px per pixel of these.
        ground: The pixels on which they are wanted.
    """

    def __init__(self, source: LabelSource, downsample: float, ground: Ground) -> None:
        self._source, self._shape = source, ground.shape
        self._rows, self._columns = (
            _taken(there, own, ground.downsample / downsample)
            for there, own in zip(ground.shape, source.shape, strict=True)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the pixels on which they are wanted."""
        return self._shape

    def read(self, window: Region) -> LabelArray:
        """Labels of a window, 0 outside: (height, width) uint8; of the source so many rows at a time."""
        labels = np.full((window.height, window.width), UNLABELLED, np.uint8)
        inside = window.intersection(Region(0, 0, self._shape[1], self._shape[0]))
        if inside is None:
            return labels
        columns = self._columns[inside.x : inside.right]
        left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
        for top, rows in _chunks(self._rows[inside.y : inside.bottom]):
            first = int(rows[0])
            found = self._source.read(Region(left, first, width, int(rows[-1]) - first + 1))
            y, x = inside.y - window.y + top, inside.x - window.x
            labels[y : y + len(rows), x : x + inside.width] = found[np.ix_(rows - first, columns - left)]
        return labels


def _taken(there: int, own: int, ratio: float) -> NDArray[np.int64]:
    """(there,) which of ``own`` source pixels each is taken from, along one side; it is ``ratio`` of them wide."""
    centres = (np.arange(there) + 0.5) * ratio
    taken: NDArray[np.int64] = np.minimum(np.floor(centres + _ROUNDING).astype(np.int64), own - 1)
    return taken


def _chunks(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Rows of the source in parts that span no more than may be read together, and where each part begins."""
    begin = 0
    while begin < len(rows):
        end = max(begin + 1, int(np.searchsorted(rows, rows[begin] + _ROWS_AT_ONCE)))
        yield begin, rows[begin:end]
        begin = end


@contextmanager
def open_resampled(
    opened: Callable[[], AbstractContextManager[LabelSource]], downsample: float, ground: Ground
) -> Iterator[LabelSource]:
    """Opens labels on other pixels than their own.

    Args:
        opened: Opens them.
        downsample: Level-0 px per pixel of them.
        ground: The pixels on which they are wanted.
    """
    with opened() as source:
        yield ResampledLabels(source, downsample, ground)
