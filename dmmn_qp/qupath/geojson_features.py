"""Features in GeoJSON, of any of QuPath's dialects -> annotations."""

from __future__ import annotations

import re
from typing import Any, Final
from uuid import UUID

import orjson
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, ObjectKind, Plane
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.geojson_geometries import GEOMETRY_TYPES, GeometryReader
from dmmn_qp.qupath.geojson_values import FeatureError, class_parts, color_of, metadata_text, number_of
from dmmn_qp.qupath.notes import Notes, full_class_name, parse_uuid
from dmmn_qp.qupath.python_text import parse_python_text

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


class FeatureReader:
    """Reads features one by one.

    Attributes:
        notes: What was repaired or left out.
        number: How many features were met, for messages.
    """

    def __init__(self) -> None:
        self.notes = Notes()
        self.number = 0
        self._geometries = GeometryReader(self.note)

    def note(self, reason: str) -> None:
        """Notes what was repaired or left out of the feature at hand."""
        self.notes.add(reason, f"feature {self.number}")

    def read(self, value: dict[str, Any], parent_id: UUID | None, depth: int) -> tuple[Annotation | None, object]:
        """Reads one feature, or one bare geometry.

        Returns:
            The annotation, or None where it cannot be read, and the children.
        """
        self.number += 1
        if value.get("type") in GEOMETRY_TYPES:
            value = {"type": "Feature", "geometry": value}
        properties = value.get("properties", {})
        if not isinstance(properties, dict):
            self.note('"properties" that QuPath itself refuses, ignored')
            properties = {}
        children = properties.get("childObjects", [])
        try:
            annotation = self._annotation(value, properties, parent_id, depth)
        except FeatureError as error:
            self.note(f"{error}, left out")
            return None, children
        return annotation, children

    def _annotation(
        self, feature: dict[str, Any], properties: dict[str, Any], parent_id: UUID | None, depth: int
    ) -> Annotation:
        """Reads one feature's own values.

        Raises:
            FeatureError: It has no usable geometry, or is the root of a hierarchy.
        """
        if feature.get("type") != "Feature":
            raise FeatureError("something that is no feature")
        kind = self._kind(feature, properties)
        if kind is None:
            raise FeatureError("root of a hierarchy")
        geometry, is_ellipse = self._geometries.read(feature.get("geometry"))
        repaired_by_px2 = self._geometries.repaired_by_px2
        class_name, class_color = self._classification(properties.get("classification"))
        nucleus: BaseGeometry | None = None
        if feature.get("nucleusGeometry") is not None:
            try:
                nucleus, _ = self._geometries.read(feature["nucleusGeometry"])
            except FeatureError as error:
                self.note(f"nucleus: {error}, left out")
        return Annotation(
            geometry=geometry,
            class_name=class_name,
            class_color=class_color,
            annotation_id=self._id(feature),
            kind=kind,
            name=self._name(properties),
            locked=properties.get("isLocked") is True or properties.get("isLocked") == "true",
            color=self._own_color(properties.get("color")),
            measurements=self._measurements(properties.get("measurements")),
            metadata=self._metadata(properties.get("metadata")),
            plane=self._plane(feature["geometry"]),
            parent_id=parent_id,
            depth=depth,
            is_ellipse=is_ellipse,
            nucleus=nucleus,
            repaired_by_px2=repaired_by_px2,
        )

    def _kind(self, feature: dict[str, Any], properties: dict[str, Any]) -> ObjectKind | None:
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

    def _id(self, feature: dict[str, Any]) -> UUID | None:
        if "id" in feature and not isinstance(feature["id"], (str, int, float)):
            self.note("id that QuPath itself refuses, ignored")
        return parse_uuid(feature.get("id"))

    def _name(self, properties: dict[str, Any]) -> str | None:
        if "name" not in properties:
            return None
        name = properties["name"]
        if isinstance(name, (str, int, float)):
            return str(name) or None
        self.note("name that QuPath itself refuses, ignored")
        return None

    def _classification(self, value: object) -> tuple[str | None, Color | None]:
        """Full name and colour of a class, in any of the forms that versions and tools write."""
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = self._unpacked(value)
        if value is None or value == {}:
            return None, None
        if isinstance(value, str):
            return self._class_name([value]), None
        if not isinstance(value, dict):
            self.note("classification that QuPath itself refuses, ignored")
            return None, None
        name = self._class_name(class_parts(value))
        return (None, None) if name is None else (name, self._class_color(value))

    def _unpacked(self, text: str) -> object:
        """What a classification that was written as text stands for; the text itself where it stands for nothing."""
        for language, parse in (("JSON", orjson.loads), ("Python", parse_python_text)):
            try:
                value: object = parse(text)
            except ValueError:
                continue
            self.note(f"classification in {language} inside a text, unpacked")
            return value
        if re.search(r"['\"]name['\"]", text):
            self.note("classification that looks like data inside a text, but is none, read as the name of a class")
        return text

    def _class_name(self, parts: list[str] | None) -> str | None:
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

    def _class_color(self, value: dict[str, Any]) -> Color | None:
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

    def _own_color(self, value: object) -> Color | None:
        if value is None:
            return None
        read = color_of(value, lengths=(3,))
        if read is None:
            self.note("object colour that is none, ignored")
        elif isinstance(value, str):
            self.note("object colour written as QuPath itself refuses it")
        return read

    def _measurements(self, value: object) -> dict[str, float]:
        """Reads a map, or a list of names and values; NaN and infinities may be written as texts."""
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

    def _metadata(self, value: object) -> dict[str, str]:
        if isinstance(value, dict):
            texts = {key: metadata_text(text) for key, text in value.items()}
            return {key: text for key, text in texts.items() if text is not None}
        if value is not None:
            self.note("metadata that are no map, left out")
        return {}

    def _plane(self, geometry: dict[str, Any]) -> Plane:
        value = geometry.get("plane", {})
        if isinstance(value, dict):
            axes = [value.get(axis, default) for axis, default in (("c", -1), ("z", 0), ("t", 0))]
            if all(isinstance(axis, (int, float)) and abs(axis) < 2**31 and axis == int(axis) for axis in axes):
                c, z, t = (int(axis) for axis in axes)
                return DEFAULT_PLANE if (c, z, t) == (-1, 0, 0) else Plane(c, z, t)
        self.note("plane that QuPath itself refuses, ignored")
        return DEFAULT_PLANE
