"""QuPath's GeoJSON, read and written.

The reader takes every dialect that QuPath's own importer takes, of any version, and more: where QuPath
refuses a whole file for one bad feature, only that feature is left out, with a warning. The writer keeps to
what every version from 0.4 on reads. Coordinates are level-0 px in QuPath's frame, y down.
"""

from __future__ import annotations

import copy
import gzip
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import geojson
import numpy as np
import numpy.typing as npt
import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, ObjectKind, Plane
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.classes import argb_to_rgb, default_color
from dmmn_qp.qupath.notes import (
    REPAIRED,
    Notes,
    ReadResult,
    full_class_name,
    open_bytes,
    parse_uuid,
    paused_gc,
    shorten,
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
from dmmn_qp.qupath.shapes import are_usable, ellipse, polygonal_part, rounded_area
from dmmn_qp.vectors.outlines import OutlineFeatures

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
_WORD_BY_KIND: Final[dict[ObjectKind, str]] = {
    "annotation": "annotation",
    "detection": "detection",
    "tile": "tile",
    "cell": "cell",
    "tma_core": "tmaCore",
}
_GEOMETRY_TYPES: Final = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection",
)  # fmt: skip
_ELLIPSE_TOLERANCE: Final = 0.01
_DECIMALS: Final = 2
_HEX_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}")


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


class _FeatureError(ValueError):
    """A feature that cannot be read; the message is the reason alone."""


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
        except _FeatureError as error:
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
            raise _FeatureError("something that is no feature")
        kind = self.kind(feature, properties)
        if kind is None:
            raise _FeatureError("root of a hierarchy")
        geometry, is_ellipse = self.geometry(feature.get("geometry"))
        repaired_by_px2 = self.repaired_by_px2
        class_name, class_color = self.classification(properties.get("classification"))
        nucleus: BaseGeometry | None = None
        if feature.get("nucleusGeometry") is not None:
            try:
                nucleus, _ = self.geometry(feature["nucleusGeometry"])
            except _FeatureError as error:
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
        name = self.class_name(_class_parts(value))
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
        read = _color_of(color, lengths=(3, 4))
        if read is None:
            self.note("class colour that is none, ignored")
        elif not isinstance(color, list):
            self.note("class colour written as QuPath 0.4 and later refuse it")
        return read

    def own_color(self, value: object) -> Color | None:
        if value is None:
            return None
        read = _color_of(value, lengths=(3,))
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
            number = _number(written)
            if number is not None and isinstance(name, str):
                measurements[name] = number
            elif written is not None:
                complete = False
        if not complete:
            self.note("measurement that is no number, left out")
        return measurements

    def metadata(self, value: object) -> dict[str, str]:
        if isinstance(value, dict):
            texts = {key: _metadata_text(text) for key, text in value.items()}
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
            raise _FeatureError("feature without a geometry")
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
                return self.area([_list(coordinates)])
            if kind == "MultiPolygon":
                return self.area([_list(part) for part in _list(coordinates)])
            if kind == "Point":
                return shapely.Point(_points([coordinates])[0])
            if kind == "MultiPoint":
                return _single_or(shapely.MultiPoint(_some(_points(coordinates))))
            if kind == "LineString":
                return _line(coordinates)
            if kind == "MultiLineString":
                return _single_or(shapely.MultiLineString([_line(part) for part in _some(_list(coordinates))]))
        except _FeatureError:
            raise
        except (
            ValueError,
            TypeError,
            IndexError,
            OverflowError,
            RecursionError,
            shapely.errors.ShapelyError,
        ):
            raise _FeatureError("geometry whose coordinates are no points") from None
        raise _FeatureError("geometry of an unknown type")

    def area(self, parts: list[list[Any]]) -> BaseGeometry:
        """Build polygons from their rings, close what is open, and repair what crosses itself."""
        polygons: list[BaseGeometry] = []
        for rings in parts:
            closed = [self.ring(ring) for ring in rings]
            if closed and closed[0] is not None:
                polygons.append(shapely.Polygon(closed[0], [hole for hole in closed[1:] if hole is not None]))
        if not polygons:
            raise _FeatureError("outline that covers no area")
        if len(polygons) < len(parts):
            self.note("part of an outline that covers no area, left out")
        whole = polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)
        part = polygonal_part(whole)
        if part is None:
            raise _FeatureError("outline that covers no area")
        if part is not whole and not whole.is_valid:
            self.note(REPAIRED)
            self.repaired_by_px2 = (self.repaired_by_px2 or 0.0) + part.area - whole.area
        return part

    def ring(self, value: object) -> npt.NDArray[np.float64] | None:
        """One ring's points, closed or not; None for fewer than three corners."""
        points = _points(value)
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
                raise _FeatureError("geometry of an unknown type")
            if item.get("type") == "GeometryCollection":
                pending.extend(reversed(_list(item.get("geometries"))))
            else:
                parts.append(self.simple_geometry(item))
        if not parts:
            raise _FeatureError("outline that covers no area")
        self.note("GeometryCollection, which QuPath 0.6 and later refuse, read as its largest kind")
        return _highest_dimension(parts)


def _is_known(value: dict[str, Any]) -> bool:
    """Whether a top-level object is GeoJSON, or at least holds features."""
    return value.get("type") in ("FeatureCollection", "Feature", *_GEOMETRY_TYPES) or "features" in value


def _class_parts(value: dict[str, Any]) -> list[str] | None:
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


def _color_of(value: object, lengths: tuple[int, ...]) -> Color | None:
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


def _number(value: object) -> float | None:
    if type(value) in (int, float):
        try:
            return float(value)  # type: ignore[arg-type]
        except OverflowError:
            return None
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    return None


def _metadata_text(value: object) -> str | None:
    """A value of metadata as text: JSON for what is none, None for null and for what JSON cannot hold."""
    if isinstance(value, str) or value is None:
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return None


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise _FeatureError("geometry whose coordinates are no points")
    return value


def _some(value: Any) -> Any:
    """A list or array that must not be empty."""
    if not len(value):
        raise _FeatureError("geometry without points")
    return value


def _points(value: object) -> npt.NDArray[np.float64]:
    """Points as an array (n, 2); what follows x and y is dropped, as QuPath does.

    Raises:
        _FeatureError: They are no pairs of finite numbers on a thinkable slide.
        ValueError: They are no numbers at all.
    """
    points = _list(value)
    if not points:
        return np.empty((0, 2))
    if len({len(point) for point in points}) > 1:
        points = [point[:2] for point in points]
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise _FeatureError("geometry whose coordinates are no points")
    array = array[:, :2]
    if not are_usable(array):
        raise _FeatureError("geometry whose coordinates are no numbers on a slide")
    return array


def _line(value: object) -> BaseGeometry:
    points = _points(value)
    if len(points) < 2:
        raise _FeatureError("line of fewer than two points")
    return shapely.LineString(points)


def _single_or(geometry: BaseGeometry) -> BaseGeometry:
    """The only part of a multi-geometry, or the geometry as it is."""
    return geometry.geoms[0] if len(geometry.geoms) == 1 else geometry


def _highest_dimension(parts: list[BaseGeometry]) -> BaseGeometry:
    """One geometry of the parts of the highest dimension among some."""
    dimension = max(shapely.get_dimensions(parts))
    kept = [single for part in parts if shapely.get_dimensions(part) == dimension for single in shapely.get_parts(part)]
    if dimension == 0:
        return _single_or(shapely.MultiPoint(kept))
    if dimension == 1:
        return _single_or(shapely.MultiLineString(kept))
    area = polygonal_part(shapely.GeometryCollection(kept))
    if area is None:
        raise _FeatureError("outline that covers no area")
    return area


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
    """Write objects as one FeatureCollection that every QuPath from 0.4 on reads.

    Features go out one by one, into a temporary file that takes the place of ``path`` at the end; a failure
    leaves no file behind. The list is flat, as QuPath's own exports are: ``parent_id`` and ``depth`` are not kept.

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
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with ExitStack() as stack:
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
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
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
        feature = geojson.Feature(
            id=None if annotation.annotation_id is None else str(annotation.annotation_id),
            geometry=geometry,
            properties=_properties(annotation, class_colors),
        )
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
        texts = {**objects.metadata, **objects.class_metadata.get(label, {})}
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
    # Filled in later: the constructors would round and copy every coordinate in Python.
    shape: dict[str, Any] = getattr(geojson, on_grid.geom_type)()
    shape["coordinates"] = _coordinates(on_grid)
    if plane != DEFAULT_PLANE:
        shape["plane"] = {"c": plane.c, "z": plane.z, "t": plane.t}
    return shape


def _rounded(geometry: BaseGeometry, decimals: int) -> BaseGeometry | None:
    if geometry.is_empty:
        return None
    if shapely.get_dimensions(geometry) == 2:
        return rounded_area(geometry, decimals)
    if geometry.geom_type == "GeometryCollection":
        geometry = _highest_dimension([part for part in shapely.get_parts(geometry) if not part.is_empty])
    if geometry.geom_type.startswith("Multi"):
        geometry = _single_or(geometry)
    return shapely.transform(geometry, lambda coordinates: np.round(coordinates, decimals) + 0.0)


def _coordinates(geometry: BaseGeometry) -> list[Any]:
    """Coordinates nested as GeoJSON wants them."""
    if geometry.geom_type == "Polygon":
        return [shapely.get_coordinates(ring).tolist() for ring in (geometry.exterior, *geometry.interiors)]
    if geometry.geom_type.startswith("Multi"):
        return [_coordinates(part) for part in geometry.geoms]
    coordinates: list[Any] = shapely.get_coordinates(geometry).tolist()
    return coordinates[0] if geometry.geom_type == "Point" else coordinates
