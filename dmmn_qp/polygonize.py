"""Label arrays -> polygons along the pixels' edges."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import shapes as trace
from shapely.geometry import Polygon, shape

from dmmn_qp.specs import UNLABELLED


def polygonize(labels: Any, skip: frozenset[int] = frozenset({UNLABELLED})) -> Iterator[tuple[Polygon, int]]:
    """Traces the connected regions of a label raster.

    Pixels that meet only at a corner are not connected (connectivity 4), which keeps every polygon valid. The
    polygons follow the pixels' edges, so their area is the number of their pixels.

    Args:
        labels: (rows, columns) uint8 array, or a `rasterio.Band`, which GDAL reads line by line.
        skip: Labels that give no polygons.

    Yields:
        (polygon with its holes in pixels of the raster, label), the top-left pixel's corner at (0, 0).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for geometry, value in trace(labels, connectivity=4):
            label = int(value)
            if label not in skip:
                yield shape(geometry), label


def to_level0(polygon: Polygon, downsample: float, width_px: int, height_px: int) -> Polygon:
    """Grid pixels -> level-0 px, cut at the slide's right and bottom border.

    The last column and row of a grid may reach past the slide by part of a pixel.
    """
    limit = np.array([width_px, height_px], float)
    return shapely.transform(polygon, lambda xy: np.minimum(xy * downsample, limit))
