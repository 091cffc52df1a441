"""Our own objects as they were predicted, found again in files of predictions."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.geojson_reader import objects_of, read_geojson
from dmmn_qp.qupath.marks import CLASS_CODE, CLASS_KEY, METADATA_KEY, MODEL_RUN_KEY, PERIMETER, RUN_KEY, is_marked
from dmmn_qp.qupath.notes import open_bytes
from dmmn_qp.qupath.packed_json import FileContentError, TextStream, open_text

_FIRST_LINE: Final = b'{"type":"FeatureCollection","features":['
_FEATURE: Final = b'{"type":"Feature","id":"'
_ID_BYTES: Final = 36
_CHUNK_BYTES: Final = 2**20
_MAX_LINE_BYTES: Final = 2**28


@dataclass(frozen=True, slots=True)
class Original:
    """An object of ours as it was predicted.

    Attributes:
        geometry: Its outline, level-0 px in QuPath's frame.
        class_name: The predicted class.
        run_id: Id of the prediction; None where the file does not tell.
        perimeter_um: Its length as measured then.
        is_named_by_outline: Whether its id depends on the outline, so that an equal id means an equal outline; if not,
            predictions repeat their ids.
        source: The file.
        model_run: The training of the model that predicted it; None where the file does not tell.
        model: Name of that model; None likewise.
    """

    geometry: BaseGeometry
    class_name: str
    run_id: str | None
    perimeter_um: float
    is_named_by_outline: bool
    source: Path
    model_run: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Originals:
    """What is known of the predictions of one image.

    Attributes:
        by_id: All originals of each id that was asked for, one for each file that has it.
        others: Those that lie where something may be a copy of them, whatever their ids.
    """

    by_id: Mapping[UUID, Sequence[Original]] = field(default_factory=dict)
    others: Sequence[Original] = ()


def original_of(annotation: Annotation, source: Path) -> Original | None:
    """An object of a file as an original; None where it is not as it was predicted.

    A file may have been written again by QuPath, with objects that were edited: those have lost their measurements,
    are locked, or have another class than the one that their marks tell.
    """
    perimeter = annotation.measurements.get(PERIMETER)
    name = annotation.metadata.get(CLASS_KEY, annotation.class_name)
    is_ours = is_marked(annotation.annotation_id) and METADATA_KEY in annotation.metadata
    if not is_ours or perimeter is None or annotation.locked or name is None or name != annotation.class_name:
        return None
    return Original(
        geometry=annotation.geometry,
        class_name=name,
        run_id=annotation.metadata.get(RUN_KEY),
        perimeter_um=perimeter,
        is_named_by_outline=CLASS_CODE in annotation.measurements,
        source=source,
        model_run=annotation.metadata.get(MODEL_RUN_KEY),
        model=annotation.metadata.get(METADATA_KEY),
    )


def read_originals(
    files: Iterable[Path], wanted: frozenset[UUID], near: Mapping[str | None, Sequence[BaseGeometry]] | None = None
) -> tuple[Originals, list[str]]:
    """Looks for objects in files of predictions.

    Args:
        files: ``<slide>.geojson`` or ``<slide>.geojson.gz``.
        wanted: Ids that are looked for.
        near: Outlines in level-0 px by class; objects of the class whose boxes meet theirs are wanted too, whatever
            their ids. Of the class None, objects of any class.

    Returns:
        What was found, and a line for each file that cannot be read.
    """
    boxes = {
        name: shapely.STRtree([shapely.box(*outline.bounds) for outline in outlines])
        for name, outlines in (near or {}).items()
    }
    by_id: defaultdict[UUID, list[Original]] = defaultdict(list)
    others: list[Original] = []
    problems: list[str] = []
    for path in files:
        try:
            for annotation in _objects(path, wanted, boxes):
                original = original_of(annotation, path)
                if original is None or annotation.annotation_id is None:
                    continue
                if annotation.annotation_id in wanted:
                    by_id[annotation.annotation_id].append(original)
                if _is_near(annotation.class_name, annotation.geometry, boxes):
                    others.append(original)
        except AnnotationFileError as error:
            problems.append(str(error))
    return Originals(by_id, others), problems


def _is_near(class_name: str | None, geometry: BaseGeometry, boxes: Mapping[str | None, shapely.STRtree]) -> bool:
    return any(len(boxes[name].query(geometry)) for name in {class_name, None} if name in boxes)


def _objects(path: Path, wanted: frozenset[UUID], boxes: Mapping[str | None, shapely.STRtree]) -> Iterator[Annotation]:
    """The objects of a file that are wanted, or lie in a box; in a file of another layout than ours all objects."""
    try:
        with open_bytes(path, "file of predictions", "predict again") as file:
            texts = {str(object_id).encode() for object_id in wanted}
            for line in _feature_lines(open_text(file, os.fstat(file.fileno()).st_size)):
                if line[len(_FEATURE) : len(_FEATURE) + _ID_BYTES] in texts:
                    yield from objects_of(orjson.loads(line), path.name).annotations
                elif boxes:
                    feature = orjson.loads(line)
                    bounds = _bounds(feature)
                    if bounds is not None and _is_near(_class_of(feature), shapely.box(*bounds), boxes):
                        yield from objects_of(feature, path.name).annotations
            return
    except (_OtherLayoutError, orjson.JSONDecodeError):
        pass
    except FileContentError as error:
        raise AnnotationFileError(f'file of predictions "{path}" {error}') from error
    yield from read_geojson(path).annotations


def is_laid_out_by_us(path: Path) -> bool:
    """Whether a file of polygons is as our writer lays it out, so that no other program wrote it again."""
    try:
        with open_bytes(path, "file of predictions", "predict again") as file:
            for _ in _feature_lines(open_text(file, os.fstat(file.fileno()).st_size)):
                pass
    except (_OtherLayoutError, FileContentError, AnnotationFileError):
        return False
    return True


class _OtherLayoutError(ValueError):
    """The file was not laid out by us."""


def _feature_lines(stream: TextStream) -> Iterator[bytes]:
    """The features of a file that our writer has laid out, each on a line of its own.

    Raises:
        _OtherLayoutError: It was written by another program, or is truncated.
        FileContentError: The packing is damaged.
    """
    rest, is_first, is_complete = b"", True, False
    while True:
        chunk = stream.read(_CHUNK_BYTES)
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise _OtherLayoutError
        for line in lines if chunk else [rest]:
            if is_first:
                is_first = False
                if line != _FIRST_LINE:
                    raise _OtherLayoutError
            elif line.startswith(_FEATURE):
                yield line.removesuffix(b",")
            elif line == b"]}":
                is_complete = True
            elif line:
                raise _OtherLayoutError
        if not chunk:
            break
    if not is_complete:
        raise _OtherLayoutError


def _bounds(feature: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """The box of a polygon or several, by their outer rings; None for what is none."""
    try:
        geometry = feature["geometry"]
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        rings = [part[0] for part in parts]
        xs = [float(point[0]) for ring in rings for point in ring]
        ys = [float(point[1]) for ring in rings for point in ring]
        return min(xs), min(ys), max(xs), max(ys)
    except (KeyError, TypeError, IndexError, ValueError):
        return None


def _class_of(feature: dict[str, Any]) -> str | None:
    """The full class name of a feature as our writer writes it; None for any other form."""
    try:
        classification = feature["properties"]["classification"]
        name = classification.get("name") or ": ".join(classification["names"])
        return name if isinstance(name, str) else None
    except (KeyError, TypeError, AttributeError):
        return None
