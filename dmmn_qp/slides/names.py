"""Which slide a name stands for, in tables and in names of files that go with slides: one rule for all of them."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TypeVar
from urllib.parse import unquote

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.text import shorten

Value = TypeVar("Value")

MAX_NAME_BYTES = 150
"""Longest name of a slide in files that are called by it; a file system takes 255."""

_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\\\x00-\x1f]')
_DEVICE = re.compile(r"^(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])(?= *(\.|$))", re.IGNORECASE)
"""Names that are devices of Windows, in any folder and with any ending."""


@dataclass(frozen=True, slots=True)
class NamedSlide:
    """A slide by its names.

    Attributes:
        path: Its file.
        others: What it is called besides: its name in file names, or in QuPath.
    """

    path: PurePath
    others: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Returns all its names, the most exact first.

        QuPath takes ``.ome.tif`` for one ending, so that the annotations of ``x.ome.tif`` are called ``x.geojson``.
        """
        name, stem = self.path.name, self.path.stem
        return tuple(dict.fromkeys((name, stem, re.sub(r"\.ome$", "", stem, flags=re.IGNORECASE), *self.others)))


class SlideNames:
    """Tells which slides a name stands for.

    A slide is called by its file's name, with or without the ending, alone or as a full path. A more exact name wins
    over a less exact one, and the right case over the wrong one. Folders are looked at only where several files have
    the name: what was moved keeps its name.

    Args:
        slides: The slides.
    """

    def __init__(self, slides: Iterable[NamedSlide]) -> None:
        self._slides = tuple(slides)
        self._known: defaultdict[str, list[tuple[int, str, int]]] = defaultdict(list)
        for number, slide in enumerate(self._slides):
            for rank, name in enumerate(map(normal_name, slide.names())):
                self._known[name.casefold()].append((rank, name, number))

    def called(self, name: str, where: str, error: type[DmmnQpError]) -> list[int]:
        """Returns the slides that a name stands for.

        Args:
            name: The name, as a person or a program wrote it.
            where: Where it stands, for the message.
            error: What is raised.

        Returns:
            Their numbers; none, or several only where they show one file.

        Raises:
            DmmnQpError: Of ``error``: it stands for different files.
        """
        parts = _parts(name)
        found = self._known.get(parts[-1].casefold(), []) if parts else []
        ranks = [(rank, known != parts[-1]) for rank, known, _ in found]
        lowest = min(ranks, default=None)
        best = [number for (_, _, number), rank in zip(found, ranks, strict=True) if rank == lowest]
        paths = {number: self._slides[number].path for number in best}
        if len(set(paths.values())) > 1:
            near = {number: _shared_folders(parts, _parts(str(path))) for number, path in paths.items()}
            best = [number for number in best if near[number] == max(near.values())]
        files = list(dict.fromkeys(paths[number] for number in best))
        if len(files) > 1:
            raise error(
                f'{where}: "{shorten(name)}" may be slide "{files[0]}" or "{files[1]}"; write the name with its '
                "ending, or the full path"
            )
        return best

    def file_of(
        self, number: int, files: Mapping[str, Path], suffixes: Sequence[str], error: type[DmmnQpError]
    ) -> Path | None:
        """The file among some that goes with a slide; None where there is none.

        Args:
            number: The slide's number.
            files: Files, see `files_by_name`.
            suffixes: What may follow the slide's name in the name of the file, what is looked for first first.
            error: What is raised.

        Returns:
            The file of the slide's name in file names, else of another name that stands for this slide alone.

        Raises:
            DmmnQpError: Of ``error``: the name of a file stands for several slides.
        """
        slide = self._slides[number]
        for name in dict.fromkeys((*slide.others, *slide.names())):
            file = next((files[own] for s in suffixes if (own := normal_name(f"{name}{s}")) in files), None)
            if file is not None and (name in slide.others or self.called(name, f'"{file}"', error) == [number]):
                return file
        return None

    def values_by_slide(
        self, rows: Iterable[tuple[str, str, Value]], error: type[DmmnQpError]
    ) -> tuple[dict[int, Value], list[tuple[str, str]]]:
        """Returns what a table says of each slide.

        Args:
            rows: Where it stands, the name of the slide, and what is said of it.
            error: What is raised.

        Returns:
            What is said by the slide's number; and where, and by which name, none of the slides is meant.

        Raises:
            DmmnQpError: Of ``error``: two rows contradict each other, or a name stands for several files.
        """
        values: dict[int, Value] = {}
        unknown: list[tuple[str, str]] = []
        for where, name, value in rows:
            meant = self.called(name, where, error)
            if not meant:
                unknown.append((where, name))
            for number in meant:
                before = values.setdefault(number, value)
                if before != value:
                    raise error(
                        f'{where}: slide "{shorten(name)}" is {value}, but {before} further up; keep one of them'
                    )
        return values, unknown


def files_by_name(folder: Path) -> dict[str, Path]:
    """The files in a folder by their names as all systems spell them."""
    return {normal_name(path.name): path for path in sorted(folder.iterdir()) if path.is_file()}


def legible_name(name: str) -> str:
    """Returns a name as all programs can write it: what is no UTF-8 is read as the Latin-1 of old systems."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name


def bounded_name(name: str) -> str:
    """Returns a name so short, and so plain, that files can be called by it on any system, with an ending behind it.

    What is predicted on Linux may lie on a disk of Windows, or be looked at there.
    """
    plain = _DEVICE.sub(r"\g<0>_", _NOT_ON_WINDOWS.sub("_", name))
    return plain.encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore")


def normal_name(name: str) -> str:
    """Returns a file name as all systems spell it; macOS stores accents as characters of their own."""
    return unicodedata.normalize("NFC", name)


def _parts(name: str) -> list[str]:
    """Folders and file name of a path of any system, or of a URI as QuPath writes it."""
    path = unquote(name[5:]) if name[:5].lower() == "file:" else name
    return [normal_name(part) for part in re.split(r"[\\/]", path) if part not in ("", ".")]


def _shared_folders(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Returns how many folders above the file two paths have in common."""
    n = 0
    for a, b in zip(ours[-2::-1], theirs[-2::-1], strict=False):
        if a != b:
            break
        n += 1
    return n
