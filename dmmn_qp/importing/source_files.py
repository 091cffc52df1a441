"""What an import was made of, told by content: so that it can be known later, without importing, whether it changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.importing.export_tables import CLASSES, FRAMES, PIXEL_SIZES
from dmmn_qp.importing.geojson_files import geojson_files
from dmmn_qp.importing.joining import source_labels
from dmmn_qp.qupath.project import read_project
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import printable

SOURCE: Final = "source"
"""Key of the configuration in a dataset's ``run.json`` that says what was imported: a text, or several."""

SOURCE_FILES: Final = "source_files"
"""Key of the dataset's ``run.json`` under which they are told."""

SLIDES_ROOTS: Final = "slides_roots"
"""Key of it under which the folders are told in which slides were looked for."""

_TIMES: Final = frozenset({"createTimestamp", "modifyTimestamp", "version"})
"""What QuPath changes in a project when it only opens it."""

_PROJECT: Final = ".qpproj"
_CHUNK: Final = 2**20


def source_state(
    sources: Sequence[Path],
    annotations: Path | None,
    tables: Mapping[str, Path | None],
    known: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Size, time and digest of each file of annotations that an import reads, and of its tables.

    Args:
        sources: What the user points at.
        annotations: What the user names as ``--annotations``, if anything.
        tables: The tables that options name, by the option; None for none.
        known: The same of before; a file of equal size and time is not read again.

    Returns:
        By the file's name, as it is shown. Pipes, and files that are not there or may not be read, are left out.
    """
    state: dict[str, dict[str, Any]] = {}
    for found, path in _files(sources, annotations, tables):
        name = printable(found)
        with suppress(OSError, ValueError):
            if why_not_there(path) or not path.is_file():  # an open pipe can be read once, and not by us
                continue
            stat = path.stat()
            told: dict[str, Any] = {"size": stat.st_size, "modified_ns": stat.st_mtime_ns}
            before = (known or {}).get(name)
            if isinstance(before, dict) and all(before.get(key) == value for key, value in told.items()):
                told["digest"] = before.get("digest")
            else:
                told["digest"] = _digest(path)
            state[name] = told
    return state


def changed_files(before: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files whose content differs, in order: those that are new, gone or changed.

    Args:
        before: A `source_state` as a file has it.
        now: The state now.
    """

    def digest_of(state: Mapping[str, Any], name: str) -> object:
        told = state.get(name)
        return told.get("digest") if isinstance(told, Mapping) else None

    return [name for name in sorted({*before, *now}) if digest_of(before, name) != digest_of(now, name)]


def roots_as_typed(roots: Iterable[SlidesRoot]) -> list[str]:
    """Each ``--slides-root`` as it may be typed again, wherever that is done."""
    typed = (str(root.absolute()) if isinstance(root, Path) else f"{root.old}={root.new.absolute()}" for root in roots)
    return [printable(text) for text in typed]


def as_named(paths: Sequence[Path]) -> str | list[str]:
    """Paths as the user named them; one of them as itself."""
    names = [printable(str(path)) for path in paths]
    return names[0] if len(names) == 1 else names


def _files(
    sources: Sequence[Path], annotations: Path | None, tables: Mapping[str, Path | None]
) -> Iterator[tuple[str, Path]]:
    """The files, with their names: below the project or the folder of annotations, so that it may be moved."""
    if annotations is not None:
        folder, files = annotations.parent, [annotations]  # of one slide, whatever its name ends in
        if annotations.is_dir():
            folder, files = annotations, [*geojson_files(annotations)[0].values()]
        for path in (*files, *(folder / name for name in (PIXEL_SIZES, FRAMES, CLASSES))):
            yield path.name, path
    else:
        for source, label in zip(sources, source_labels(sources), strict=True):
            prefix = f"{label}: " if len(sources) > 1 else ""
            yield from ((prefix + name, path) for name, path in _files_of_project(source))
    for option, table in tables.items():
        if table is not None:
            yield f"{option}: {table.name}", table


def _files_of_project(source: Path) -> Iterator[tuple[str, Path]]:
    with suppress(DmmnQpError):
        project = read_project(source)
        yield project.path.name, project.path
        for entry in project.entries:
            path = entry.data_path
            inside = path.is_relative_to(project.path.parent)
            yield path.relative_to(project.path.parent).as_posix() if inside else str(path), path


def _digest(path: Path) -> str:
    if path.suffix.lower() == _PROJECT:
        with suppress(ValueError):
            content = _without_times(orjson.loads(path.read_bytes()))
            return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:32]


def _without_times(content: Any) -> Any:
    return {key: value for key, value in content.items() if key not in _TIMES} if isinstance(content, dict) else content
