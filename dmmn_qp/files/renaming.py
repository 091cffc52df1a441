"""Names of files changed, and files removed, with patience for what other programs have open for a moment."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmmn_qp.files.failures import OPEN_ELSEWHERE

_PATIENCE_S: Final = 3.0
_POLL_S: Final = 0.05

_NOT_EMPTY: Final = 145
"""What Windows says of a folder, though all of it was removed: a file that is open goes only when it is closed."""


def rename(source: Path, target: Path) -> None:
    """Renames a file or folder, a file in place of another one.

    Raises:
        OSError: It cannot be done.
    """
    _patiently(lambda: source.replace(target))


def remove(path: Path) -> None:
    """Removes a file, if it is there.

    Raises:
        OSError: It cannot be done.
    """
    _patiently(lambda: path.unlink(missing_ok=True))


def remove_tree(folder: Path) -> None:
    """Removes a folder and all that is in it, if it is there.

    Raises:
        OSError: Some of it cannot be removed.
    """

    def change() -> None:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if folder.exists():
                raise

    _patiently(change, (*OPEN_ELSEWHERE, _NOT_EMPTY))


def clear_away(folder: Path) -> None:
    """Removes a folder and what is in it, as far as that is possible, where nobody needs it gone."""
    try:
        remove_tree(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)  # which goes on with the others after one that stays


def remove_if_empty(folder: Path) -> None:
    """Removes a folder that has nothing in it; any other one stays, and so does one that cannot be removed."""
    with suppress(OSError):
        _patiently(folder.rmdir)


def _patiently(change: Callable[[], object], passing: Collection[int] = OPEN_ELSEWHERE) -> None:
    """Tries for a while what Windows refuses while another program has the file open, as scanners for viruses do."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            change()
            return
        except OSError as error:
            if getattr(error, "winerror", None) not in passing or time.monotonic() > until:
                raise
        time.sleep(_POLL_S)
