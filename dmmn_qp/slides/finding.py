"""Finds slides again after they, or what names them, have moved: one way for projects and datasets."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Final

from dmmn_qp.errors import SlideError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.addresses import is_address, is_pure_place, pure_place, shown_place
from dmmn_qp.files.paths import typed_place, user_path, user_text, why_not_there
from dmmn_qp.files.remote import ZARR_MARKS, RemotePath, below
from dmmn_qp.slides.names import normal_name
from dmmn_qp.text import shorten

_NEARBY_DEPTH: Final = 4
_NEARBY_ENTRIES: Final = 50_000
_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class MovedPrefix:
    """``--slides-root OLD=NEW``: what was below one folder is below another one.

    Attributes:
        old: The folder as it is stored; it need not exist, and may be one of another system.
        new: The folder where its content is now.
    """

    old: PurePath
    new: Path


SlidesRoot = Path | MovedPrefix
"""One ``--slides-root``: a folder to search, or a prefix to exchange."""


def parse_slides_root(text: str) -> SlidesRoot:
    """Reads one ``--slides-root``; a folder that exists is one, whatever characters its name has.

    Raises:
        SlideError: It is OLD=NEW, but one of them is no folder's path.
    """
    exchanged = re.fullmatch(r"[^=]+=[A-Za-z][A-Za-z0-9+.:-]+://.*", text)  # else "=" is what follows "?"
    if is_address(text) and exchanged is None:
        return typed_place(text)
    folder = user_path(text)
    old, sign, new = text.partition("=")
    if not sign or (exchanged is None and folder.is_dir()):
        return folder
    stored, place = path_of_text(user_text(old)), typed_place(new)
    if stored is None or not new or not (isinstance(place, RemotePath) or place.is_dir()):
        raise SlideError(
            f'--slides-root "{text}" is read as OLD=NEW, but '
            + (f'"{old}" is no full path' if stored is None else f'folder "{new}" does not exist')
            + "; write it as --slides-root /old/folder=/new/folder"
        )
    return MovedPrefix(stored, place)


def path_of_text(text: str) -> PurePath | None:
    """Returns a full path of any system, None where it is none; a drive letter or a server makes it one of Windows.

    Of an address it is the place to compare with others (`pure_place`); nothing is opened there.
    """
    if is_address(text):
        return pure_place(text)
    if re.match(r"[A-Za-z]:[\\/]|\\\\|//[^/]", text):
        return PureWindowsPath(text)
    return PurePosixPath(text) if text.startswith("/") else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A slide to find.

    Attributes:
        name: Its file name.
        stored: Where it once was; the path may be one of another system.
        moved: Where it is if it moved together with what names it.
        accept: Whether a file is the slide, where that can be told.
    """

    name: str
    stored: PurePath | None = None
    moved: Path | None = None
    accept: Callable[[Path], bool] | None = None


class SlideFinder:
    """Finds slides; each folder is searched once, and only when a name is needed.

    A stored address is followed only where it lies below a root that is an address.

    Args:
        roots: What the user gave as ``--slides-root``.
        near: Folders that are searched a few levels deep when all else has failed, one after the other.

    Raises:
        SlideError: A root does not exist.
    """

    def __init__(self, roots: Sequence[SlidesRoot] = (), near: Sequence[Path] = ()) -> None:
        folders = [root for root in roots if isinstance(root, Path) and not isinstance(root, RemotePath)]
        self._remote = [root for root in roots if isinstance(root, RemotePath)]
        for folder in folders:
            if not folder.is_dir():
                why = why_not_there(folder) or "is no folder"
                raise SlideError(f'slides folder "{folder}" {why}; pass an existing one as --slides-root')
        self._prefixes = [root for root in roots if isinstance(root, MovedPrefix)]
        self._searches = [
            _NameSearch(folders, depth=None, entries=None),
            *(_NameSearch([folder], depth=_NEARBY_DEPTH, entries=_NEARBY_ENTRIES) for folder in near),
        ]

    def find(self, wanted: Mapping[str, Wanted]) -> dict[str, Path]:
        """Finds slides.

        Tried in turn: the stored path; the same path relative to what names it, where that was moved; the stored path
        with its prefix exchanged; a file of the same name anywhere under the roots; one nearby.

        Args:
            wanted: The slides by a key of the caller's.

        Returns:
            An existing file (or folder, for slides that are folders) by the same key.

        Raises:
            SlideError: Names every slide that is missing, that has several candidates in the first place that has any,
                or of which there are only other files of its name.
        """
        found: dict[str, Path] = {}
        missing, ambiguous, others = [], [], []
        for key, slide in wanted.items():
            candidates, refused = self._candidates(slide)
            if len(candidates) == 1:
                found[key] = candidates[0]
            elif candidates:
                first, second = candidates[:2]
                ambiguous.append(f'slide "{shorten(slide.name)}" is both "{first}" and "{second}"')
            elif refused is not None:
                others.append(f'slide "{refused}" is not the file that was imported (its content differs)')
            else:
                stored = (
                    f' (stored at "{shorten(shown_place(slide.stored), _SHOWN)}")' if slide.stored is not None else ""
                )
                missing.append(f'"{shorten(slide.name)}"{stored}')
        if missing or ambiguous or others:
            problems = [*([f"slide not found: {', '.join(missing)}"] if missing else []), *ambiguous, *others]
            way_out = "pass the folder that holds the slides as --slides-root"
            if ambiguous:
                way_out += ", one that holds each name once"
            if others:
                way_out += ", or import again"
            raise SlideError(f"{'; '.join(problems)}; {way_out}")
        return found

    def _candidates(self, slide: Wanted) -> tuple[list[Path], Path | None]:
        """Files that may be the slide, from the first place that has any, and the first one that is not."""
        refused: Path | None = None
        for place in self._places(slide):
            if slide.accept is None:
                if place:
                    return place, None
                continue
            accepted = [path for path in place if slide.accept(path)]
            if accepted:
                return accepted[:1], None  # copies of one slide are no question
            refused = refused or next(iter(place), None)
        return [], refused

    def _places(self, slide: Wanted) -> Iterator[list[Path]]:
        remote = filter(None, (below(slide.stored, root) for root in self._remote))
        for guess in (_native(slide.stored), slide.moved, *self._exchanged(slide.stored), *remote):
            if guess is not None and _exists(guess):
                yield [guess]
        name = slide.name
        if name and name not in (".", "..") and "/" not in name and "\\" not in name:
            for search in self._searches[:1]:
                yield search.find(name)
            for root in self._remote:
                yield [place for place in (root / name,) if _exists(place)]
            for search in self._searches[1:] if not is_pure_place(slide.stored) else ():
                yield search.find(name)  # what was on a server need not be what lies nearby

    def _exchanged(self, stored: PurePath | None) -> Iterator[Path]:
        for prefix in self._prefixes:
            if stored is not None and type(stored) is type(prefix.old) and stored.is_relative_to(prefix.old):
                below = stored.relative_to(prefix.old).parts
                if os.pardir not in below:
                    yield prefix.new.joinpath(*below)


class _NameSearch:
    """Files by name under some folders, which are walked on the first question only."""

    def __init__(self, roots: Sequence[Path], *, depth: int | None, entries: int | None) -> None:
        self._roots, self._depth, self._entries = roots, depth, entries
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str) -> list[Path]:
        """Returns all different files of that name; links to one and the same file count once."""
        if self._by_name is None:
            self._by_name = {}
            for path in _walk(self._roots, self._depth, self._entries):
                self._by_name.setdefault(normal_name(path.name), []).append(path)
        different: dict[Path, Path] = {}
        for path in self._by_name.get(normal_name(name), []):
            different.setdefault(path.resolve(), path)
        return list(different.values())


def relative_to_moved(old_file: PurePath | None, new_folder: Path, slide: PurePath | None) -> Path | None:
    """Returns a slide's place where it was moved together with a file.

    Args:
        old_file: Where the file was.
        new_folder: The folder in which it is now.
        slide: Where the slide was.
    """
    if old_file is None or slide is None or type(old_file) is not type(slide) or old_file.anchor != slide.anchor:
        return None
    old = old_file.parent.parts
    common = 0
    for ours, theirs in zip(old, slide.parts, strict=False):
        if ours != theirs:
            break
        common += 1
    above = [os.pardir] * (len(old) - common)
    return Path(os.path.normpath(new_folder.resolve().joinpath(*above, *slide.parts[common:])))


def _walk(roots: Iterable[Path], depth: int | None, entries: int | None) -> Iterator[Path]:
    """Yields everything below some folders, nearest first.

    Links are followed, but no folder is entered twice, and none below a root that we have written: masks have the
    names of their slides.
    """
    folders = [(root, 0) for root in roots]
    entered: set[tuple[int, int]] = set()
    left = math.inf if entries is None else entries
    for folder, level in folders:  # grows while it is walked
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as items:
                children = sorted((item.name, item.is_dir()) for item in items)
        except OSError:
            continue
        if (level and (RUN_FILE, False) in children) or any((name, False) in children for name in ZARR_MARKS):
            continue  # ours, or a slide that is a folder of a million chunks
        for name, is_folder in children:
            left -= 1
            if left < 0:
                return
            yield folder / name
            if is_folder and not name.startswith(".") and (depth is None or level < depth):
                folders.append((folder / name, level + 1))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _native(path: PurePath | None) -> Path | None:
    """Returns a stored path as a path of this machine; None where it is of the other kind."""
    is_native = isinstance(path, PureWindowsPath) == (os.name == "nt") and not is_pure_place(path)
    return Path(path) if path is not None and is_native else None
