"""Writing files and folders so that nothing is ever half-written or lost, not even where the power fails: what is
renamed is on the disk before.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from dmmn_qp.errors import InUseError, OutputExistsError
from dmmn_qp.files.failures import naming
from dmmn_qp.files.locks import STALE_S, locked
from dmmn_qp.files.renaming import clear_away, remove, rename

RUN_FILE = "run.json"

_NEW_FILE: Final = re.compile(r"\.[0-9a-f]{8}\.part\.(.+)")
_PART, _OLD = "part", "old"

_NO_SYNC: Final = (errno.EINVAL, errno.ENOSYS, getattr(errno, "ENOTSUP", errno.ENOSYS))
"""What disks say that have no such call."""


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
    temporary = _beside(path, _PART)
    with naming(path), _making(temporary):
        temporary.mkdir()
        try:
            with naming(path):
                yield temporary
                _sync_tree(temporary)
            retired = _beside(path, _OLD)
            if path.exists():
                rename(path, retired)
            try:
                rename(temporary, path)
            except OSError:
                with suppress(OSError):
                    rename(retired, path)
                raise
            sync_folder(path.parent)
            clear_away(retired)  # what is left of it goes with the next command
        finally:
            clear_away(temporary)


def _beside(path: Path, kind: str) -> Path:
    """A name beside a folder that nobody has, for what becomes the folder or was it."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.{kind}")


def _making(temporary: Path, *, take_over: bool | None = None) -> AbstractContextManager[None]:
    """Holds a folder that is being made; so it can be told from what is left of one whose maker was killed."""
    return locked(temporary, "a command", "wait until it has ended", take_over=take_over)


def tidy(path: Path, marker: str) -> None:
    """Removes what killed commands left of a folder that they made; one that was to be replaced gets its name again.

    What a running command makes stays, and so does what only has such a name.

    Args:
        path: The folder, there or not.
        marker: A file that every folder of this kind holds; one to be replaced is ours only if it has it.
    """
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.({_PART}|{_OLD})")
    try:
        left = sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name) and p.is_dir() and not p.is_symlink())
    except OSError:
        return
    is_being_made = False
    for other in left:
        if other.name.endswith(_PART):
            try:
                with _making(other):
                    clear_away(other)
            except (InUseError, OSError):
                is_being_made = True
    for other in left:
        if other.name.endswith(_OLD) and (other / marker).is_file() and not is_being_made:
            if path.exists():
                clear_away(other)
            else:
                with suppress(OSError):
                    rename(other, path)


def check_free(path: Path, *, overwrite: bool, marker: str) -> None:
    """Refuses a folder that may not be written; what killed commands left of it is removed before (`tidy`).

    Raises:
        OutputExistsError: ``path`` is a file, or a folder with content that may not be replaced.
    """
    tidy(path, marker)
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
    """Yields a temporary name in the same folder that replaces ``path`` when the block ends without an error.

    Its content is on the disk before.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex[:8]}.part.{path.name}")  # keeps the ending: writers look at it
    try:
        with naming(path):
            yield temporary
            move(temporary, path)
    finally:
        with suppress(OSError):  # `remove_new_files` comes later; what is wrong was said
            remove(temporary)


def final_name(name: str) -> str | None:
    """The name that a file is to get which is being written (`new_file`); None for a file that is not."""
    found = _NEW_FILE.fullmatch(name)
    return found[1] if found else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")


def move(source: Path, target: Path) -> None:
    """Renames a file or a folder, in place of a file that is there.

    The content is on the disk before, the name afterwards.

    Args:
        source: The file or folder.
        target: Its new name, on the same disk; nothing may have the name of a folder.
    """
    (_sync_tree if source.is_dir() else _sync_file)(source)
    rename(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Has the names in a folder written to the disk, where the system can (Windows cannot)."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sync_file(path: Path) -> None:
    """Has a file's content written to the disk.

    Raises:
        OSError: There is no room for it, or the disk fails; some disks say so only now.
    """
    with path.open("r+b") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise


def _sync_tree(folder: Path) -> None:
    """Has all files in a folder, and in those below it, written to the disk."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                _sync_file(path)
        sync_folder(Path(place))


def remove_new_files(folder: Path) -> None:
    """Removes what killed commands left of single files (`new_file`), unless it was written just now."""
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):
            if _NEW_FILE.fullmatch(path.name) and time.time() - path.stat().st_mtime > STALE_S:
                remove(path)
