"""Annotations -> label arrays, by the pixel-centre rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property
from math import ceil, floor
from typing import Any, Literal, NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize as burn
from shapely import STRtree, box
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, ORIGINS, Annotation, Origin, Plane
from dmmn_qp.labels.class_rules import PaintRules, takes_labels_away
from dmmn_qp.labels.painting_order import PaintedArea, in_painting_order
from dmmn_qp.labels.trimming import Ring, trimmed
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, ClassMap, LabelArray

_LONGEST_PX = 512  # side of what is looked at to tell which labels there are within an outline
_FEW_VERTICES = 100
"""Outlines of more are shortened to the window."""

_MARGIN = 2
"""Pixels around a window in which outlines stay as they are: more than what rounding can move."""

_LINES = ("LineString", "MultiLineString", "LinearRing")


_LAYERS: tuple[tuple[Origin, ...], ...] = (("unchecked",), ("corrected", "confirmed"), ("drawn",))
"""Origins of areas in the order of painting: what people drew wins over what they corrected or confirmed, and that over
what a model said.
"""


class LabelPainter:
    """Paints the annotations of one slide, window by window.

    What was drawn wins over any prediction, and a prediction that somebody vouched for over one that nobody did; within
    each of these the rule for overlaps decides. `Ignore*` takes labels away from what it wins over, and from its own
    kind. The order in which a spatial index finds areas plays no part.

    What it needs to paint is made when it first does, and not sent to other processes, which make their own.

    Args:
        annotations: Objects of the slide in the order in which people drew them; only those on the plane whose class is
            in the map are painted.
        class_map: The classes.
        downsample: Level-0 px per pixel of the array.
        rules: How annotations become labels.
        mpp: um/px of the slide at level 0, needed for the width of lines.
        plane: The plane that is painted; its channel plays no part.
    """

    def __init__(
        self,
        annotations: Sequence[Annotation],
        class_map: ClassMap,
        downsample: float,
        rules: PaintRules | None = None,
        mpp: float | None = None,
        plane: Plane = DEFAULT_PLANE,
    ) -> None:
        self.downsample = downsample
        self._annotations = annotations
        self._class_map = class_map
        self._rules = rules or PaintRules()
        self._mpp = mpp
        self._plane = plane

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_layers"}

    @cached_property
    def _layers(self) -> _Layers:
        plane, rules = self._plane, self._rules
        on_plane = [a for a in self._annotations if (a.plane.z, a.plane.t) == (plane.z, plane.t) and a.class_name]
        layers = []
        for origins in _LAYERS:
            of_layer = [a for a in on_plane if a.origin in origins]
            areas = AreaLayer(in_painting_order(list(self._painted_areas(of_layer)), rules.overlap))
            ignored = AreaLayer(
                [PaintedArea(a.geometry, 1) for a in of_layer if takes_labels_away(a.class_name) and a.is_area]
            )
            layers.append((areas, ignored))
        regions = [a for a in on_plane if a.class_name == rules.region_class and a.is_area]
        return _Layers(layers, AreaLayer([PaintedArea(a.geometry, 1) for a in regions]) if regions else None)

    def _painted_areas(self, annotations: Iterable[Annotation]) -> Iterator[PaintedArea]:
        width_um, mpp = self._rules.line_width_um, self._mpp
        for position, annotation in enumerate(annotations):
            label = self._class_map.label_of(annotation.class_name or "")
            geometry = annotation.geometry
            if width_um is not None and mpp is not None and geometry.geom_type in _LINES:
                geometry = geometry.buffer(width_um / mpp / 2)
            elif not annotation.is_area:
                continue
            if label is not None:
                yield PaintedArea(geometry, label, position, annotation.depth, ORIGINS[annotation.origin])

    @property
    def is_all_drawn(self) -> bool:
        """Whether nothing but what was drawn is painted."""
        return not any(len(areas) for areas, _ in self._layers.of_origins[:-1])

    def at(self, downsample: float) -> LabelPainter:
        """The same painter on an array of another resolution.

        Args:
            downsample: Level-0 px per pixel of that array.
        """
        layers = self._layers
        other = copy(self)
        other._layers, other.downsample = layers, downsample
        return other

    def paint(self, window: Region) -> LabelArray:
        """Labels of a window.

        A pixel has the label of an area when its centre lies inside the area.

        Args:
            window: In pixels of the array (grid pixels).

        Returns:
            (height, width) uint8, 0 where nothing is annotated.
        """
        return self._paint(window, "label")

    def paint_origins(self, window: Region) -> LabelArray:
        """Whose word the labels of a window are, as `ORIGINS`: (height, width) uint8, 0 where there is no label."""
        return self._paint(window, "origin")

    def labels_within(self, geometry: BaseGeometry) -> NDArray[np.int64]:
        """Pixels of each label within an outline: (classes + 1,), of a coarser array where the outline is large.

        Args:
            geometry: An area in level-0 px.
        """
        left, top, right, bottom = geometry.bounds
        scale = max(self.downsample, max(right - left, bottom - top) / _LONGEST_PX)
        x, y = floor(left / scale), floor(top / scale)
        window = Region(x, y, max(1, ceil(right / scale) - x), max(1, ceil(bottom / scale) - y))
        within = AreaLayer([PaintedArea(geometry, 1)]).burn(window, scale) > 0
        return np.bincount(self.at(scale).paint(window)[within], minlength=len(self._class_map) + 1)

    def _paint(self, window: Region, what: Literal["label", "origin"]) -> LabelArray:
        painted = np.zeros((window.height, window.width), np.uint8)
        for areas, ignored in self._layers.of_origins:
            if len(areas):
                values = areas.burn(window, self.downsample, what)
                covered = values > 0
                if self._rules.overlap == "unlabelled":
                    first = areas.burn(window, self.downsample)
                    values[areas.burn(window, self.downsample, reverse=True) != first] = UNLABELLED
                painted[covered] = values[covered]
            if len(ignored):
                painted[ignored.burn(window, self.downsample) > 0] = UNLABELLED
        if (regions := self._layers.regions) is not None:
            painted[regions.burn(window, self.downsample) == 0] = UNLABELLED
        return painted


class _Layers(NamedTuple):
    """What a painter paints.

    Attributes:
        of_origins: (areas, areas that take labels away) for each of `_LAYERS`.
        regions: Outside of which nothing is labelled; None where everything may be.
    """

    of_origins: Sequence[tuple[AreaLayer, AreaLayer]]
    regions: AreaLayer | None


class AreaLayer:
    """Areas in the order of painting (`painting_order`), found by window, part by part.

    The rasteriser looks at all edges of an outline in every row, so outlines of many vertices are shortened to the rows
    of the window, which are kept for the windows beside it, and then to its columns.
    """

    def __init__(self, areas: Sequence[PaintedArea]) -> None:
        parts, owners = shapely.get_parts(np.array([area.geometry for area in areas], dtype=object), return_index=True)
        self._areas = [areas[owner] for owner in owners]
        self._parts = parts
        self._is_long = shapely.get_num_coordinates(parts) > _FEW_VERTICES
        self._tree = STRtree(parts)
        self._rows: tuple[tuple[float, float], dict[int, list[Ring]]] = ((0.0, 0.0), {})

    def __len__(self) -> int:
        return len(self._areas)

    def burn(
        self, window: Region, scale: float, what: Literal["label", "origin"] = "label", *, reverse: bool = False
    ) -> LabelArray:
        """Labels or origins of a window; the last area wins, or the first with ``reverse``."""
        bounds = box(window.x * scale, window.y * scale, window.right * scale, window.bottom * scale)
        hits = np.sort(self._tree.query(bounds))
        shapes = [
            (outline, getattr(self._areas[i], what))
            for i in (hits[::-1] if reverse else hits)
            if (outline := self._outline(int(i), window, scale)) is not None
        ]
        if not shapes:
            return np.zeros((window.height, window.width), np.uint8)
        transform = Affine(scale, 0, window.x * scale, 0, scale, window.y * scale)
        labels: LabelArray = burn(
            shapes, (window.height, window.width), fill=UNLABELLED, transform=transform, dtype=np.uint8
        )
        return labels

    def _outline(self, i: int, window: Region, scale: float) -> BaseGeometry | dict[str, object] | None:
        """What a window sees of a part; None where that is nothing."""
        if not self._is_long[i]:
            return self._parts[i]
        rows = (window.y - _MARGIN) * scale, (window.bottom + _MARGIN) * scale
        if self._rows[0] != rows:
            self._rows = rows, {}
        of_rows = self._rows[1]
        if i not in of_rows:
            of_rows[i] = trimmed(map(shapely.get_coordinates, shapely.get_rings(self._parts[i])), 1, *rows)
        rings = trimmed(of_rows[i], 0, (window.x - _MARGIN) * scale, (window.right + _MARGIN) * scale)
        return {"type": "Polygon", "coordinates": [ring.tolist() for ring in rings]} if rings else None
