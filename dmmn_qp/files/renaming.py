"""Names of files changed, and files removed, with patience for what other programs have open for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dmmn_qp.files.failures import OPEN_ELSEWHERE

_PATIENCE_S: Final = 3.0
_POLL_S: Final = 0.05


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


def _patiently(change: Callable[[], object]) -> None:
    """Tries for a while what Windows refuses while another program has the file open, as scanners for viruses do."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            change()
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in OPEN_ELSEWHERE or time.monotonic() > until:
                raise
        time.sleep(_POLL_S)
