"""Which annotation lies where: neighbours of one class are several areas, as they were drawn."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.regions import Region

_SLIDES_KEPT = 2


def outlines_px(dataset: Dataset, slide_id: str, wanted: Callable[[Annotation], bool]) -> list[BaseGeometry]:
    """Outlines of some annotations of a slide, in grid px; empty where the dataset has no file of them."""
    path, record = dataset.annotations_path(slide_id), dataset.record(slide_id)
    if not path.is_file():
        return []
    downsample = dataset.patch_spec.grid_of(record.mpp, slide_id).downsample
    drawn = [annotation.geometry for annotation in read_geojson(path).annotations if wanted(annotation)]
    return [shapely.transform(geometry, lambda xy: xy / downsample) for geometry in drawn]


class Objects:
    """The annotated areas of trained classes of a dataset as numbers in grids.

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
        """Those of a slide; what only bounds others, or says what they are for, is none of them."""
        names = set(self._dataset.class_map.names)
        return shapely.STRtree(outlines_px(self._dataset, slide_id, lambda a: a.is_area and a.class_name in names))
