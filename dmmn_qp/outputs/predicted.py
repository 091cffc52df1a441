"""A predicted slide, as all writers take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.outputs.made_objects import MadeObjects
from dmmn_qp.outputs.options import OutputOptions
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.transformed import Change
from dmmn_qp.specs import ClassMap, LabelArray
from dmmn_qp.vectors.sources import LabelSource


class PredictedPixels(Protocol):
    """All pixels of a prediction, of several kinds."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        ...

    def strips(self, kind: str = ...) -> Iterator[NDArray[np.uint8]]:
        """Pixels of one kind, labels unless another is named, from top to bottom.

        Args:
            kind: ``probabilities``, of which each strip is (classes, height, columns), or ``entropy``, of which it is
                (height, columns) as of labels; 255 stands for 1.

        Raises:
            DatasetError: There are none, or they are damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class PredictedSlide:
    """A slide and its label raster.

    Attributes:
        slide: The open slide.
        slide_id: Its name in file names.
        fingerprint: Digest of its file.
        labels: The label raster.
        downsample: Level-0 px per pixel of the raster.
        class_map: The model's classes.
        model_name: The model.
        model_run: Run id of the model's training.
        run_id: Id of this prediction.
        options: What files are wanted, and how polygons are made.
        confidence: 0 .. 255 for the probability of each pixel's label, of the raster's shape, where it is known.
        pixels: All that the network predicted; None where polygons alone are made anew from the label raster.
        tissue: Outline of the tissue in level-0 px of QuPath's frame; None where it was not sought.
        made: What became of the regions of the raster; whoever makes polygons of them notes it here.
        frame: Crops, turns and flips that QuPath puts around the file.
    """

    slide: Slide
    slide_id: str
    fingerprint: str
    labels: Path
    downsample: float
    class_map: ClassMap
    model_name: str
    model_run: str
    run_id: str
    options: OutputOptions = field(default_factory=OutputOptions)
    confidence: LabelSource | None = None
    pixels: PredictedPixels | None = None
    tissue: BaseGeometry | None = None
    made: MadeObjects = field(default_factory=MadeObjects)
    frame: tuple[Change, ...] = ()

    @property
    def mpp(self) -> float:
        """um/px of the rasters."""
        return self.slide.info.mpp * self.downsample


class LabelConfidence:
    """The probability of each pixel's label, 0 .. 255, out of a raster of all probabilities: a context manager.

    Args:
        labels: The label raster, which stays the caller's.
        probabilities: The raster of probabilities.
        classes: Number of its channels.

    Raises:
        DatasetError: The raster is missing, damaged or of another shape.
    """

    def __init__(self, labels: LabelRaster, probabilities: Path, classes: int) -> None:
        self._labels = labels
        with ExitStack() as stack:
            self._channels = [stack.enter_context(LabelRaster(probabilities, page=i)) for i in range(classes)]
            if any(channel.shape != labels.shape for channel in self._channels):
                raise DatasetError(f'"{probabilities}" has not the size of "{labels.path}"; predict again')
            self._stack = stack.pop_all()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._labels.shape

    def read(self, window: Region) -> LabelArray:
        """Probabilities of the labels of a window, 0 where there is no label: (height, width) uint8."""
        labels = self._labels.read(window)
        found = np.zeros_like(labels)
        for label in np.unique(labels[labels > 0]).tolist():
            here = labels == label
            found[here] = self._channels[label - 1].read(window)[here]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
