"""Labels of a slide on one side of a comparison, wherever they come from: rasters, pictures, painted annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.regions import Region
from dmmn_qp.specs import LabelArray
from dmmn_qp.vectors.sources import LabelSource


@dataclass(frozen=True, slots=True)
class SlideLabels:
    """Labels of one slide, and what their values mean.

    Attributes:
        path: The file that they are in or come from, for messages and reports.
        values: Class of each value that counts, by the name that both sides give it; 0 is never one.
        names_from: What says so.
        opened: Opens them for reading, in windows that may leave the slide.
        unknown_value: What is wrong with a value that is there and has no class, as a message.
        own_names: Class of each value as its maker calls it.
    """

    path: Path
    values: Mapping[int, str]
    names_from: str
    opened: Callable[[], AbstractContextManager[LabelSource]]
    unknown_value: Callable[[int], str]
    own_names: Mapping[int, str]


def open_raster(path: Path) -> LabelRaster:
    """Opens a label raster: a mask, a prediction, or a picture.

    Raises:
        DatasetError: It is missing or damaged, or a pixel of it is more than one number of 8 bits.
    """
    raster = LabelRaster(path)
    if not raster.holds_labels:
        with raster:
            raise DatasetError(
                f'"{path}" is no label map: a pixel must be one number of 8 bits; save it as greyscale of 8 bits'
            )
    return raster


@dataclass(frozen=True, slots=True)
class PaintedLabels:
    """Annotations as a label map.

    Attributes:
        painter: Paints them.
        shape: (rows, columns) of the map.
    """

    painter: LabelPainter
    shape: tuple[int, int]

    def read(self, window: Region) -> LabelArray:
        """Labels of a window: (height, width) uint8."""
        return self.painter.paint(window)


def open_painted(painter: LabelPainter, shape: tuple[int, int]) -> AbstractContextManager[LabelSource]:
    """Opens annotations like a raster.

    Args:
        painter: Paints them.
        shape: (rows, columns) of the map.
    """
    return nullcontext(PaintedLabels(painter, shape))
