"""Slide files that the user names by a folder or a pattern; files that we wrote ourselves are none."""

from __future__ import annotations

import difflib
import glob
from pathlib import Path
from typing import Final

from dmmn_qp.errors import SlideError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.outputs.writers import is_output
from dmmn_qp.slides.files import first_of_each_series, is_slide_folder
from dmmn_qp.slides.folders import list_slides
from dmmn_qp.slides.readers import slide_suffixes

_PATTERN_SIGNS: Final = "*?["


def is_slide(path: Path) -> bool:
    """Whether a path is there and stands for one slide: a file of any kind, or a folder that is a slide."""
    return path.is_file() or is_slide_folder(path)


def is_pattern(name: str) -> bool:
    """Whether a name has a sign of a pattern (``*``, ``?``, ``[``)."""
    return any(sign in name for sign in _PATTERN_SIGNS)


def slides_in_folder(folder: Path, *, recursive: bool) -> list[Path]:
    """The slides in a folder, sorted.

    Args:
        folder: The folder.
        recursive: Whether the folders in it are searched too, but for those that we wrote.

    Raises:
        SlideError: There is none.
    """
    slides = [path for path in list_slides(folder, recursive=recursive) if _may_be_slide(path)]
    if slides:
        return slides
    projects = [] if isinstance(folder, RemotePath) else sorted(folder.glob("*.qpproj"))
    if projects:
        raise SlideError(f'folder "{folder}" holds no slide but a project; name it: "{projects[0]}"')
    way_out = "check the path" if recursive else "check the path, or pass --recursive to search the folders in it"
    raise SlideError(f'folder "{folder}" holds no slide; {way_out}')


def slides_matching(pattern: str) -> list[Path]:
    """The slides that a pattern stands for, sorted.

    Raises:
        SlideError: There is none.
    """
    found = [Path(text) for text in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (may be absolute)
    fixed = len(Path(pattern.partition("*")[0].partition("?")[0].partition("[")[0] + "x").parent.parts)
    found = [path for path in found if _may_be_slide(path) and not _is_in_output(path, fixed)]
    dicom = set(first_of_each_series(found))
    slides = [
        path
        for path in found
        if path in dicom
        or (path.is_file() and path.suffix.lower() in slide_suffixes() and path.suffix.lower() != ".dcm")
        or (path.is_dir() and is_slide_folder(path))
    ]
    slides = [path for path in slides if path.parent not in slides]  # files of a folder that is one slide
    if not slides:
        kinds = f"; it matches {len(found)} other files" if found else ""
        raise SlideError(f'pattern "{pattern}" matches no slide{kinds}; check the path')
    return slides


def _is_in_output(path: Path, fixed: int) -> bool:
    """Whether a match lies in a folder that we wrote, and that the fixed part of the pattern does not name."""
    below = path.parent.parts[fixed:]
    top = Path(*path.parent.parts[:fixed])
    return any((top.joinpath(*below[: n + 1]) / RUN_FILE).is_file() for n in range(len(below)))


def _may_be_slide(path: Path) -> bool:
    """Whether a file of a folder may be a slide, and is none that we wrote beside slides."""
    return not path.name.startswith(".") and not is_output(path.name)


def near_name_hint(path: Path) -> str:
    """A question after a file of nearly that name beside it, for a message; empty where there is none."""
    if isinstance(path, RemotePath):
        return ""
    try:
        names = [p.name for p in path.parent.iterdir() if p.suffix.lower() in slide_suffixes() and is_slide(p)]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f' (did you mean "{path.with_name(near[0])}"?)' if near else ""
