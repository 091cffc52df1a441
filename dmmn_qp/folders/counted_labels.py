"""The labels of a slide that count, read as they lie on disk."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.folders.evaluation import LabelSource
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray


class CountedLabels:
    """A `LabelSource`, open: a context manager.

    What does not count, because the source gives it no class or because it is of another origin, is 0.

    Args:
        source: The source.

    Attributes:
        values: Class of each value that counts.

    Raises:
        DatasetError: A raster is missing or damaged.
    """

    def __init__(self, source: LabelSource) -> None:
        self.values = {value: name for value, name in source.values.items() if value != UNLABELLED}
        self._counts = np.zeros(256, np.bool_)
        self._counts[[*self.values]] = True
        self._origin_value = source.origin_value
        self._origins: LabelRaster | None = None
        with ExitStack() as stack:
            self._labels = stack.enter_context(LabelRaster(Path(source.path)))
            if source.origin_path is not None:
                self._origins = stack.enter_context(LabelRaster(Path(source.origin_path)))
            self._opened = stack.pop_all()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._labels.shape

    def read(self, window: Region) -> LabelArray:
        """Labels of a window, in pixels of the raster; 0 outside."""
        labels = self._labels.read(window)
        return self._counted(labels, None if self._origins is None else self._origins.read(window))

    def read_reduced(self, longest_px: int) -> LabelArray:
        """Every n-th pixel, so that the longer side has at most ``longest_px``."""
        labels = self._labels.read_reduced(longest_px)
        return self._counted(labels, None if self._origins is None else self._origins.read_reduced(longest_px))

    def _counted(self, labels: LabelArray, origins: NDArray[np.uint8] | None) -> LabelArray:
        counts = self._counts[labels]
        if origins is not None:
            counts &= origins == self._origin_value
        return np.where(counts, labels, np.uint8(UNLABELLED))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()
