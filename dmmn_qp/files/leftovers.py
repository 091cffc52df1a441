"""What processes that were killed left beside a folder that `new_folder` makes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path


def remove_leftovers(path: Path, marker: str) -> int:
    """Removes what was left of earlier attempts to make a folder; nobody else may be making it.

    Only folders are touched that are named as `new_folder` names them: ``.<name>.<8 hex digits>.part``, which was never
    complete, and ``.old``, which was to be replaced. Where the folder itself is gone, because the process was killed
    between two renames, the old one takes its place again.

    Args:
        path: The folder.
        marker: A file that every folder of this kind holds; an ``.old`` without it is left alone.

    Returns:
        How many were removed.
    """
    if not path.parent.is_dir():
        return 0
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.(part|old)")
    removed = 0
    for found in sorted(path.parent.iterdir()):
        match = ours.fullmatch(found.name)
        if match is None or found.is_symlink() or not found.is_dir():
            continue
        if match[1] == "old" and not (found / marker).is_file():
            continue
        if match[1] == "old" and not path.exists():
            found.rename(path)
            continue
        shutil.rmtree(found, ignore_errors=True)
        removed += not found.exists()
    return removed
