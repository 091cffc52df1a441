"""QuPath, and paquo, by which it is written to."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from dmmn_qp.doctor.findings import Finding
from dmmn_qp.files.failures import install_command
from dmmn_qp.files.paths import user_path

VARIABLE: Final = "PAQUO_QUPATH_DIR"
"""As in `dmmn_qp.qupath.notes`, which cannot be loaded where shapely is broken."""

_NOT_NEEDED: Final = "import, train and predict need neither; push and new-project do"


def check_qupath() -> Iterator[Finding]:
    """Looks for QuPath where people install it, and for paquo, without starting either."""
    has_paquo = importlib.util.find_spec("paquo") is not None
    named = os.environ.get(VARIABLE)
    if named:
        folder = user_path(named)
        if not is_qupath(folder):
            text = f'{VARIABLE} is "{named}", where no QuPath is'
            yield Finding(
                "QuPath", "warn", text, f"set {VARIABLE} to the folder that holds lib/app (macOS: QuPath.app)"
            )
            return
        found: Path | None = folder
    else:
        found = next((folder for folder in usual_places() if is_qupath(folder)), None)
    figures = (("folder", None if found is None else str(found)), ("paquo", has_paquo))
    if found is None:
        way_out = f"if you want these, get it from qupath.github.io and set {VARIABLE}"
        yield Finding("QuPath", "ok", f"not found; {_NOT_NEEDED}", way_out, figures)
    else:
        yield Finding(
            "QuPath", "ok", f"found in {found}", "" if named else f"for paquo, set {VARIABLE}={found}", figures
        )
    if not has_paquo:
        yield Finding("paquo", "ok", f"not installed; {_NOT_NEEDED}", f"if you want these: {install_command('paquo')}")
    else:
        yield Finding("paquo", "ok", "installed")


def usual_places() -> Iterator[Path]:
    """The folders where QuPath may be on this system, the newest version first."""
    home: Path | None = None
    with suppress(RuntimeError):
        home = Path.home()
    if sys.platform == "win32":
        roots = [os.environ.get(name) for name in ("LOCALAPPDATA", "ProgramFiles", "ProgramW6432")]
        patterns = [(Path(root), pattern) for root in roots if root for pattern in ("QuPath*", "Programs/QuPath*")]
    elif sys.platform == "darwin":
        patterns = [(Path("/Applications"), "QuPath*.app")]
        patterns += [(home / "Applications", "QuPath*.app")] if home else []
    else:
        roots_here = [Path("/opt"), Path("/usr/local"), Path("/usr/share")]
        roots_here += [home, home / "Applications", home / "apps", home / "Downloads"] if home else []
        patterns = [(root, pattern) for root in roots_here for pattern in ("QuPath*", "qupath*", "QuPath*/QuPath")]
    for root, pattern in patterns:
        with suppress(OSError):
            yield from sorted(root.glob(pattern), reverse=True)


def is_qupath(folder: Path) -> bool:
    """Whether a folder holds QuPath's program."""
    with suppress(OSError):
        return any((folder / place).is_dir() for place in ("lib/app", "app", "Contents/app"))
    return False
