"""Outlines as QuPath means them: self-crossing ones repaired, ellipses drawn out.

All coordinates are level-0 px in QuPath's frame, y down; all areas are px2.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.qupath.crossings import count_crossings

MAX_COORDINATE: Final = float(2**31)
"""No slide has more px along a side; anything beyond is damage."""

_ROUNDING: Final = 1e-9
_FEW_CROSSINGS: Final = 300
_GUARD_DECIMALS: Final = 6
_ELLIPSE_VERTICES: Final = 128
_TURNS: Final = np.linspace(0.0, 2.0 * np.pi, _ELLIPSE_VERTICES, endpoint=False)
_UNIT_CIRCLE: Final = np.column_stack([np.cos(_TURNS), np.sin(_TURNS)])


def are_usable(coordinates: npt.NDArray[np.float64]) -> bool:
    """Whether all coordinates are finite and on a thinkable slide."""
    return not coordinates.size or bool(np.abs(coordinates).max() <= MAX_COORDINATE)  # NaN is never less


def ellipse(x: float, y: float, x2: float, y2: float) -> BaseGeometry:
    """The ellipse in the box of two corners, as a polygon inside it that touches all four sides.

    Its area is 0.04 % less than the true one; QuPath's own polygon for it (100 vertices) lacks 0.07 %.
    """
    centre, radii = ((x + x2) / 2, (y + y2) / 2), (abs(x2 - x) / 2, abs(y2 - y) / 2)
    return shapely.Polygon(_UNIT_CIRCLE * radii + centre)


def polygonal_part(geometry: BaseGeometry) -> BaseGeometry | None:
    """The area a polygonal geometry covers, as one valid Polygon or MultiPolygon.

    An outline that crosses itself is filled by the non-zero rule, as QuPath fills it: a loop drawn twice over
    stays filled. Holes are cut out of their own outline only; parts that overlap or touch along an edge are
    merged.

    Args:
        geometry: Polygon, MultiPolygon, or a collection holding such; finite coordinates.

    Returns:
        The area, or None where there is none; the very geometry where there is nothing to do.

    Raises:
        TangledError: An outline crosses itself more often than can be repaired in seconds.
    """
    if geometry.is_empty:
        return None
    kind = geometry.geom_type
    if kind in ("Polygon", "MultiPolygon") and geometry.is_valid:
        if kind == "Polygon" or len(geometry.geoms) > 1:
            return geometry
        return geometry.geoms[0]
    filled = [_fill(polygon) for polygon in _polygons(geometry)]
    parts = _polygons(shapely.union_all(filled) if len(filled) > 1 else filled[0]) if filled else []
    parts = [part for part in parts if part.area > 0]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _fill(polygon: BaseGeometry) -> BaseGeometry:
    """Fills one outline by the non-zero rule, then cuts its holes out."""
    area = _make_valid(shapely.Polygon(polygon.exterior))
    holes = [_make_valid(shapely.Polygon(hole)) for hole in polygon.interiors]
    return area.difference(shapely.union_all(holes)) if holes else area


def _make_valid(polygon: BaseGeometry) -> BaseGeometry:
    if polygon.is_valid:
        return polygon
    crossings, overlap = count_crossings(shapely.get_coordinates(polygon.exterior))
    made = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
    if overlap:  # GEOS loses a part whose edge a spike covers as well
        few = crossings <= _FEW_CROSSINGS
        # Filled by the even-odd rule, so never more; with many crossings that takes longer than to fill each face.
        other = shapely.make_valid(polygon, method="linework") if few else _filled_faces(polygon)
        if made.area < (1 - _ROUNDING) * other.area:
            made = _filled_faces(polygon) if few else other
    # GEOS (3.14) leaves parts apart that share an edge.
    return made if made.is_valid else shapely.union_all(shapely.get_parts(made))


def _filled_faces(polygon: BaseGeometry) -> BaseGeometry:
    """Fills an outline face by face: those around whose inner point it winds."""
    ring = shapely.get_coordinates(polygon.exterior)
    lines = shapely.get_parts(shapely.union_all(shapely.linestrings(np.stack([ring[:-1], ring[1:]], axis=1))))
    faces = shapely.get_parts(shapely.polygonize(lines))
    inner = shapely.get_coordinates(shapely.point_on_surface(faces))
    (x1, y1), (x2, y2) = ring[:-1].T, ring[1:].T
    filled = []
    for face, (x, y) in zip(faces, inner, strict=True):
        side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
        upwards = np.count_nonzero((y1 <= y) & (y < y2) & (side > 0))
        downwards = np.count_nonzero((y2 <= y) & (y < y1) & (side < 0))
        if upwards != downwards:
            filled.append(face)
    return shapely.union_all(filled)


def _polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    """All polygons of a geometry, however it is collected."""
    parts = list(shapely.get_parts(geometry))
    while any(part.geom_type == "GeometryCollection" or part.geom_type.startswith("Multi") for part in parts):
        parts = list(shapely.get_parts(parts))
    return [part for part in parts if part.geom_type == "Polygon" and not part.is_empty]


def rounded_area(geometry: BaseGeometry, decimals: int) -> BaseGeometry | None:
    """A polygonal geometry on a grid of ``10**-decimals`` px, valid there; None where nothing is left."""

    def to_grid(coordinates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.round(coordinates, decimals) + 0.0  # adding 0 turns -0.0 into 0.0

    rounded = shapely.transform(geometry, to_grid)
    if polygonal_part(rounded) is rounded:
        return rounded
    # Differences far below the grid, such as 1e-16, are what GEOS fails at, and nothing that anybody drew.
    whole = polygonal_part(shapely.transform(geometry, lambda xy: np.round(xy, decimals + _GUARD_DECIMALS) + 0.0))
    if whole is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # raised within, with sound results
        snapped = polygonal_part(shapely.set_precision(whole, 10.0**-decimals))
    return None if snapped is None else shapely.transform(snapped, to_grid)
