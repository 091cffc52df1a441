"""Reads the objects of one image from QuPath's ``data.qpdata`` (data file versions 2 to 4), without Java."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
import shapely
from numpy import typing as npt

from dmmn_qp.annotations import Annotation, Color, ObjectKind
from dmmn_qp.errors import AnnotationFileError, UnsupportedAnnotationsError
from dmmn_qp.qupath.java_stream import (
    BlockData,
    JavaArray,
    JavaClass,
    JavaObject,
    JavaStreamError,
    JavaValue,
    read_stream,
)
from dmmn_qp.qupath.notes import Notes, ReadResult, full_class_name, parse_uuid, paused_gc, read_bytes
from dmmn_qp.qupath.qpdata_outlines import (
    JAVA_DOUBLE,
    JAVA_INT,
    DamagedError,
    Roi,
    UnsupportedError,
    numbers_of,
    plane_of,
    roi_of,
)
from dmmn_qp.qupath.qpdata_values import (
    Run,
    checked_count,
    color_of,
    elements_of,
    length_of,
    measurement_of,
    simple_name,
    unboxed,
    uuid_of,
)
from dmmn_qp.qupath.shapes import MAX_COORDINATE
from dmmn_qp.text import shorten

_VERSIONS: Final = (2, 3, 4)

_ID_KEY: Final = "Object ID"

_CLASS_PARTS: Final = 100

_POLYGON: Final = "qupath.lib.roi.PolygonROI$SerializationProxy"

_KINDS: Final[dict[str, ObjectKind | None]] = {
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tma_core",
    "PathDetectionObject": "detection",
    "PathAnnotationObject": "annotation",
    "PathRootObject": None,
}


def read_qpdata(path: Path) -> ReadResult:
    """Reads every object of an image.

    Args:
        path: The ``data.qpdata`` of a project's entry.

    Returns:
        All objects of the hierarchy, flattened, parents before their children, siblings in QuPath's order.
        Geometries are level-0 px in QuPath's frame. Objects whose outline is missing or covers nothing are
        left out with a warning; their children are kept and count as children of the nearest object that is
        kept.

    Raises:
        UnsupportedAnnotationsError: It is of a version, or holds a kind of object, that is not known.
        AnnotationFileError: The file is missing or damaged.
    """
    data = read_bytes(path, "QuPath data file", "open and save the image in QuPath, or check the project folder")
    try:
        with paused_gc(), np.errstate(invalid="ignore"):  # NaN is looked for afterwards
            return _Reader(read_stream(data), len(data)).read()
    except (JavaStreamError, DamagedError) as error:
        raise AnnotationFileError(
            f'QuPath data file "{path}" is truncated or damaged: {error}; {way_out_of_damage(path)}'
        ) from error
    except UnsupportedError as error:
        raise UnsupportedAnnotationsError(f'QuPath data file "{path}" {error}') from error


def way_out_of_damage(path: Path) -> str:
    """What to do about a damaged or missing file: QuPath keeps the last but one version beside it."""
    backup = path.with_name(path.name + ".bkp")
    if backup.is_file():
        return f'copy its backup "{backup.name}" over it (the annotations before the last save)'
    return "restore a copy of it, or open and save the image in QuPath"


class _Reader:
    """Turns the stream's objects into annotations; each shared Java object is translated once."""

    def __init__(self, items: list[JavaValue], size: int) -> None:
        self.items = items
        self.notes = Notes()
        self.kinds: dict[int, ObjectKind | None] = {}
        self.classes: dict[int, tuple[str | None, Color | None]] = {}
        self.rois: dict[int, Roi] = {}
        self.measurement_lists: dict[int, dict[str, float]] = {}
        self.metadata_maps: dict[int, tuple[dict[str, str], UUID | None]] = {}
        self.budget = size

    def spend(self, values: int) -> None:
        """Counts values taken from the stream, each at least a byte there.

        Back references could make a small file stand for any number of them.
        """
        self.budget -= values
        if self.budget < 0:
            raise DamagedError("its objects share more than QuPath's ever do")

    def spend_outline(self, value: JavaObject) -> None:
        """Counts the coordinates of an outline."""
        self.spend(sum(length_of(value.fields.get(name)) for name in ("x", "y", "wkb")))

    def read(self) -> ReadResult:
        self.check_frame()
        hierarchy = next((item for item in self.items if simple_name(item) == "PathObjectHierarchy"), None)
        if not isinstance(hierarchy, JavaObject):
            raise DamagedError("it holds no object hierarchy")
        self.build_polygons(hierarchy)
        return ReadResult(tuple(self.flatten(hierarchy)), self.notes.lines())

    def build_polygons(self, hierarchy: JavaObject) -> None:
        """Builds all plain polygons at once, which is much faster than one by one.

        Only what is sound is kept: the rest is found missing later, and repaired or refused then.
        """
        polygons: list[tuple[JavaObject, npt.NDArray[np.generic], npt.NDArray[np.generic]]] = []
        seen: set[int] = set()
        pending: list[JavaValue] = [hierarchy.fields.get("rootObject")]
        room = self.budget
        while pending:
            value = pending.pop()
            if not isinstance(value, JavaObject) or id(value) in seen:
                continue
            seen.add(id(value))
            if value.java_class.name == _POLYGON:
                x, y = (getattr(value.fields.get(axis), "values", None) for axis in "xy")
                if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and len(x) == len(y) >= 3:
                    room -= 2 * len(x)
                    if room < 0:  # outlines that share arrays, which is found out later
                        return
                    polygons.append((value, x, y))
            else:
                pending.extend(value.items)
        if not polygons:
            return
        lengths = np.array([len(x) for _, x, _ in polygons])
        points = np.empty((int(lengths.sum()), 2))
        np.concatenate([x for _, x, _ in polygons], out=points[:, 0], casting="unsafe")
        np.concatenate([y for _, _, y in polygons], out=points[:, 1], casting="unsafe")
        largest = np.maximum.reduceat(np.abs(points).max(axis=1), np.cumsum(lengths) - lengths)
        usable = largest <= MAX_COORDINATE  # NaN is never less
        rows = np.repeat(np.where(usable, np.cumsum(usable) - 1, -1), lengths)
        rings = shapely.linearrings(points[rows >= 0], indices=rows[rows >= 0])
        areas = shapely.polygons(rings)
        kept = (value for (value, _, _), is_usable in zip(polygons, usable, strict=True) if is_usable)
        for value, area, is_valid in zip(kept, areas, shapely.is_valid(areas), strict=True):
            if is_valid:
                self.spend_outline(value)
                self.rois[id(value)] = Roi(area, plane_of(value))

    def check_frame(self) -> None:
        """The stream starts with its version and ends with a word of its own."""
        first = self.items[0] if self.items else None
        match = re.fullmatch(rb"..Data file version (\d{1,9})", first.data) if isinstance(first, BlockData) else None
        if match is None:
            raise DamagedError("it does not start with a data file version")
        if int(match[1]) not in _VERSIONS:
            raise UnsupportedError(
                f"has data file version {int(match[1])}, but only 2 to 4 are known; "
                "export the objects as GeoJSON from the QuPath that wrote it"
            )
        if self.items[-1] != "EOF":
            raise DamagedError("its end is missing")

    def flatten(self, hierarchy: JavaObject) -> Iterator[Annotation]:
        """All objects, depth first; a core may be in the TMA grid only."""
        cores = elements_of(hierarchy.fields.get("tmaGrid"), "cores")
        pending: list[tuple[JavaValue, UUID | None, int]] = [(core, None, 0) for core in reversed(cores)]
        pending.append((hierarchy.fields.get("rootObject"), None, 0))
        seen: set[int] = set()
        while pending:
            value, parent_id, depth = pending.pop()
            if not isinstance(value, JavaObject):
                raise DamagedError("something else where an object of the hierarchy belongs")
            if id(value) in seen:
                continue
            seen.add(id(value))
            annotation, children = self.path_object(value, parent_id, depth)
            if annotation is not None:
                parent_id = annotation.annotation_id or parent_id
                depth += 1
                yield annotation
            pending.extend((child, parent_id, depth) for child in reversed(children))

    def path_object(
        self, value: JavaObject, parent_id: UUID | None, depth: int
    ) -> tuple[Annotation | None, list[JavaValue]]:
        """Reads one object's run of items.

        Returns:
            The annotation, or None for the root and for an object without an outline; and its children.
        """
        kind = self.kind(value.java_class)
        run = Run(value)
        name = run.take()
        color = color_of(run.take())
        annotation_id, metadata, measurements = self.descriptions(run)
        children = [run.take() for _ in range(checked_count(run.primitive(JAVA_INT), value))]
        if kind is None:
            return None, children
        locked = False
        if simple_name(run.peek()) == "Boolean":
            locked = unboxed(run.take()) is True
        class_name, class_color = self.path_class(run.take())
        roi = self.roi(run.take())
        run.primitive(JAVA_DOUBLE)  # the class probability, which nothing uses
        nucleus = self.roi(run.take()).geometry if kind == "cell" and run.peek() is not None else None
        is_missing = kind == "tma_core" and run.flag()
        if roi.note is not None:
            self.notes.add(roi.note, _label(kind, name, annotation_id))
        if roi.geometry is None:
            return None, children
        annotation = Annotation(
            geometry=roi.geometry,
            class_name=class_name,
            class_color=class_color,
            annotation_id=annotation_id,
            kind=kind,
            name=name if isinstance(name, str) and name else None,
            locked=locked,
            color=color,
            measurements=measurements,
            metadata=metadata,
            plane=roi.plane,
            parent_id=parent_id,
            depth=depth,
            is_ellipse=roi.is_ellipse,
            nucleus=nucleus,
            repaired_by_px2=roi.repaired_by_px2,
            is_missing=is_missing,
        )
        return annotation, children

    def kind(self, java_class: JavaClass) -> ObjectKind | None:
        """QuPath's kind of object; None for the root of the hierarchy."""
        key = id(java_class)
        if key not in self.kinds:
            names = [part.name.rpartition(".")[2] for part in reversed(java_class.chain)]
            known = next((name for name in names if name in _KINDS), None)
            if known is None:
                raise UnsupportedError(
                    f"holds an object of the unknown kind {shorten(java_class.name)}; "
                    "export the objects as GeoJSON from QuPath"
                )
            self.kinds[key] = _KINDS[known]
        return self.kinds[key]

    def descriptions(self, run: Run) -> tuple[UUID | None, dict[str, str], dict[str, float]]:
        """Reads id, metadata and measurements, up to the number of children."""
        annotation_id: UUID | None = None
        parts: list[JavaValue] = []
        if simple_name(run.peek()) == "UUID":
            annotation_id = uuid_of(run.take())
            parts = [run.take() for _ in range(checked_count(run.primitive(JAVA_INT), None))]
        else:
            while not isinstance(run.peek(), BlockData):
                parts.append(run.take())
        metadata: dict[str, str] = {}
        measurements: dict[str, float] = {}
        for part in parts:
            if not isinstance(part, JavaObject):
                continue
            if simple_name(part) == "MetadataMap":
                metadata, stored_id = self.metadata(part)
                annotation_id = annotation_id or stored_id
            else:
                measurements = self.measurements(part)
        return annotation_id, metadata, measurements

    def metadata(self, value: JavaObject) -> tuple[dict[str, str], UUID | None]:
        """Reads the key-value pairs; the object's id is one of them, and comes apart."""
        known = self.metadata_maps.get(id(value))
        if known is None:
            arrays = [item.values for item in value.items if isinstance(item, JavaArray)]
            if len(arrays) != 2 or not all(isinstance(values, list) for values in arrays):
                raise DamagedError("metadata without keys and values")
            self.spend(len(arrays[0]))
            pairs = zip(*arrays, strict=False)
            metadata = {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}
            known = self.metadata_maps[id(value)] = metadata, parse_uuid(metadata.pop(_ID_KEY, None))
        return known

    def measurements(self, value: JavaObject) -> dict[str, float]:
        """Reads a list of measurements, in any of the classes that QuPath has had for it."""
        known = self.measurement_lists.get(id(value))
        if known is None:
            fields = value.fields
            if "names" in fields and "values" in fields:
                # The array of values may be longer than the list: it grows in steps.
                numbers = numbers_of(fields["values"])
                self.spend(len(numbers))
                pairs = zip(elements_of(fields["names"]), numbers.tolist(), strict=False)
                known = {name: number for name, number in pairs if isinstance(name, str)}
            elif "list" in fields:
                listed = elements_of(fields["list"])
                self.spend(len(listed))
                known = dict(measurement_of(item) for item in listed)
            else:
                self.notes.add("measurements of an unknown kind, left out", shorten(value.class_name))
                known = {}
            self.measurement_lists[id(value)] = known
        return known

    def path_class(self, value: JavaValue) -> tuple[str | None, Color | None]:
        """Full name and colour of a class, whose chain of parents is its name."""
        if value is None:
            return None, None
        if id(value) not in self.classes:
            names: list[str] = []
            link: JavaValue = value
            while link is not None:
                if not isinstance(link, JavaObject) or simple_name(link) != "PathClass" or len(names) > _CLASS_PARTS:
                    raise DamagedError("something else where a class belongs")
                name = link.fields.get("name")
                names.append(name if isinstance(name, str) else "")
                self.spend(len(names[-1]))
                link = link.fields.get("parentClass")
            assert isinstance(value, JavaObject)
            self.classes[id(value)] = full_class_name(names[::-1]), color_of(value.fields.get("colorRGB"))
        return self.classes[id(value)]

    def roi(self, value: JavaValue) -> Roi:
        """Translates a region of interest."""
        if value is None:
            return Roi(None, note="object without an outline, left out")
        if not isinstance(value, JavaObject):
            raise DamagedError("something else where an outline belongs")
        known = self.rois.get(id(value))
        if known is None:
            self.spend_outline(value)
            known = self.rois[id(value)] = roi_of(value)
        return known


def _label(kind: ObjectKind, name: JavaValue, annotation_id: UUID | None) -> str:
    """How a message calls an object."""
    if isinstance(name, str) and name:
        return f'{kind} "{shorten(name)}"'
    return f"{kind} {annotation_id or 'without name and id'}"
