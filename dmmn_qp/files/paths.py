"""Paths as people write them: one door for the command line, the configuration, tables and Python."""

from __future__ import annotations

import os
import stat
import sys
from os import PathLike
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from dmmn_qp.errors import ConfigError
from dmmn_qp.files.addresses import is_address
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.text import shorten

_OPEN_PIPES = (Path("/dev/fd"), Path("/proc/self/fd"))
"""Where a shell passes what another program writes: ``--config <(...)``."""


def user_path(path: str | PathLike[str]) -> Path:
    """Reads a path that a person wrote: ``~`` at its beginning is the home folder, as in a shell.

    A shell replaces it only where a word begins with it, so not in ``--out=~/predictions``, nor in files. What begins
    with the name of no user (``~draft.tif``) is a path like others, as to a shell.

    Raises:
        ConfigError: It begins with ``~``, and the system knows no home folder.
    """
    written = Path(path)
    try:
        return written.expanduser()
    except (RuntimeError, ValueError):  # of no user; of a name that no user can have
        if written.parts[0] == "~":
            raise ConfigError(
                f'the home folder that "{path}" begins with is not known; set HOME, or write the whole path'
            ) from None
        return written


def typed_place(text: str | PathLike[str]) -> Path:
    """Reads a path, or an address such as ``s3://bucket/slide.svs``, that a person typed: the one door for addresses.

    It is for command lines and arguments alone, never for what a file says.

    Raises:
        ConfigError: See `user_path`.
        SlideError: It is an address that is not read.
    """
    if isinstance(text, RemotePath):
        return text
    written = os.fspath(text)
    return RemotePath(written) if is_address(written) else user_path(written)


def why_not_there(path: Path) -> str | None:
    """Why a path stands for no file or folder that can be read, as what follows it in a message; None where it does.

    What would keep who opens it waiting forever, such as a pipe with a name, counts as none.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            return f'is a link to "{shorten(str(path.readlink()), 200)}", which is not there'
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'strerror', None) or error})"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.parent in _OPEN_PIPES):
        kind = "pipe" if stat.S_ISFIFO(mode) else "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "socket"
        return f"is a {kind}, not a file"
    return None if isinstance(path, RemotePath) or os.access(path, os.R_OK) else "may not be read by you"


def user_text(text: str) -> str:
    """Reads a text that may be a path or a pattern of paths; it is changed only where `user_path` replaces ``~``."""
    if not text.startswith("~"):
        return text
    read = user_path(text)
    return text if read == Path(text) else str(read)


def user_cache() -> Path:
    """The folder for what this program may fetch or compute again: ``DMMN_QP_CACHE``, or the system's place for it.

    Raises:
        ConfigError: The system knows no home folder.
    """
    named = os.environ.get("DMMN_QP_CACHE")
    if named:
        return user_path(named).absolute()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or user_path("~/AppData/Local")) / "dmmn-qp"
    if sys.platform == "darwin":
        return user_path("~") / "Library" / "Caches" / "dmmn-qp"
    return Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache")) / "dmmn-qp"


UserPath = Annotated[Path, AfterValidator(user_path)]
"""A field for a path that a person wrote."""
