"""QuPath's GeoJSON, read and written.

The reader takes every dialect that QuPath's own importer takes, of any version, and more: where QuPath
refuses a whole file for one bad feature, only that feature is left out, with a warning. The writer keeps to
what every version from 0.4 on reads. Coordinates are level-0 px in QuPath's frame, y down.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.geojson_features import FeatureReader
from dmmn_qp.qupath.geojson_geometries import GEOMETRY_TYPES
from dmmn_qp.qupath.notes import ReadResult, open_bytes, paused_gc
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
from dmmn_qp.text import shorten

GEOJSON_SUFFIXES: Final = (".geojson", ".geojson.gz", ".json", ".json.gz", ".zip")
"""Endings of files that may hold objects."""


def read_geojson(path: Path) -> ReadResult:
    """Reads a file of objects in any of QuPath's dialects.

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
    return reader.result()


def stream_geojson(path: Path) -> Iterator[Annotation]:
    """Reads a file of objects one by one, so that no more than one is in memory; of files that we wrote.

    What is no object is passed over, and so are objects within others, of which we write none.

    Args:
        path: ``.geojson``, or the same with ``.gz``.

    Raises:
        AnnotationFileError: The file is missing or damaged, or no strict GeoJSON; objects before may have been given.
    """
    reader = FeatureReader()
    with open_bytes(path, "file of predictions", "predict again") as file:
        try:
            for feature in stream_features(open_text(file, os.fstat(file.fileno()).st_size)):
                annotation = reader.read(feature, None, 0)[0] if isinstance(feature, dict) else None
                if annotation is not None:
                    yield annotation
        except (FileContentError, NotStreamableError) as error:
            why = str(error) or "is no strict GeoJSON"
            raise AnnotationFileError(f'file of predictions "{path}" {why}; predict again') from error


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
    return reader.result()


class _Reader:
    """Collects the annotations and notes of one file."""

    def __init__(self) -> None:
        self.annotations: list[Annotation] = []
        self.features = FeatureReader()

    def result(self) -> ReadResult:
        return ReadResult(tuple(self.annotations), self.features.notes.lines())

    def read_zip(self, file: BinaryIO, size: int) -> None:
        """Reads every GeoJSON file of an archive; a bad one is left out as long as there is a good one."""
        texts, others = open_archive(file, size, (".geojson", ".json"))
        for name in others:
            self.features.notes.add("file in the archive that is neither .geojson nor .json, left out", shorten(name))
        failures: list[FileContentError] = []
        unpacked = 0
        for name, text in texts.items():
            try:
                self.read_text(text, shorten(name))
            except TooLargeError:
                raise
            except FileContentError as error:
                failures.append(error)
                self.features.notes.add("damaged file in the archive, left out", f"{shorten(name)} {error}")
            unpacked += text.position
            if text.limit is not None and unpacked > text.limit:
                raise TooLargeError(text.limit)
        if failures and len(failures) == len(texts):
            raise failures[0]

    def read_packed(self, stream: TextStream, name: str) -> None:
        """Reads a single file, packed or not, whatever it is called."""
        endings = (".geojson.gz", ".json.gz") if stream.limit is not None else (".geojson", ".json")
        if not name.lower().endswith(endings):
            self.features.notes.add(f"file that QuPath does not read under its name (it needs {endings[0]})", name)
        self.read_text(stream, name)

    def read_text(self, stream: TextStream, name: str) -> None:
        """Reads one file: as a whole, or feature by feature where it is large and strict enough."""
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
        """Reads a text feature by feature; whether it could be, else nothing of it is kept."""
        before = len(self.annotations), copy.deepcopy(self.features.notes), self.features.number
        try:
            for feature in stream_features(stream):
                self.walk(feature, "")
        except NotStreamableError:
            count, self.features.notes, self.features.number = before
            del self.annotations[count:]
            return False
        return True

    def read_whole(self, data: bytes, name: str) -> None:
        """Reads one unpacked file that is in memory."""
        if not data.removeprefix(BOM).strip():
            self.features.notes.add("empty file", name)
            return
        content, is_utf8 = parse_json(data)
        if not is_utf8:
            self.features.notes.add("file that is not UTF-8, some characters are lost (save it as UTF-8)", name)
        self.read_features(content, name)

    def read_features(self, content: object, name: str) -> None:
        """Reads the whole content of a file.

        Raises:
            FileContentError: It is no GeoJSON.
        """
        if isinstance(content, dict) and not _is_known(content):
            raise FileContentError("holds no GeoJSON that QuPath imports; export it as one FeatureCollection")
        if not isinstance(content, (dict, list)):
            raise FileContentError("holds no GeoJSON but a single value; export it as one FeatureCollection")
        self.walk(content, name)

    def walk(self, content: object, name: str) -> None:
        """Goes through collections, lists and child objects without recursion."""
        pending: list[tuple[object, UUID | None, int]] = [(content, None, 0)]
        while pending:
            value, parent_id, depth = pending.pop()
            inner: object = value
            if isinstance(value, dict):
                if value.get("type") in ("Feature", *GEOMETRY_TYPES) or "features" not in value:
                    annotation, inner = self.features.read(value, parent_id, depth)
                    if annotation is not None:
                        self.annotations.append(annotation)
                        parent_id, depth = annotation.annotation_id or parent_id, depth + 1
                else:
                    inner = value["features"]
                    if value.get("type") != "FeatureCollection":
                        self.features.notes.add(
                            'features outside a "FeatureCollection", which QuPath itself does not read', name
                        )
            if isinstance(inner, list):
                pending.extend((item, parent_id, depth) for item in reversed(inner))
            else:
                self.features.note("something that is no list of features, left out")


def _is_known(value: dict[str, Any]) -> bool:
    """Whether a top-level object is GeoJSON, or at least holds features."""
    return value.get("type") in ("FeatureCollection", "Feature", *GEOMETRY_TYPES) or "features" in value
