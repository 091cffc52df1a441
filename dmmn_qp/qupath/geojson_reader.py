"""QuPath's GeoJSON, read and written.

The reader takes every dialect that QuPath's own importer takes, of any version, and more: where QuPath
refuses a whole file for one bad feature, only that feature is left out, with a warning. The writer keeps to
what every version from 0.4 on reads. Coordinates are level-0 px in QuPath's frame, y down.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import numpy as np
import orjson
import shapely
from numpy import typing as npt
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, ObjectKind, Plane
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.geojson_values import (
    FeatureError,
    class_parts,
    color_of,
    highest_dimension,
    line_of,
    list_of,
    metadata_text,
    not_empty,
    number_of,
    points_of,
    single_or,
)
from dmmn_qp.qupath.notes import (
    REPAIRED,
    Notes,
    ReadResult,
    full_class_name,
    open_bytes,
    parse_uuid,
    paused_gc,
)
from dmmn_qp.qupath.packed_json import (
    BOM,
    LARGE_BYTES,
    MAX_TEXT_BYTES,
    FileContentError,
    NotStreamableError,
    TextStream,
    TooLargeError,
    is_zip,
    open_archive,
    open_text,
    parse_json,
    stream_features,
)
from dmmn_qp.qupath.shapes import ellipse, polygonal_part
from dmmn_qp.text import shorten

_KIND_BY_WORD: Final[dict[str, ObjectKind | None]] = {
    "annotation": "annotation",
    "detection": "detection",
    "tile": "tile",
    "cell": "cell",
    "tmaCore": "tma_core",
    "tma_core": "tma_core",
    "root": None,
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "TMACoreObject": "tma_core",
    "PathRootObject": None,
}

_GEOMETRY_TYPES: Final = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip

_ELLIPSE_TOLERANCE: Final = 0.01


def read_geojson(path: Path) -> ReadResult:
    """Read a file of objects in any of QuPath's dialects.

    Args:
        path: ``.geojson`` or ``.json``, the same with ``.gz``, or ``.zip`` of such files.

    Returns:
        All objects, parents (``childObjects``) before their children. A feature that cannot be read is left
        out with a warning and loses only itself.

    Raises:
        AnnotationFileError: The file is missing or damaged as a whole, or unpacks to more than drawn outlines
            do (see ``packed_json``).
    """
    reader = _Reader()
    try:
        with (
            open_bytes(path, "GeoJSON file", "export it from QuPath (File > Export objects as GeoJSON)") as file,
            paused_gc(),
        ):
            size = os.fstat(file.fileno()).st_size
            if is_zip(file.read(4)):
                reader.read_zip(file, size)
            else:
                reader.read_packed(open_text(file, size), path.name)
    except FileContentError as error:
        raise AnnotationFileError(f'GeoJSON file "{path}" {error}') from error
    return ReadResult(tuple(reader.annotations), reader.notes.lines())


def objects_of(content: object, name: str) -> ReadResult:
    """Objects in GeoJSON that has been parsed already.

    Args:
        content: A collection, a list of features, or a single one.
        name: What warnings call it.

    Raises:
        AnnotationFileError: It is no GeoJSON.
    """
    reader = _Reader()
    try:
        with paused_gc():
            reader.read_features(content, name)
    except FileContentError as error:
        raise AnnotationFileError(f"{name} {error}") from error
    return ReadResult(tuple(reader.annotations), reader.notes.lines())


class _Reader:
    """Collects the annotations and notes of one file; ``number`` counts features from 1, for messages."""

    def __init__(self) -> None:
        self.annotations: list[Annotation] = []
        self.notes = Notes()
        self.number = 0
        self.repaired_by_px2: float | None = None  # of the geometry that was read last

    def read_zip(self, file: BinaryIO, size: int) -> None:
        """Read every GeoJSON file of an archive; a bad one is left out as long as there is a good one."""
        texts, others = open_archive(file, size, (".geojson", ".json"))
        for name in others:
            self.notes.add("file in the archive that is neither .geojson nor .json, left out", shorten(name))
        failures: list[FileContentError] = []
        unpacked = 0
        for name, text in texts.items():
            try:
                self.read_text(text, shorten(name))
            except TooLargeError:
                raise
            except FileContentError as error:
                failures.append(error)
                self.notes.add("damaged file in the archive, left out", f"{shorten(name)} {error}")
            unpacked += text.position
            if text.limit is not None and unpacked > text.limit:
                raise TooLargeError(text.limit)
        if failures and len(failures) == len(texts):
            raise failures[0]

    def read_packed(self, stream: TextStream, name: str) -> None:
        """Read a single file, packed or not, whatever it is called."""
        endings = (".geojson.gz", ".json.gz") if stream.limit is not None else (".geojson", ".json")
        if not name.lower().endswith(endings):
            self.notes.add(f"file that QuPath does not read under its name (it needs {endings[0]})", name)
        self.read_text(stream, name)

    def read_text(self, stream: TextStream, name: str) -> None:
        """Read one file: as a whole, or feature by feature where it is large and strict enough."""
        data = stream.read(LARGE_BYTES + 1)
        if len(data) > LARGE_BYTES:
            del data
            stream.rewind()
            if self.read_large(stream):
                return
            stream.rewind()
            data = stream.read(MAX_TEXT_BYTES + 1)
            if len(data) > MAX_TEXT_BYTES:
                raise FileContentError(
                    f"is larger than {MAX_TEXT_BYTES >> 20} MiB and no strict JSON, which alone is read in parts; "
                    "export it again from QuPath"
                )
        self.read_whole(data, name)

    def read_large(self, stream: TextStream) -> bool:
        """Read a text feature by feature; whether it could be, else nothing of it is kept."""
        before = len(self.annotations), copy.deepcopy(self.notes), self.number
        try:
            for feature in stream_features(stream):
                self.walk(feature, "")
        except NotStreamableError:
            count, self.notes, self.number = before
            del self.annotations[count:]
            return False
        return True

    def read_whole(self, data: bytes, name: str) -> None:
        """Read one unpacked file that is in memory."""
        if not data.removeprefix(BOM).strip():
            self.notes.add("empty file", name)
            return
        content, is_utf8 = parse_json(data)
        if not is_utf8:
            self.notes.add("file that is not UTF-8, some characters are lost (save it as UTF-8)", name)
        self.read_features(content, name)

    def read_features(self, content: object, name: str) -> None:
        """Read the whole content of a file.

        Raises:
            FileContentError: It is no GeoJSON.
        """
        if isinstance(content, dict) and not _is_known(content):
            raise FileContentError("holds no GeoJSON that QuPath imports; export it as one FeatureCollection")
        if not isinstance(content, (dict, list)):
            raise FileContentError("holds no GeoJSON but a single value; export it as one FeatureCollection")
        self.walk(content, name)

    def walk(self, content: object, name: str) -> None:
        """Go through collections, lists and child objects without recursion."""
        pending: list[tuple[object, UUID | None, int]] = [(content, None, 0)]
        while pending:
            value, parent_id, depth = pending.pop()
            inner: object = value
            if isinstance(value, dict):
                if value.get("type") in ("Feature", *_GEOMETRY_TYPES) or "features" not in value:
                    self.number += 1
                    annotation, inner = self.read_feature(value, parent_id, depth)
                    if annotation is not None:
                        parent_id, depth = annotation.annotation_id or parent_id, depth + 1
                else:
                    inner = value["features"]
                    if value.get("type") != "FeatureCollection":
                        self.notes.add(
                            'features outside a "FeatureCollection", which QuPath itself does not read', name
                        )
            if isinstance(inner, list):
                pending.extend((item, parent_id, depth) for item in reversed(inner))
            else:
                self.note("something that is no list of features, left out")

    def note(self, reason: str) -> None:
        self.notes.add(reason, f"feature {self.number}")

    def read_feature(
        self, value: dict[str, Any], parent_id: UUID | None, depth: int
    ) -> tuple[Annotation | None, object]:
        """Read one feature, or one bare geometry.

        Returns:
            The annotation, or None where it cannot be read, and the children.
        """
        if value.get("type") in _GEOMETRY_TYPES:
            value = {"type": "Feature", "geometry": value}
        properties = value.get("properties", {})
        if not isinstance(properties, dict):
            self.note('"properties" that QuPath itself refuses, ignored')
            properties = {}
        children = properties.get("childObjects", [])
        try:
            annotation = self.annotation(value, properties, parent_id, depth)
        except FeatureError as error:
            self.note(f"{error}, left out")
            return None, children
        self.annotations.append(annotation)
        return annotation, children

    def annotation(
        self, feature: dict[str, Any], properties: dict[str, Any], parent_id: UUID | None, depth: int
    ) -> Annotation:
        """Read one feature's own values.

        Raises:
            _FeatureError: It has no usable geometry, or is the root of a hierarchy.
        """
        if feature.get("type") != "Feature":
            raise FeatureError("something that is no feature")
        kind = self.kind(feature, properties)
        if kind is None:
            raise FeatureError("root of a hierarchy")
        geometry, is_ellipse = self.geometry(feature.get("geometry"))
        repaired_by_px2 = self.repaired_by_px2
        class_name, class_color = self.classification(properties.get("classification"))
        nucleus: BaseGeometry | None = None
        if feature.get("nucleusGeometry") is not None:
            try:
                nucleus, _ = self.geometry(feature["nucleusGeometry"])
            except FeatureError as error:
                self.note(f"nucleus: {error}, left out")
        return Annotation(
            geometry=geometry,
            class_name=class_name,
            class_color=class_color,
            annotation_id=self.id(feature),
            kind=kind,
            name=self.name(properties),
            locked=properties.get("isLocked") is True or properties.get("isLocked") == "true",
            color=self.own_color(properties.get("color")),
            measurements=self.measurements(properties.get("measurements")),
            metadata=self.metadata(properties.get("metadata")),
            plane=self.plane(feature["geometry"]),
            parent_id=parent_id,
            depth=depth,
            is_ellipse=is_ellipse,
            nucleus=nucleus,
            repaired_by_px2=repaired_by_px2,
        )

    def kind(self, feature: dict[str, Any], properties: dict[str, Any]) -> ObjectKind | None:
        """Kind of object under any of the names it has had; None for a root."""
        for key in ("objectType", "object_type", "type"):
            if key in properties:
                word = properties[key]
                break
        else:
            legacy = feature.get("id")
            word = legacy if isinstance(legacy, str) and legacy in _KIND_BY_WORD else "annotation"
        if isinstance(word, str) and word in _KIND_BY_WORD:
            return _KIND_BY_WORD[word]
        self.note("unknown type of object, read as an annotation")
        return "annotation"

    def id(self, feature: dict[str, Any]) -> UUID | None:
        if "id" in feature and not isinstance(feature["id"], (str, int, float)):
            self.note("id that QuPath itself refuses, ignored")
        return parse_uuid(feature.get("id"))

    def name(self, properties: dict[str, Any]) -> str | None:
        if "name" not in properties:
            return None
        name = properties["name"]
        if isinstance(name, (str, int, float)):
            return str(name) or None
        self.note("name that QuPath itself refuses, ignored")
        return None

    def classification(self, value: object) -> tuple[str | None, Color | None]:
        """Full name and colour of a class, in any of the forms that versions and tools write."""
        if isinstance(value, str) and value.startswith("{"):
            try:
                value = orjson.loads(value)
                self.note("classification in JSON inside a text, unpacked")
            except orjson.JSONDecodeError:
                pass
        if value is None or value == {}:
            return None, None
        if isinstance(value, str):
            return self.class_name([value]), None
        if not isinstance(value, dict):
            self.note("classification that QuPath itself refuses, ignored")
            return None, None
        name = self.class_name(class_parts(value))
        return (None, None) if name is None else (name, self.class_color(value))

    def class_name(self, parts: list[str] | None) -> str | None:
        name = full_class_name(parts) if parts else None
        if parts is None or name is None:
            self.note("class without a name, ignored")
            return None
        written = [piece for part in parts for piece in part.split(":")]
        if any("\n" in piece or "\r" in piece or not piece.strip() for piece in written):
            self.note("class name that QuPath itself refuses, tidied")
        if name == "Unclassified":
            self.note('class "Unclassified", read as no class')
            return None
        return name

    def class_color(self, value: dict[str, Any]) -> Color | None:
        packed = value.get("colorRGB")
        if type(packed) is int:
            return argb_to_rgb(packed)
        color = value.get("color")
        if "color" not in value:
            self.note("class without a colour, which QuPath 0.4 and later refuse")
        if color is None or color == []:
            return None
        read = color_of(color, lengths=(3, 4))
        if read is None:
            self.note("class colour that is none, ignored")
        elif not isinstance(color, list):
            self.note("class colour written as QuPath 0.4 and later refuse it")
        return read

    def own_color(self, value: object) -> Color | None:
        if value is None:
            return None
        read = color_of(value, lengths=(3,))
        if read is None:
            self.note("object colour that is none, ignored")
        elif isinstance(value, str):
            self.note("object colour written as QuPath itself refuses it")
        return read

    def measurements(self, value: object) -> dict[str, float]:
        """Read a map, or a list of names and values; NaN and infinities may be written as texts."""
        if isinstance(value, list):
            pairs = [(item.get("name"), item.get("value")) for item in value if isinstance(item, dict)]
            complete = len(pairs) == len(value)
        else:
            pairs = list(value.items()) if isinstance(value, dict) else []
            complete = value is None or isinstance(value, dict)
        measurements: dict[str, float] = {}
        for name, written in pairs:
            number = number_of(written)
            if number is not None and isinstance(name, str):
                measurements[name] = number
            elif written is not None:
                complete = False
        if not complete:
            self.note("measurement that is no number, left out")
        return measurements

    def metadata(self, value: object) -> dict[str, str]:
        if isinstance(value, dict):
            texts = {key: metadata_text(text) for key, text in value.items()}
            return {key: text for key, text in texts.items() if text is not None}
        if value is not None:
            self.note("metadata that are no map, left out")
        return {}

    def plane(self, geometry: dict[str, Any]) -> Plane:
        value = geometry.get("plane", {})
        if isinstance(value, dict):
            axes = [value.get(axis, default) for axis, default in (("c", -1), ("z", 0), ("t", 0))]
            if all(isinstance(axis, (int, float)) and abs(axis) < 2**31 and axis == int(axis) for axis in axes):
                c, z, t = (int(axis) for axis in axes)
                return DEFAULT_PLANE if (c, z, t) == (-1, 0, 0) else Plane(c, z, t)
        self.note("plane that QuPath itself refuses, ignored")
        return DEFAULT_PLANE

    def geometry(self, value: object) -> tuple[BaseGeometry, bool]:
        """Build a geometry, repaired where QuPath or anyone else would stumble over it.

        Returns:
            The geometry, and whether it stands for an ellipse.

        Raises:
            _FeatureError: There is none, or it covers nothing, or its kind is unknown.
        """
        self.repaired_by_px2 = None
        if not isinstance(value, dict) or not value:
            raise FeatureError("feature without a geometry")
        if value.get("type") == "GeometryCollection":
            return self.collection(value), False
        geometry = self.simple_geometry(value)
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            return geometry, False
        is_ellipse = value.get("isEllipse") is True and geometry.geom_type == "Polygon"
        if is_ellipse:
            box = ellipse(*geometry.bounds)
            if abs(geometry.area - box.area) > _ELLIPSE_TOLERANCE * box.area:
                geometry = box
        return geometry, is_ellipse

    def simple_geometry(self, value: dict[str, Any]) -> BaseGeometry:
        kind, coordinates = value.get("type"), value.get("coordinates")
        try:
            if kind == "Polygon":
                return self.area([list_of(coordinates)])
            if kind == "MultiPolygon":
                return self.area([list_of(part) for part in list_of(coordinates)])
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

    def area(self, parts: list[list[Any]]) -> BaseGeometry:
        """Build polygons from their rings, close what is open, and repair what crosses itself."""
        polygons: list[BaseGeometry] = []
        for rings in parts:
            closed = [self.ring(ring) for ring in rings]
            if closed and closed[0] is not None:
                polygons.append(shapely.Polygon(closed[0], [hole for hole in closed[1:] if hole is not None]))
        if not polygons:
            raise FeatureError("outline that covers no area")
        if len(polygons) < len(parts):
            self.note("part of an outline that covers no area, left out")
        whole = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
        part = polygonal_part(whole)
        if part is None:
            raise FeatureError("outline that covers no area")
        if part is not whole and not whole.is_valid:
            self.note(REPAIRED)
            self.repaired_by_px2 = (self.repaired_by_px2 or 0.0) + part.area - whole.area
        return part

    def ring(self, value: object) -> npt.NDArray[np.float64] | None:
        """One ring's points, closed or not; None for fewer than three corners."""
        points = points_of(value)
        if len(points) and (points[0] != points[-1]).any():
            self.note("ring that is not closed, which QuPath itself refuses, closed")
        elif len(points):
            points = points[:-1]
        return points if len(points) >= 3 else None

    def collection(self, value: dict[str, Any]) -> BaseGeometry:
        """Merge a collection's parts of the highest dimension, as QuPath does."""
        parts: list[BaseGeometry] = []
        pending: list[object] = [value]
        while pending:
            item = pending.pop()
            if not isinstance(item, dict):
                raise FeatureError("geometry of an unknown type")
            if item.get("type") == "GeometryCollection":
                pending.extend(reversed(list_of(item.get("geometries"))))
            else:
                parts.append(self.simple_geometry(item))
        if not parts:
            raise FeatureError("outline that covers no area")
        self.note("GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind")
        return highest_dimension(parts)


def _is_known(value: dict[str, Any]) -> bool:
    """Whether a top-level object is GeoJSON, or at least holds features."""
    return value.get("type") in ("FeatureCollection", "Feature", *_GEOMETRY_TYPES) or "features" in value


GEOJSON_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz", ".zip")
