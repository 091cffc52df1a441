"""Values in GeoJSON, of any of the forms that versions and tools write."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
import orjson
import shapely
from numpy import typing as npt
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Color
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.shapes import are_usable, polygonal_part

_HEX_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}")


class FeatureError(ValueError):
    """A feature that cannot be read; the message is the reason alone."""


def class_parts(value: dict[str, Any]) -> list[str] | None:
    """The names in a classification from the most general class on; None where one is missing."""
    names = value.get("names")
    if isinstance(names, list):
        return names if all(isinstance(name, str) for name in names) else None
    parts: list[str] = []
    link: object = value
    while isinstance(link, dict) and link:
        name = link.get("name")
        if not isinstance(name, str):
            return None
        parts.append(name)
        link = link.get("parentClass")
    return parts[::-1]


def color_of(value: object, lengths: tuple[int, ...]) -> Color | None:
    """A colour from a list of components, a packed integer or ``#rrggbb``; None for anything else."""
    if type(value) is int and -(2**31) <= value < 2**32:
        return argb_to_rgb(value)
    if isinstance(value, str) and _HEX_COLOR.fullmatch(value):
        return argb_to_rgb(int(value[1:], 16))
    if isinstance(value, list) and len(value) in lengths:
        components = [component for component in value[:3] if type(component) in (int, float)]
        if len(components) == 3 and all(0 <= c <= 255 and c == int(c) for c in components):
            return int(components[0]), int(components[1]), int(components[2])
    return None


def number_of(value: object) -> float | None:
    """A number, or a text that stands for one which JSON has not; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    return None


def metadata_text(value: object) -> str | None:
    """A value of metadata as text: JSON for what is none, None for null and for what JSON cannot hold."""
    if isinstance(value, str) or value is None:
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return None


def list_of(value: object) -> list[Any]:
    """A list of coordinates."""
    if not isinstance(value, list):
        raise FeatureError("geometry whose coordinates are no points")
    return value


def not_empty(value: Any) -> Any:
    """A list or array that must not be empty."""
    if not len(value):
        raise FeatureError("geometry without points")
    return value


def points_of(value: object) -> npt.NDArray[np.float64]:
    """Points as an array (n, 2); what follows x and y is dropped, as QuPath does.

    Raises:
        _FeatureError: They are no pairs of finite numbers on a thinkable slide.
        ValueError: They are no numbers at all.
    """
    points = list_of(value)
    if not points:
        return np.empty((0, 2))
    if len({len(point) for point in points}) > 1:
        points = [point[:2] for point in points]
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise FeatureError("geometry whose coordinates are no points")
    array = array[:, :2]
    if not are_usable(array):
        raise FeatureError("geometry whose coordinates are no numbers on a slide")
    return array


def line_of(value: object) -> BaseGeometry:
    """A line through points."""
    points = points_of(value)
    if len(points) < 2:
        raise FeatureError("line of fewer than two points")
    return shapely.LineString(points)


def single_or(geometry: BaseGeometry) -> BaseGeometry:
    """The only part of a multi-geometry, or the geometry as it is."""
    return geometry.geoms[0] if len(geometry.geoms) == 1 else geometry


def highest_dimension(parts: list[BaseGeometry]) -> BaseGeometry:
    """One geometry of the parts of the highest dimension among some."""
    dimension = max(shapely.get_dimensions(parts))
    kept = [single for part in parts if shapely.get_dimensions(part) == dimension for single in shapely.get_parts(part)]
    if dimension == 0:
        return single_or(shapely.MultiPoint(kept))
    if dimension == 1:
        return single_or(shapely.MultiLineString(kept))
    area = polygonal_part(shapely.GeometryCollection(kept))
    if area is None:
        raise FeatureError("outline that covers no area")
    return area
