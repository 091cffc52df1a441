"""Outlines in `data.qpdata`."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy import typing as npt
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Plane
from dmmn_qp.qupath.crossings import TOO_TANGLED, TangledError
from dmmn_qp.qupath.java_stream import JavaArray, JavaObject, JavaValue
from dmmn_qp.qupath.notes import REPAIRED
from dmmn_qp.qupath.shapes import are_usable, ellipse, polygonal_part
from dmmn_qp.text import shorten

JAVA_INT: Final = struct.Struct(">i")

JAVA_DOUBLE: Final = struct.Struct(">d")


class DamagedError(ValueError):
    """The stream is whole, but does not hold what QuPath writes."""


class UnsupportedError(ValueError):
    """A version or kind of object that this reader does not know; the message ends with the way out."""


@dataclass(frozen=True, slots=True)
class Roi:
    """An outline; ``geometry`` is None where it covers nothing, ``note`` says what was done to it."""

    geometry: BaseGeometry | None
    plane: Plane = DEFAULT_PLANE
    is_ellipse: bool = False
    note: str | None = None
    repaired_by_px2: float | None = None


def plane_of(value: JavaObject) -> Plane:
    """The plane that an outline is drawn on."""
    fields = value.fields
    c, z, t = _integer(fields.get("c"), -1), _integer(fields.get("z"), 0), _integer(fields.get("t"), 0)
    return DEFAULT_PLANE if (c, z, t) == (-1, 0, 0) else Plane(c, z, t)


def roi_of(value: JavaObject) -> Roi:
    """Translates one of QuPath's serialized outlines."""
    fields = value.fields
    plane = plane_of(value)
    kind = value.class_name.rpartition(".")[2]
    if kind == "GeometryROI$WKBSerializationProxy":
        return _area(_wkb(fields.get("wkb")), plane)
    shape, _, proxy = kind.partition("$")
    if proxy != "SerializationProxy" or shape not in _OUTLINES:
        raise UnsupportedError(
            f"holds an outline of the old or unknown kind {shorten(kind)}; "
            "open and save the image in QuPath 0.3 or later, or export its objects as GeoJSON"
        )
    if shape in ("RectangleROI", "EllipseROI", "LineROI"):
        corners = np.array([real_of(fields.get(key)) for key in ("x", "y", "x2", "y2")]).reshape(2, 2)
    else:
        xs, ys = numbers_of(fields.get("x")), numbers_of(fields.get("y"))
        if len(xs) != len(ys):
            raise DamagedError(f"{shape} has {len(xs)} x and {len(ys)} y")
        corners = np.column_stack([xs, ys])
    if not are_usable(corners):
        return Roi(None, plane, note="object whose coordinates are no numbers on a slide, left out")
    return _OUTLINES[shape](corners, plane)


def _polygon(points: npt.NDArray[np.float64], plane: Plane) -> Roi:
    if len(points) < 3:
        return Roi(None, plane, note=_NO_AREA)
    return _area(shapely.Polygon(points), plane)


def _rectangle(corners: npt.NDArray[np.float64], plane: Plane) -> Roi:
    return _area(shapely.box(*corners.min(axis=0), *corners.max(axis=0)), plane)


def _ellipse(corners: npt.NDArray[np.float64], plane: Plane) -> Roi:
    return _area(ellipse(*corners.ravel()), plane, is_ellipse=True)


def _line(points: npt.NDArray[np.float64], plane: Plane) -> Roi:
    if len(points) < 2:
        return Roi(None, plane, note="line of fewer than two points, left out")
    return Roi(shapely.LineString(points), plane)


def _points(points: npt.NDArray[np.float64], plane: Plane) -> Roi:
    if not len(points):
        return Roi(None, plane, note="set of no points, left out")
    return Roi(shapely.Point(points[0]) if len(points) == 1 else shapely.MultiPoint(points), plane)


_OUTLINES: Final = {
    "PolygonROI": _polygon,
    "RectangleROI": _rectangle,
    "EllipseROI": _ellipse,
    "LineROI": _line,
    "PolylineROI": _line,
    "PointsROI": _points,
}

_NO_AREA: Final = "outline that covers no area, left out"


def _area(geometry: BaseGeometry, plane: Plane, *, is_ellipse: bool = False) -> Roi:
    """A region of interest from any geometry, polygons repaired where they cross themselves."""
    if geometry.is_empty:
        return Roi(None, plane, note=_NO_AREA)
    if geometry.geom_type not in ("Polygon", "MultiPolygon", "GeometryCollection"):
        return Roi(geometry, plane)
    try:
        part = polygonal_part(geometry)
    except TangledError:
        return Roi(None, plane, note=f"{TOO_TANGLED}, left out")
    if part is None:
        return Roi(None, plane, note=_NO_AREA)
    if part is geometry or geometry.is_valid:
        return Roi(part, plane, is_ellipse)
    return Roi(part, plane, is_ellipse, REPAIRED, part.area - geometry.area)


def _wkb(value: JavaValue) -> BaseGeometry:
    """Decodes well-known binary, which is checked first: the decoder trusts counts and nests without bound."""
    if not isinstance(value, JavaArray) or not isinstance(value.values, np.ndarray):
        raise DamagedError("a geometry without its bytes")
    data = value.values.tobytes()
    try:
        if _wkb_end(data, 0, depth=0) != len(data):
            raise DamagedError("a geometry with spare bytes")
        geometry = shapely.from_wkb(data)
    except (struct.error, IndexError, shapely.errors.ShapelyError) as error:
        raise DamagedError("a geometry that cannot be decoded") from error
    if not are_usable(shapely.get_coordinates(geometry)):
        raise DamagedError("a geometry whose coordinates are no numbers on a slide")
    return geometry


def _wkb_end(data: bytes, start: int, depth: int) -> int:
    """Where the geometry that starts at a byte ends; 2-D kinds 1 to 7 only."""
    order = "<" if data[start] else ">"
    (kind,) = struct.unpack_from(order + "I", data, start + 1)
    position = start + 5
    if kind == 1:
        return position + 16
    (count,) = struct.unpack_from(order + "I", data, position)
    position += 4
    if kind == 2:
        position += 16 * count
    elif kind == 3:
        for _ in range(count):
            (points,) = struct.unpack_from(order + "I", data, position)
            position += 4 + 16 * points
    elif kind in (4, 5, 6, 7) and depth < _WKB_DEPTH:
        for _ in range(count):
            position = _wkb_end(data, position, depth + 1)
    else:
        raise DamagedError(f"a geometry of the unknown kind {kind}")
    return position


_WKB_DEPTH: Final = 4


def _integer(value: JavaValue, default: int) -> int:
    return value if isinstance(value, int) else default


def real_of(value: JavaValue) -> float:
    """A coordinate."""
    if not isinstance(value, (int, float)):
        raise DamagedError("something else where a coordinate belongs")
    return float(value)


def numbers_of(value: JavaValue) -> npt.NDArray[np.float64]:
    """Coordinates."""
    if not isinstance(value, JavaArray) or not isinstance(value.values, np.ndarray):
        raise DamagedError("something else where an array of numbers belongs")
    return value.values.astype(np.float64)
