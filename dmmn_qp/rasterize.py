"""Annotations -> label arrays, by the pixel-centre rule."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize as burn
from shapely import STRtree, box
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, ClassMap

LabelArray = NDArray[np.uint8]
"""(rows, columns) uint8; 0 = unlabelled."""

IGNORE = "Ignore*"
"""QuPath's class for parts that must not be looked at: it takes the label away from what lies under it."""


@dataclass(frozen=True, slots=True)
class Paint:
    """One area and the label that it gives to its pixels; geometry in level-0 px."""

    geometry: BaseGeometry
    label: int


class LabelPainter:
    """Paints the annotations of one slide, window by window.

    Where areas of different classes overlap, the class that comes first in the class map wins, as in the paper's
    class order (section 2.3); `IGNORE` wins over every class. The order of drawing plays no part.

    Args:
        annotations: Objects of the slide; only areas on the default plane whose class is in the map are painted.
        class_map: The classes.
        downsample: Level-0 px per pixel of the array.
    """

    def __init__(self, annotations: Iterable[Annotation], class_map: ClassMap, downsample: float) -> None:
        self.downsample = downsample
        paints = list(self._paints(annotations, class_map))
        paints.sort(key=lambda paint: -paint.label if paint.label else 1)  # last painted wins: ignored, class 1, 2 ..
        self._paints_in_order = paints
        self._tree = STRtree([paint.geometry for paint in paints])

    @staticmethod
    def _paints(annotations: Iterable[Annotation], class_map: ClassMap) -> Iterable[Paint]:
        for annotation in annotations:
            if not annotation.is_area or annotation.class_name is None:
                continue
            if (annotation.plane.z, annotation.plane.t) != (DEFAULT_PLANE.z, DEFAULT_PLANE.t):
                continue
            label = class_map.label_of(annotation.class_name)
            if label is not None:
                yield Paint(annotation.geometry, label)
            elif annotation.class_name == IGNORE:
                yield Paint(annotation.geometry, UNLABELLED)

    def at(self, downsample: float) -> LabelPainter:
        """The same painter on an array of another resolution.

        Args:
            downsample: Level-0 px per pixel of that array.
        """
        other = copy(self)
        other.downsample = downsample
        return other

    def paint(self, window: Region) -> LabelArray:
        """Labels of a window.

        A pixel has the label of an area when its centre lies inside the area.

        Args:
            window: In pixels of the array (grid pixels).

        Returns:
            (height, width) uint8, 0 where nothing is annotated.
        """
        scale = self.downsample
        bounds = box(window.x * scale, window.y * scale, window.right * scale, window.bottom * scale)
        hits = np.sort(self._tree.query(bounds))
        shapes = [(self._paints_in_order[i].geometry, self._paints_in_order[i].label) for i in hits]
        if not shapes:
            return np.zeros((window.height, window.width), np.uint8)
        transform = Affine(scale, 0, window.x * scale, 0, scale, window.y * scale)
        labels: LabelArray = burn(
            shapes, (window.height, window.width), fill=UNLABELLED, transform=transform, dtype=np.uint8
        )
        return labels
