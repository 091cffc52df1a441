"""`dmmn-qp clean`: what can be made again, or was left by killed commands, found first and removed then.

Only what bears our names and holds our files is found; links are not followed, and what a running command holds stays.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dmmn_qp.console import Reporter
from dmmn_qp.errors import InUseError
from dmmn_qp.features.cache import our_folders, usual_cache
from dmmn_qp.files import RUN_FILE, final_name
from dmmn_qp.files.locks import STALE_S, briefly_locked, has_note, is_held, locked
from dmmn_qp.files.renaming import remove as remove_file
from dmmn_qp.files.renaming import remove_if_empty, remove_tree
from dmmn_qp.folders.comparison import COMPARISON
from dmmn_qp.folders.dataset import MANIFEST, PATCHES
from dmmn_qp.folders.folds import FOLDS
from dmmn_qp.folders.model_glance import CARD, UNFINISHED, read_object
from dmmn_qp.folders.predictions import EARLIER
from dmmn_qp.outputs.earlier import UNKNOWN_RUN, run_folder
from dmmn_qp.outputs.zarr_pyramids import MARKERS
from dmmn_qp.predicting.strips import KEY_FILE

Kind = Literal["features", "leftover", "strips", "earlier"]

WHAT: Final[dict[Kind, str]] = {
    "features": "what an encoder saw; the next training looks again",
    "leftover": "left by a killed command",
    "strips": "of an unfinished prediction, which then begins again",
    "earlier": "replaced polygons; what you corrected in them is then no longer counted",
}
"""What is removed, and what that costs."""

_TEMPORARY: Final = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(part|old)")
_STRIPS: Final = re.compile(r"\.(.+)\.part")
_OF_STRIPS: Final = frozenset({"weights", "slide", "grid", "kinds"})
"""Keys that every plan of strips has."""

_OF_RUN: Final = frozenset({"run_id", "stage", "version"})
"""Keys that every ``run.json`` of ours has."""

_READABLE: Final = os.R_OK | os.X_OK

_WAY_OUT: Final = "wait until it has ended"


@dataclass(frozen=True, slots=True)
class Removable:
    """Something that may go.

    Attributes:
        kind: What it is.
        path: Where it is.
        size_bytes: What it takes on the disk.
    """

    kind: Kind
    path: Path
    size_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"kind": self.kind, "path": str(self.path), "bytes": self.size_bytes}


def find_removable(folder: Path, *, strips: bool = False, earlier: bool = False) -> list[Removable]:
    """Finds what can be removed; what a running command holds is not among it.

    Args:
        folder: The working folder, of which folders of ours, and those below ``models``, are looked at.
        strips: Whether strips of unfinished predictions count.
        earlier: Whether replaced polygons count.
    """
    found: list[tuple[Kind, Path]] = []
    cache = usual_cache(Reporter()).folder
    if cache is not None:
        found += [("features", path) for path in sorted(our_folders(cache)) if not path.is_symlink()]
    places = [place for place, _ in _places(folder)]
    for place in (folder, *places):
        found += [("leftover", path) for path in _leftovers(place)]
    for place in places:
        if strips:
            found += [("strips", path) for path in _strips(place)]
        if earlier and _has_run(place) and not (place / EARLIER).is_symlink():
            found += [("earlier", path) for path in _below(place / EARLIER) if _is_run(path)]
    return [Removable(kind, path, size_of(path)) for kind, path in found]


def our_places(folder: Path) -> Iterator[Path]:
    """The datasets, models, predictions and so on in a folder, and in folders without a mark of ours in it."""
    return (place for place, is_ours in _places(folder) if is_ours)


def remove(item: Removable) -> bool:
    """Removes something, unless a command holds it by now; whether it is gone.

    Raises:
        OSError: It cannot be removed.
    """
    path = item.path
    try:
        if item.kind == "leftover" and path.is_dir():
            with locked(path, "dmmn-qp clean", _WAY_OUT):
                remove_tree(path)
        elif item.kind == "strips":
            with locked(path.with_name(_slide_of(path)), "dmmn-qp clean", _WAY_OUT):
                remove_tree(path)
        elif item.kind == "earlier":
            with briefly_locked(path.parent):
                remove_tree(path)
        elif path.is_dir():
            remove_tree(path)
        else:
            remove_file(path)
    except InUseError:
        return False
    except FileNotFoundError:  # where it was is gone
        return not path.exists()
    for empty in (path.parent,) if item.kind in ("features", "earlier") else ():
        remove_if_empty(empty)
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    total = 0
    for place, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):
                total += os.lstat(Path(place, name)).st_size
    return total


def _places(folder: Path) -> Iterator[tuple[Path, bool]]:
    """The folders in a folder, and those in them where they are none of ours, as ``models`` is none; which are ours."""
    for place in _below(folder):
        is_ours = _is_ours(place)
        yield place, is_ours
        if not is_ours:
            yield from ((below, _is_ours(below)) for below in _below(place))


def _below(folder: Path) -> list[Path]:
    """The folders in a folder that can be read."""
    try:
        shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        return [path for path in shown if path.is_dir() and not path.is_symlink() and os.access(path, _READABLE)]
    except OSError:
        return []


def _is_ours(folder: Path) -> bool:
    """Whether a folder was made by one of the commands, or is a model in training."""
    return (folder / UNFINISHED).is_file() or _has_run(folder)


def _has_run(folder: Path) -> bool:
    return read_object(folder / RUN_FILE).keys() >= _OF_RUN


def _leftovers(place: Path) -> Iterator[Path]:
    """What killed commands left directly in a folder.

    A folder that was to be replaced goes only if the one that replaces it is there: else it gets its name again by the
    next command that makes it.
    """
    for path in _hidden(place):
        if (name := _TEMPORARY.fullmatch(path.name)) and path.is_dir():
            replaced = name[2] == "old"
            if not is_held(path) and _is_ours_within(path) and (not replaced or place.joinpath(name[1]).is_dir()):
                yield path
        elif final_name(path.name) and path.is_file() and _age_s(path) > STALE_S and _is_ours(place):
            yield path


def _is_ours_within(folder: Path) -> bool:
    """Whether a command is noted that made a folder, or it holds what only we write, or nothing at all."""
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:
        return False
    return not names or bool(names & _OUR_FILES) or has_note(folder)


_OUR_FILES: Final = frozenset(
    {RUN_FILE, CARD, UNFINISHED, MANIFEST, PATCHES, "masks", "annotations", "weights.safetensors"}
    | {COMPARISON, FOLDS, *MARKERS.values()}
)
"""Of what is made under another name first (`new_folder`): datasets, models, comparisons, folds, and OME-Zarr."""


def _strips(place: Path) -> Iterator[Path]:
    """The strips of unfinished predictions in a folder."""
    for path in _hidden(place):
        is_one = _STRIPS.fullmatch(path.name) and read_object(path / KEY_FILE).keys() >= _OF_STRIPS
        if is_one and not is_held(path.with_name(_slide_of(path))):
            yield path


def _slide_of(strips: Path) -> str:
    return strips.name.removeprefix(".").removesuffix(".part")


def _is_run(path: Path) -> bool:
    """Whether a folder in ``earlier/`` is one that we made there."""
    is_named = path.name == UNKNOWN_RUN or run_folder(path.name) == path.name
    return is_named and all(file.name.endswith(".geojson.gz") and file.is_file() for file in path.iterdir())


def _hidden(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(".") and not path.is_symlink())
    except OSError:
        return []


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
