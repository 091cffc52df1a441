"""A predicted slide, as all writers take it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import POLYGONS_SUFFIXES
from dmmn_qp.outputs.options import PolygonOptions
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.specs import ClassMap, LabelArray
from dmmn_qp.vectors.sources import LabelSource


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
        options: How it was predicted, and how its polygons are made.
        confidence: 0 .. 255 for the probability of each pixel's label, of the raster's shape, where it is known.
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
    options: PolygonOptions = field(default_factory=PolygonOptions)
    confidence: LabelSource | None = None


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


def polygons_suffix(options: PolygonOptions) -> str:
    """What follows ``<slide>`` in the name of the polygons' file."""
    return POLYGONS_SUFFIXES[options.gzip]


def polygons_path(folder: Path, slide_id: str, options: PolygonOptions) -> Path:
    """The polygons' file of a slide."""
    return folder / f"{slide_id}{polygons_suffix(options)}"
