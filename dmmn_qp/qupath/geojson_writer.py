"""Objects -> GeoJSON that every QuPath from 0.4 on reads. Coordinates are level-0 px in QuPath's frame, y down."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, ObjectKind, Plane
from dmmn_qp.files import new_file
from dmmn_qp.qupath.classes import default_color
from dmmn_qp.qupath.geojson_values import highest_dimension, single_or
from dmmn_qp.qupath.notes import full_class_name
from dmmn_qp.qupath.shapes import rounded_area
from dmmn_qp.vectors.outlines import OutlineFeatures

_WITH_METADATA: Final = ("annotation", "tma_core")
"""Kinds whose metadata QuPath can read: of detections, 0.5 logs an error for each object."""

_WORD_BY_KIND: Final[dict[ObjectKind, str]] = {
    "annotation": "annotation",
    "detection": "detection",
    "tile": "tile",
    "cell": "cell",
    "tma_core": "tmaCore",
}

_DECIMALS: Final = 2


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What was written: ``written`` features; ``dropped`` ones had no area left after rounding."""

    written: int
    dropped: int


def write_geojson(
    path: Path,
    annotations: Iterable[Annotation | OutlineFeatures],
    *,
    class_colors: Mapping[str, Color] | None = None,
    decimals: int = _DECIMALS,
) -> WriteResult:
    """Writes objects as one FeatureCollection that every QuPath from 0.4 on reads.

    Features go out one by one, into a `new_file`; a failure leaves none behind. The list is flat, as QuPath's own
    exports are: ``parent_id`` and ``depth`` are not kept.

    Args:
        path: Where to write; a name ending in ``.gz`` is compressed.
        annotations: The objects, level-0 px in QuPath's frame; outlines of label regions come many at a time, which
            is some 20 times faster.
        class_colors: Colour by full class name, for annotations that bring none; then :func:`default_color`.
        decimals: Coordinates are rounded to so many decimals of a px, and polygons are valid after that.
            QuPath 0.6 and later round to 2 themselves.

    Returns:
        How many features were written and how many had nothing left.

    Raises:
        OSError: The file cannot be written.
    """
    written = dropped = 0
    with new_file(path) as temporary, ExitStack() as stack:
        file: BufferedWriter | gzip.GzipFile = stack.enter_context(temporary.open("xb"))
        if path.suffix.lower() == ".gz":
            # No name and no time in the header: equal annotations make equal files.
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
            file = stack.enter_context(packed)
        file.write(b'{"type":"FeatureCollection","features":[')
        for feature in _features(annotations, class_colors or {}, decimals):
            if feature is None:
                dropped += 1
                continue
            file.write(b",\n" if written else b"\n")
            file.write(feature)
            written += 1
        file.write(b"\n]}\n")
    return WriteResult(written, dropped)


def feature_of(annotation: Annotation) -> dict[str, Any] | None:
    """One object as :func:`write_geojson` writes it; None where nothing is left of its outline."""
    (text,) = _features([annotation], {}, _DECIMALS)
    return None if text is None else orjson.loads(text)


def _features(
    annotations: Iterable[Annotation | OutlineFeatures], class_colors: Mapping[str, Color], decimals: int
) -> Iterator[bytes | None]:
    """One feature for each object, None for those without any extent on the grid."""
    for annotation in annotations:
        if isinstance(annotation, OutlineFeatures):
            yield from _outline_features(annotation, decimals)
            continue
        geometry = _geometry(annotation.geometry, annotation.plane, decimals)
        if geometry is None:
            yield None
            continue
        if annotation.is_ellipse and geometry["type"] == "Polygon":
            geometry["isEllipse"] = True
        feature: dict[str, Any] = {"type": "Feature"}
        if annotation.annotation_id is not None:
            feature["id"] = str(annotation.annotation_id)
        feature |= {"geometry": geometry, "properties": _properties(annotation, class_colors)}
        if annotation.nucleus is not None and annotation.kind == "cell":
            nucleus = _geometry(annotation.nucleus, annotation.plane, decimals)
            if nucleus is not None:
                feature["nucleusGeometry"] = nucleus
        yield orjson.dumps(feature)


def _outline_features(objects: OutlineFeatures, decimals: int) -> Iterator[bytes]:
    """Features of outlines: all coordinates become text at once, and each feature is cut out of that text."""
    outlines = objects.outlines
    xy = outlines.xy
    if not np.issubdtype(xy.dtype, np.integer):
        xy = np.round(xy, decimals) + 0.0  # adding 0 turns -0.0 into 0.0
    text = orjson.dumps(np.ascontiguousarray(xy), option=orjson.OPT_SERIALIZE_NUMPY)  # [[x,y],[x,y],...]
    closing = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("]"))[: len(xy)]
    first = np.concatenate([[1], closing[:-1] + 2])[outlines.rings[:-1]].tolist()
    behind = (closing[outlines.rings[1:] - 1] + 1).tolist()
    polygons, features = outlines.polygons.tolist(), objects.features.tolist()
    labels = outlines.labels[objects.features[:-1]].tolist()

    def rings_of(polygon: int) -> bytes:
        rings = [text[first[i] : behind[i]] for i in range(polygons[polygon], polygons[polygon + 1])]
        return b"[[" + b"],[".join(rings) + b"]]"

    kind = orjson.dumps(_WORD_BY_KIND[objects.kind])
    opening = {
        label: b'},"properties":{"objectType":' + kind + b',"classification":' + orjson.dumps(_classification(*named))
        for label, named in objects.classes.items()
    }
    endings = {}
    for label in objects.classes:
        texts = {**objects.metadata, **objects.class_metadata.get(label, {})} if objects.kind in _WITH_METADATA else {}
        metadata = {_text(key): _text(value) for key, value in texts.items()}
        endings[label] = (b',"metadata":' + orjson.dumps(metadata) if metadata else b"") + b"}}"
    names = [orjson.dumps(_text(name)) + b":" for name in objects.measurements]
    columns = [orjson.dumps(values.tolist())[1:-1].split(b",") for values in objects.measurements.values()]
    for i, object_id in enumerate(objects.ids):
        one = features[i + 1] - features[i] == 1
        shapes = [rings_of(polygon) for polygon in range(features[i], features[i + 1])]
        # JSON knows no NaN and no infinity: orjson writes null, and QuPath 0.4 refuses a file with one.
        measured = [name + column[i] for name, column in zip(names, columns, strict=True) if column[i] != b"null"]
        yield b"".join(
            (
                b'{"type":"Feature","id":"',
                str(object_id).encode(),
                b'","geometry":{"type":"Polygon","coordinates":'
                if one
                else b'","geometry":{"type":"MultiPolygon","coordinates":[',
                b",".join(shapes),
                b"" if one else b"]",
                opening[labels[i]],
                b',"measurements":{' + b",".join(measured) + b"}" if measured else b"",
                endings[labels[i]],
            )
        )


def _properties(annotation: Annotation, class_colors: Mapping[str, Color]) -> dict[str, Any]:
    """A feature's properties; QuPath refuses a file with a null anywhere, so what is not set is not there."""
    properties: dict[str, Any] = {"objectType": _WORD_BY_KIND[annotation.kind]}
    if annotation.name:
        properties["name"] = _text(annotation.name)
    if annotation.color is not None:
        properties["color"] = list(annotation.color)
    name = full_class_name([_text(annotation.class_name)]) if annotation.class_name else None
    if name is not None and annotation.class_name is not None:
        color = annotation.class_color or class_colors.get(annotation.class_name) or default_color(name)
        properties["classification"] = _classification(name, color)
    if annotation.locked:
        properties["isLocked"] = True
    measurements = {_text(key): float(value) for key, value in annotation.measurements.items() if math.isfinite(value)}
    if measurements:
        properties["measurements"] = measurements
    if annotation.metadata:
        properties["metadata"] = {_text(key): _text(value) for key, value in annotation.metadata.items()}
    return properties


def _classification(name: str, color: Color) -> dict[str, Any]:
    """A class as QuPath reads it; the colour is always there, because QuPath refuses a class without one."""
    parts = shown_class_name(name).split(": ")
    naming: dict[str, Any] = {"names": parts} if len(parts) > 1 else {"name": parts[0]}
    return {**naming, "color": list(color)}


def shown_class_name(name: str) -> str:
    """A class's full name as it is written and as QuPath shows it: one line, its parts trimmed."""
    return full_class_name([_text(name)]) or name


def _text(text: str) -> str:
    """A text without lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _geometry(geometry: BaseGeometry, plane: Plane, decimals: int) -> dict[str, Any] | None:
    """A geometry on the grid as GeoJSON; None where nothing is left of it."""
    on_grid = _rounded(geometry, decimals)
    if on_grid is None:
        return None
    shape: dict[str, Any] = {"type": on_grid.geom_type, "coordinates": _coordinates(on_grid)}
    if plane != DEFAULT_PLANE:
        shape["plane"] = {"c": plane.c, "z": plane.z, "t": plane.t}
    return shape


def _rounded(geometry: BaseGeometry, decimals: int) -> BaseGeometry | None:
    if geometry.is_empty:
        return None
    if shapely.get_dimensions(geometry) == 2:
        return rounded_area(geometry, decimals)
    if geometry.geom_type == "GeometryCollection":
        geometry = highest_dimension([part for part in shapely.get_parts(geometry) if not part.is_empty])
    if geometry.geom_type.startswith("Multi"):
        geometry = single_or(geometry)
    return shapely.transform(geometry, lambda coordinates: np.round(coordinates, decimals) + 0.0)


def _coordinates(geometry: BaseGeometry) -> list[Any]:
    """Coordinates nested as GeoJSON wants them."""
    if geometry.geom_type == "Polygon":
        return [shapely.get_coordinates(ring).tolist() for ring in (geometry.exterior, *geometry.interiors)]
    if geometry.geom_type.startswith("Multi"):
        return [_coordinates(part) for part in geometry.geoms]
    coordinates: list[Any] = shapely.get_coordinates(geometry).tolist()
    return coordinates[0] if geometry.geom_type == "Point" else coordinates
