"""Predicted objects cut by others, so that nothing lies doubled in QuPath."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.geojson_writer import feature_of
from dmmn_qp.qupath.marks import AREA_MM2, AREA_UM2, MEAN_PROBABILITY, PERIMETER, marked_id
from dmmn_qp.specs import MM2_OF_UM2

Feature = Mapping[str, Any]
"""An object as GeoJSON."""

_SLIVER_PX2: Final = 4.0
_SLIVER_WIDTH_PX: Final = 0.1


def cut(features: Sequence[Feature], by: Sequence[Annotation]) -> tuple[list[Feature], int]:
    """Takes the areas of some objects away from others.

    What is cut gets another id, which depends on its outline, and its area and length are measured anew, because it is
    by its measurements that an object is known to be as it was predicted. What only touches is left as it is.

    Args:
        features: The objects to cut, as GeoJSON.
        by: The objects that stay.

    Returns:
        What is left, in the same order, and how many objects were cut.
    """
    areas = [(part, a.plane) for a in by if a.is_area for part in shapely.get_parts(a.geometry)]
    if not areas:
        return list(features), 0
    tree = shapely.STRtree([part for part, _ in areas])
    left: list[Feature] = []
    n_cut = 0
    for feature in features:
        (annotation, *_) = objects_of(dict(feature), "object").annotations or (None,)
        near = [] if annotation is None else tree.query(annotation.geometry, predicate="intersects")
        over = [areas[i][0] for i in near if annotation is not None and _is_on_plane(areas[i][1], annotation.plane)]
        if annotation is None or not over:
            left.append(feature)
            continue
        covering = over[0] if len(over) == 1 else shapely.union_all(over)
        shared = shapely.intersection(annotation.geometry, covering)
        is_small_part = shared.area < annotation.geometry.area / 2  # a small object is all sliver
        if is_small_part and not any(map(_is_more_than_rounding, _polygons(shared))):
            left.append(feature)
            continue
        n_cut += 1
        rest = _rest(shapely.difference(annotation.geometry, covering), covering)
        written = None if rest is None else feature_of(_measured(annotation, rest))
        if written is not None:
            left.append(written)
    return left, n_cut


def _is_on_plane(plane: Plane, other: Plane) -> bool:
    return (plane.z, plane.t) == (other.z, other.t)


def _measured(annotation: Annotation, rest: BaseGeometry) -> Annotation:
    """What is left of an object, with its measurements and an id of its own."""
    measurements = {name: v for name, v in annotation.measurements.items() if name != MEAN_PROBABILITY}
    area_um2 = measurements.get(AREA_UM2, 0.0)
    if 0 < area_um2 < math.inf and annotation.geometry.area > 0:
        mpp = (area_um2 / annotation.geometry.area) ** 0.5
        measurements[AREA_UM2] = round(rest.area * mpp**2, 4)
        measurements[AREA_MM2] = round(rest.area * mpp**2 * MM2_OF_UM2, 10)
        measurements[PERIMETER] = round(rest.length * mpp, 4)
    content = f"{annotation.annotation_id}/{shapely.to_wkt(rest, rounding_precision=2)}"
    return replace(annotation, geometry=rest, measurements=measurements, annotation_id=marked_id(content))


def _rest(difference: BaseGeometry, covering: BaseGeometry) -> BaseGeometry | None:
    """What is left of an area, without what rounding leaves along the cut; None where nothing is."""
    shapely.prepare(covering)
    parts = [
        part
        for part in _polygons(difference)
        if _is_more_than_rounding(part) or not shapely.dwithin(covering, part, _SLIVER_WIDTH_PX)
    ]
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _polygons(geometry: BaseGeometry) -> list[BaseGeometry]:
    return [part for part in shapely.get_parts(shapely.get_parts(geometry)) if part.geom_type == "Polygon"]


def _is_more_than_rounding(part: BaseGeometry) -> bool:
    """Whether a polygon is more than what rounding leaves between two borders."""
    return bool(part.area > max(_SLIVER_PX2, _SLIVER_WIDTH_PX * part.length))
