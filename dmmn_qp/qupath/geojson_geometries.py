"""Geometries in GeoJSON -> shapely, repaired where QuPath or anyone else would stumble over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import shapely
from numpy import typing as npt
from shapely.geometry.base import BaseGeometry

from dmmn_qp.qupath.crossings import TOO_TANGLED, TangledError
from dmmn_qp.qupath.geojson_values import (
    FeatureError,
    highest_dimension,
    line_of,
    list_of,
    not_empty,
    points_of,
    single_or,
)
from dmmn_qp.qupath.notes import REPAIRED
from dmmn_qp.qupath.shapes import ellipse, polygonal_part

GEOMETRY_TYPES: Final = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip

_ELLIPSE_TOLERANCE: Final = 0.01


class GeometryReader:
    """Builds geometries in level-0 px.

    Args:
        note: Is told what was repaired.

    Attributes:
        repaired_by_px2: By how much a repair changed the area of the geometry that was read last; None where nothing
            was repaired.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.repaired_by_px2: float | None = None

    def read(self, value: object) -> tuple[BaseGeometry, bool]:
        """Builds a geometry.

        Returns:
            The geometry, and whether it stands for an ellipse.

        Raises:
            FeatureError: There is none, or it covers nothing, or its kind is unknown.
        """
        self.repaired_by_px2 = None
        if not isinstance(value, dict) or not value:
            raise FeatureError("feature without a geometry")
        if value.get("type") == "GeometryCollection":
            return self._collection(value), False
        geometry = self._simple(value)
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            return geometry, False
        is_ellipse = value.get("isEllipse") is True and geometry.geom_type == "Polygon"
        if is_ellipse:
            box = ellipse(*geometry.bounds)
            if abs(geometry.area - box.area) > _ELLIPSE_TOLERANCE * box.area:
                geometry = box
        return geometry, is_ellipse

    def _simple(self, value: dict[str, Any]) -> BaseGeometry:
        kind, coordinates = value.get("type"), value.get("coordinates")
        try:
            if kind == "Polygon":
                return self._area([list_of(coordinates)])
            if kind == "MultiPolygon":
                return self._area([list_of(part) for part in list_of(coordinates)])
            if kind == "Point":
                return shapely.Point(points_of([coordinates])[0])
            if kind == "MultiPoint":
                return single_or(shapely.MultiPoint(not_empty(points_of(coordinates))))
            if kind == "LineString":
                return line_of(coordinates)
            if kind == "MultiLineString":
                return single_or(shapely.MultiLineString([line_of(part) for part in not_empty(list_of(coordinates))]))
        except FeatureError:
            raise
        except (
            ValueError,
            TypeError,
            IndexError,
            OverflowError,
            RecursionError,
            shapely.errors.ShapelyError,
        ):
            raise FeatureError("geometry whose coordinates are no points") from None
        raise FeatureError("geometry of an unknown type")

    def _area(self, parts: list[list[Any]]) -> BaseGeometry:
        """Builds polygons from their rings, closes what is open, and repairs what crosses itself."""
        polygons: list[BaseGeometry] = []
        for rings in parts:
            closed = [self._ring(ring) for ring in rings]
            if closed and closed[0] is not None:
                polygons.append(shapely.Polygon(closed[0], [hole for hole in closed[1:] if hole is not None]))
        if not polygons:
            raise FeatureError("outline that covers no area")
        if len(polygons) < len(parts):
            self._note("part of an outline that covers no area, left out")
        whole = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
        try:
            part = polygonal_part(whole)
        except TangledError:
            raise FeatureError(TOO_TANGLED) from None
        if part is None:
            raise FeatureError("outline that covers no area")
        if part is not whole and not whole.is_valid:
            self._note(REPAIRED)
            self.repaired_by_px2 = (self.repaired_by_px2 or 0.0) + part.area - whole.area
        return part

    def _ring(self, value: object) -> npt.NDArray[np.float64] | None:
        """One ring's points, closed or not; None for fewer than three corners."""
        points = points_of(value)
        if len(points) and (points[0] != points[-1]).any():
            self._note("ring that is not closed, which QuPath itself refuses, closed")
        elif len(points):
            points = points[:-1]
        return points if len(points) >= 3 else None

    def _collection(self, value: dict[str, Any]) -> BaseGeometry:
        """Merges a collection's parts of the highest dimension, as QuPath does."""
        parts: list[BaseGeometry] = []
        pending: list[object] = [value]
        while pending:
            item = pending.pop()
            if not isinstance(item, dict):
                raise FeatureError("geometry of an unknown type")
            if item.get("type") == "GeometryCollection":
                pending.extend(reversed(list_of(item.get("geometries"))))
            else:
                parts.append(self._simple(item))
        if not parts:
            raise FeatureError("outline that covers no area")
        self._note("GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind")
        return highest_dimension(parts)
