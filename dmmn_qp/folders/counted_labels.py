"""The labels of a slide that count, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.folders.evaluation import LabelSource, PredictedLabelSource
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.resampled_labels import open_resampled
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.vectors.sources import LabelSource as Labels

OpenLabels = Callable[[], AbstractContextManager[Labels]]
"""Opens labels for reading, in windows that may leave the slide."""


class CountedLabels:
    """The labels of one slide, open: a context manager.

    What does not count is 0: values that the source gives no class, pixels of another origin, and what lies outside of
    the areas of interest.

    Args:
        source: What is told of them.
        opened: Opens them; None for the raster that the source names.
        region: What is not 0 where pixels count; None where all do.

    Attributes:
        values: Class of each value that counts.

    Raises:
        DatasetError: A raster is missing or damaged.
    """

    def __init__(self, source: LabelSource, opened: OpenLabels | None = None, region: Labels | None = None) -> None:
        self.values = {value: name for value, name in source.values.items() if value != UNLABELLED}
        self._counted_values = np.full(256, UNLABELLED, np.uint8)
        self._counted_values[[*self.values]] = [*self.values]
        self._origin_value, self._region = source.origin_value, region
        self._origins: LabelRaster | None = None
        with ExitStack() as stack:
            self._labels = stack.enter_context((opened or partial(LabelRaster, Path(source.path)))())
            if source.origin_path is not None:
                self._origins = stack.enter_context(LabelRaster(Path(source.origin_path)))
            self._opened = stack.pop_all()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._labels.shape

    def read(self, window: Region) -> LabelArray:
        """Labels of a window, in pixels of the grid; 0 outside."""
        return self._counted(*(None if one is None else one.read(window) for one in self._all))

    def read_reduced(self, longest_px: int) -> LabelArray:
        """Every n-th pixel, so that the longer side has at most ``longest_px``."""
        return self._counted(*(None if one is None else _reduced(one, self.shape, longest_px) for one in self._all))

    @property
    def _all(self) -> tuple[Labels, Labels | None, Labels | None]:
        return self._labels, self._origins, self._region

    def _counted(
        self, labels: LabelArray | None, origins: NDArray[np.uint8] | None, region: NDArray[np.uint8] | None
    ) -> LabelArray:
        assert labels is not None
        if not labels.size:
            return labels
        counted = np.asarray(cv2.LUT(labels, self._counted_values), np.uint8)  # several times as fast as indexing
        if origins is not None:
            counted[origins != self._origin_value] = UNLABELLED
        if region is not None:
            counted[region == 0] = UNLABELLED
        return counted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()


def _reduced(labels: Labels, shape: tuple[int, int], longest_px: int) -> LabelArray:
    """Every n-th pixel of labels; what is no raster is read row by row, so that memory stays small."""
    if isinstance(labels, LabelRaster):
        return labels.read_reduced(longest_px)
    step = max(1, -(-max(shape) // longest_px))
    rows, columns = (((np.arange(max(1, n // step)) + 0.5) * n / max(1, n // step)).astype(np.int64) for n in shape)
    lines = [labels.read(Region(0, y, shape[1], 1))[0, columns] for y in rows.tolist()]
    return np.array(lines, np.uint8).reshape(len(rows), len(columns))


@dataclass(frozen=True, slots=True)
class LabelOpener:
    """Opens the labels of an evaluation.

    Attributes:
        truths: Opens true labels that are no raster, such as painted annotations, by slide.
        predictions: The same of predicted ones, by folder of predictions and slide.
        regions: What is not 0 where pixels of a slide count, by slide; where there is none, all count.
    """

    truths: Mapping[str, OpenLabels] = field(default_factory=dict)
    predictions: Mapping[tuple[str, str], OpenLabels] = field(default_factory=dict)
    regions: Mapping[str, Labels] = field(default_factory=dict)

    def truth(self, source: LabelSource) -> CountedLabels:
        """True labels of a slide.

        Raises:
            DatasetError: A raster is missing or damaged.
        """
        return CountedLabels(source, self.truths.get(source.slide_id), self.regions.get(source.slide_id))

    def predicted(self, folder: str, source: PredictedLabelSource) -> CountedLabels:
        """Predicted labels of a slide, on the pixels that are compared.

        Args:
            folder: The folder of predictions, as the evaluation tells it.
            source: The labels.

        Raises:
            DatasetError: A raster is missing or damaged.
        """
        opened, ground = self.predictions.get((folder, source.slide_id)), source.resampled_to
        if opened is None and ground is not None:
            opened = partial(open_resampled, partial(LabelRaster, Path(source.path)), source.downsample, ground)
        return CountedLabels(source, opened)
