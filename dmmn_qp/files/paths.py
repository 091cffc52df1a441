"""Paths as people write them: one door for the command line, the configuration, tables and Python."""

from __future__ import annotations

import os
import sys
from os import PathLike
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from dmmn_qp.errors import ConfigError


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
