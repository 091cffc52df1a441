"""Polygons that were replaced: they stay in ``earlier/``, so that it can be found out what a person has corrected."""

from __future__ import annotations

import filecmp
import gzip
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.files import move
from dmmn_qp.files.failures import naming
from dmmn_qp.files.locks import briefly_locked
from dmmn_qp.files.renaming import remove, remove_if_empty
from dmmn_qp.folders.predictions import EARLIER
from dmmn_qp.qupath.notes import open_bytes, parse_uuid
from dmmn_qp.qupath.packed_json import FileContentError, NotStreamableError, is_gzip, open_text, stream_features

EARLIER_RUNS: Final = 20
"""Files of a slide that are kept."""

EARLIER_BYTES: Final = 2**30
"""What all files in the folder may take; the newest is kept whatever it takes."""

UNKNOWN_RUN: Final = "unknown"
"""Name of the folder with polygons of an unknown run."""

_SUFFIX: Final = ".geojson.gz"


def run_folder(run_id: object) -> str:
    """The name of a run's folder: its id where that is a plain UUID; no other text becomes a folder's name."""
    found = parse_uuid(run_id)
    return str(found) if found is not None and str(found) == run_id else UNKNOWN_RUN


def keep_earlier(folder: Path, slide_id: str, polygons: Path, run_id: object) -> Path:
    """Copies the polygons of a slide, compressed, to where replaced ones are kept; the file itself is left alone.

    A copy appears when it is complete. One that is there already with other content stays, and the new one gets a
    folder named after its content.

    Args:
        folder: The folder of predictions.
        slide_id: The slide.
        polygons: Its polygons, packed or not.
        run_id: The run that made them, as read from a file; whatever is no UUID counts as unknown.

    Returns:
        The copy: ``earlier/<run id>/<slide>.geojson.gz``.
    """
    top, name = folder / EARLIER, f"{slide_id}{_SUFFIX}"
    top.mkdir(parents=True, exist_ok=True)
    packed = top / f".{slide_id}.part"  # always the same, so that what a kill leaves does not pile up
    try:
        with naming(top / name):
            _pack(polygons, packed)
        place = top / run_folder(run_id) / name
        with briefly_locked(top):  # or `drop_oldest` for another slide removes the folder meanwhile
            if place.exists() and not filecmp.cmp(packed, place, shallow=False):
                with packed.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
                place = top / str(UUID(bytes=digest[:16])) / name
            place.parent.mkdir(exist_ok=True)
            move(packed, place)
    finally:
        remove(packed)
    return place


def drop_oldest(folder: Path, slide_id: str) -> int:
    """Removes kept polygons until a slide has at most `EARLIER_RUNS` files and all take at most `EARLIER_BYTES`.

    The oldest go first, and the newest of all stays in any case. What we did not write there is left alone.

    Args:
        folder: The folder of predictions.
        slide_id: The slide of which another file was kept.

    Returns:
        How many files were removed.
    """
    if not (folder / EARLIER).is_dir():
        return 0
    with briefly_locked(folder / EARLIER):
        return _drop_oldest(folder, slide_id)


def _drop_oldest(folder: Path, slide_id: str) -> int:
    """See `drop_oldest`, while the folder is held."""
    kept = sorted(_kept(folder / EARLIER), key=lambda path: (path.stat().st_mtime_ns, path.as_posix()))
    of_slide = [path for path in kept if path.name == f"{slide_id}{_SUFFIX}"]
    dropped = set(of_slide[:-EARLIER_RUNS])
    left = [path for path in kept if path not in dropped]
    taken = sum(path.stat().st_size for path in left)
    for path in left[:-1]:
        if taken <= EARLIER_BYTES:
            break
        taken -= path.stat().st_size
        dropped.add(path)
    for path in dropped:
        remove(path)
        remove_if_empty(path.parent)
    return len(dropped)


def _kept(top: Path) -> Iterator[Path]:
    """The kept polygons of all slides; what has another name or place is none of ours."""
    for run in top.iterdir() if top.is_dir() else ():
        if run_folder(run.name) == run.name and run.is_dir() and not run.is_symlink():
            yield from (path for path in run.iterdir() if path.name.endswith(_SUFFIX) and path.is_file())


def _pack(source: Path, packed: Path) -> None:
    """The same content as gzip; the same bytes whenever it is done."""
    with source.open("rb") as reading, packed.open("wb") as writing:
        is_packed = is_gzip(reading.read(2))
        reading.seek(0)
        if is_packed:
            shutil.copyfileobj(reading, writing)
            return
        with gzip.GzipFile("", "wb", fileobj=writing, mtime=0) as packing:
            shutil.copyfileobj(reading, packing)


def first_metadata(polygons: Path) -> Mapping[str, str]:
    """The metadata of the first object in a file of polygons; empty where it has none or cannot be read."""
    unreadable = (AnnotationFileError, FileContentError, NotStreamableError)
    with suppress(*unreadable), open_bytes(polygons, "file of predictions", "predict again") as file:
        feature = next(stream_features(open_text(file, polygons.stat().st_size)), None)
        properties = feature.get("properties") if isinstance(feature, dict) else None
        metadata = properties.get("metadata") if isinstance(properties, dict) else None
        if isinstance(metadata, dict):
            return {key: value for key, value in metadata.items() if isinstance(value, str)}
    return {}
