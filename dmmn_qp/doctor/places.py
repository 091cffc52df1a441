"""Whether folders can be written, and how much room is in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dmmn_qp.doctor.findings import Finding, Level, in_gib
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.paths import user_cache
from dmmn_qp.files.renaming import remove
from dmmn_qp.text import shorten

LITTLE_ROOM: Final = 2 * 2**30


def check_places() -> Iterator[Finding]:
    """The working folder, the folder for what can be made again, and that for temporary files."""
    yield _of_folder("working folder", Path(), "fail", "go to a folder of yours, or check its permissions")
    try:
        cache = user_cache()
    except ConfigError as error:
        yield Finding(
            "cache", "warn", f"{error}; what encoders see is not kept", "set HOME, or DMMN_QP_CACHE to a folder"
        )
    else:
        way_out = "name another folder in DMMN_QP_CACHE; else the next training looks at everything again"
        yield _of_folder("cache", cache, "warn", way_out)
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        yield Finding("temporary files", "fail", str(error.strerror or error), "set TMPDIR to a folder of yours")
    else:
        yield _of_folder("temporary files", temporary, "fail", "set TMPDIR to a folder of yours")


def _of_folder(subject: str, folder: Path, level: Level, way_out: str) -> Finding:
    """Whether a folder, or the nearest that is there of it, can be written, and what room is there.

    Args:
        subject: What it is.
        folder: The folder.
        level: How bad it is if not.
        way_out: What to do then.
    """
    try:
        folder = folder.absolute()
        there = next(place for place in (folder, *folder.parents) if place.is_dir())
        _try_to_write(there)
        free = shutil.disk_usage(there).free
    except (OSError, StopIteration) as error:
        why = getattr(error, "strerror", None) or error
        return Finding(subject, level, f'"{shorten(str(folder), 200)}" cannot be written ({why})', way_out)
    text, figures = f"{folder}, {in_gib(free)} free", (("folder", str(folder)), ("free_bytes", free))
    if free < LITTLE_ROOM:
        return Finding(subject, "warn", f"{text}, which is little", "free some space: dmmn-qp clean", figures)
    return Finding(subject, "ok", text, figures=figures)


def _try_to_write(folder: Path) -> None:
    """Writes a file without a trace.

    Raises:
        OSError: That is not possible.
    """
    number, name = tempfile.mkstemp(prefix=".dmmn-qp-doctor-", dir=folder)
    try:
        os.write(number, b"x")
    finally:
        os.close(number)
        remove(Path(name))
