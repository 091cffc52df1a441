"""A slide brought to coarse cells: what is predicted there, how surely, and where tissue and annotations are.

Memory is bounded: rasters are read at the level of their pyramids that is fine enough, at most `MOST_CELLS` a side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.class_rules import takes_labels_away
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide, read_overview
from dmmn_qp.slides.tissue import tissue_mask
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.suggesting.slides import PredictedSlide

CELLS_PER_WINDOW: Final = 64
"""Cells along the side of a window, where the slide is not too large for it: 8 um of 500."""

MOST_CELLS: Final = 4096
"""Cells along the longer side of a slide, at most: arrays of 16 MB, and while tissue is found some 250 MB in all."""


@dataclass(frozen=True, slots=True, eq=False)
class SlideCells:
    """A slide in cells; cell (row r, column c) covers level-0 px from (c, r) times ``cell_px`` on.

    Attributes:
        cell_px: Side of a cell in level-0 px.
        labels: (rows, columns) uint8 predicted labels, 0 where nothing is predicted.
        entropy: (rows, columns) uint8, 255 where all classes are equally likely.
        tissue: (rows, columns) bool, where there is tissue and a prediction.
        annotated: (rows, columns) bool, where somebody has drawn, confirmed or corrected something, or said
            ``Ignore*``.
    """

    cell_px: float
    labels: LabelArray
    entropy: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    annotated: NDArray[np.bool_]


def cells_of(slide: PredictedSlide, opened: Slide, dataset: Dataset, window_px: int) -> SlideCells:
    """Looks at a slide.

    Args:
        slide: The slide.
        opened: The same, open.
        dataset: The dataset, for what is annotated.
        window_px: Side of a window in level-0 px, which the cells are to be fine enough for.

    Raises:
        DatasetError: A raster is missing or damaged.
    """
    info = opened.info
    cell_px = max(1.0, window_px / CELLS_PER_WINDOW, max(info.width, info.height) / MOST_CELLS)
    shape = (ceil(info.height / cell_px), ceil(info.width / cell_px))
    with LabelRaster(slide.labels_path) as raster:
        labels = _nearest(raster.read_reduced(MOST_CELLS), shape)
    with LabelRaster(slide.uncertainty_path) as raster:
        entropy = _mean(raster.read_reduced(MOST_CELLS), shape)
    tissue = _nearest(tissue_mask(read_overview(opened, max(shape))), shape)
    annotated = np.zeros(shape, np.bool_)
    if slide.record is not None:
        with LabelRaster(dataset.mask_path(slide.record.slide_id)) as raster:
            annotated = _mean((raster.read_reduced(MOST_CELLS) != UNLABELLED).astype(np.uint8) * 255, shape) > 0
        annotated |= _ignored(dataset, slide.record, shape, cell_px)
    return SlideCells(cell_px, labels, entropy, tissue & (labels != UNLABELLED), annotated)


def _nearest(pixels: NDArray[np.uint8] | NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixel at the middle of each cell; the array covers the slide, whatever its size."""
    rows, columns = (
        np.minimum(((np.arange(wanted) + 0.5) / wanted * there).astype(np.int64), there - 1)
        for wanted, there in zip(shape, pixels.shape[:2], strict=True)
    )
    return pixels[np.ix_(rows, columns)]  # type: ignore[return-value]


def _mean(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mean of each cell's pixels, where there are several."""
    if pixels.shape[0] <= shape[0] or pixels.shape[1] <= shape[1]:
        return _nearest(pixels, shape)
    return np.asarray(cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _ignored(dataset: Dataset, record: SlideRecord, shape: tuple[int, int], cell_px: float) -> NDArray[np.bool_]:
    """Where somebody said that there is nothing to look at."""
    try:
        drawn = read_geojson(dataset.annotations_path(record.slide_id)).annotations
    except AnnotationFileError:
        return np.zeros(shape, np.bool_)
    areas = [PaintedArea(a.geometry, 1) for a in drawn if a.is_area and takes_labels_away(a.class_name)]
    if not areas:
        return np.zeros(shape, np.bool_)
    return np.asarray(AreaLayer(areas).burn(Region(0, 0, shape[1], shape[0]), cell_px) > 0)
