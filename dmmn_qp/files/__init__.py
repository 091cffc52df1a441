"""Writing files and folders so that nothing is ever half-written or lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmmn_qp.errors import OutputExistsError

RUN_FILE = "run.json"


@contextmanager
def new_folder(path: Path, *, overwrite: bool, marker: str) -> Iterator[Path]:
    """Makes a folder that appears under its name only when it is complete.

    Args:
        path: The folder to make.
        overwrite: Whether a folder of that name may be replaced.
        marker: A file that every folder of this kind holds; only a folder that has it is ever replaced.

    Yields:
        A temporary folder beside it to write into. An error removes it and leaves ``path`` as it was.

    Raises:
        OutputExistsError: The folder exists and may not be replaced.
    """
    check_free(path, overwrite=overwrite, marker=marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid4().hex[:8]}.part"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            retired = path.parent / f".{path.name}.{uuid4().hex[:8]}.old"
            path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(path: Path, *, overwrite: bool, marker: str) -> None:
    """Refuses a folder that may not be written.

    Raises:
        OutputExistsError: ``path`` is a file, or a folder with content that may not be replaced.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise OutputExistsError(f'output "{path}" is a file; choose another folder with --out')
    if not any(path.iterdir()):
        return
    if not (path / marker).is_file():
        raise OutputExistsError(
            f'output folder "{path}" exists and was not made by this command (it has no {marker}); choose another '
            "with --out"
        )
    if not overwrite:
        raise OutputExistsError(
            f'output folder "{path}" exists; pass --overwrite to replace it or choose another with --out'
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name in the same folder that replaces ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex[:8]}.part.{path.name}")  # keeps the ending: writers look at it
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
