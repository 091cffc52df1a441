"""Which annotation lies where: neighbours of one class are several areas, as they were drawn."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region

_SLIDES_KEPT = 2


class Objects:
    """The annotations of a dataset as numbers in grids.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._tree_of = lru_cache(_SLIDES_KEPT)(self._read)

    def numbers(self, slide_id: str, window: Region, step_px: int = 1) -> NDArray[np.uint32]:
        """Numbers of the annotations that pixels or cells have their middle in; 0 for none, the last one counts.

        Args:
            slide_id: The slide.
            window: Where, in grid px.
            step_px: Grid px on a side of an entry.

        Returns:
            (rows, columns); the same annotation has the same number in every window.
        """
        shape = -(-window.height // step_px), -(-window.width // step_px)
        tree = self._tree_of(slide_id)
        near = np.sort(tree.query(shapely.box(window.x, window.y, window.right, window.bottom)))
        if not len(near):
            return np.zeros(shape, np.uint32)
        frame = Affine(step_px, 0, window.x, 0, step_px, window.y)
        shapes = zip(tree.geometries[near], (near + 1).tolist(), strict=True)
        numbers: NDArray[np.uint32] = rasterize(shapes, shape, transform=frame, dtype=np.uint32)
        return numbers

    def _read(self, slide_id: str) -> shapely.STRtree:
        """The outlines of a slide's annotations in grid px."""
        path, record = self._dataset.annotations_path(slide_id), self._dataset.record(slide_id)
        downsample = self._dataset.patch_spec.grid_of(record.mpp, slide_id).downsample
        areas = [a.geometry for a in read_geojson(path).annotations if a.is_area] if path.is_file() else []
        return shapely.STRtree([shapely.transform(area, lambda xy: xy / downsample) for area in areas])
