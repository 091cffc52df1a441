"""What both annotation readers share: their result, the notes they leave, bytes and ids taken from a file."""

from __future__ import annotations

import gc
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from dmmn_qp.annotations import Annotation, ObjectKind
from dmmn_qp.choices import Reader, TakePredictions
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.files.paths import why_not_there

_UUID: Final = re.compile(r"([0-9a-fA-F]{1,8})" + r"-([0-9a-fA-F]{1,4})" * 3 + r"-([0-9a-fA-F]{1,12})")
_UUID_LENGTH: Final = 36
QUPATH_DIR_VARIABLE: Final = "PAQUO_QUPATH_DIR"
"""Environment variable with the folder of QuPath, paquo's own."""

REPAIRED: Final = "outline that crosses, touches or overlaps itself, repaired"
"""Why a polygon is not what was drawn; `Annotation.repaired_by_px2` says by how much."""

_LINE_ENDS: Final = re.compile(r"[\r\n]+")


@dataclass(frozen=True, slots=True)
class ReadResult:
    """What a file of annotations holds.

    Attributes:
        annotations: Every object that has an outline, parents before their children.
        warnings: One line for each kind of thing that was repaired or left out; empty for a clean file.
    """

    annotations: tuple[Annotation, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadRules:
    """What is read of a source, and how.

    Attributes:
        kinds: Kinds of objects that count; others are left out.
        plane: (z, t) of the plane whose objects count; None takes of each slide the plane that holds most.
        reader: How objects of a QuPath project are read.
        qupath_dir: Folder of QuPath, for a reader that needs it.
        take_predictions: Which of our own predictions count.
        predicted_in: Folders in which our own objects are looked for as they were predicted.
        recursive: Whether the folders in a folder of slides are searched too.
    """

    kinds: tuple[ObjectKind, ...] = ("annotation",)
    plane: tuple[int, int] | None = None
    reader: Reader = "auto"
    qupath_dir: Path | None = None
    take_predictions: TakePredictions = "reviewed"
    predicted_in: tuple[Path, ...] = ()
    recursive: bool = False


class Notes:
    """Collects what was repaired or left out: one line per reason, however many objects it concerns."""

    def __init__(self) -> None:
        """Has none at first."""
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        """Notes one case.

        Args:
            reason: What happened; wording must not depend on the file, so that reasons stay few.
            where: The object concerned; kept for the first case only.
        """
        self._counts[reason] += 1
        self._first.setdefault(reason, where)

    def lines(self) -> tuple[str, ...]:
        """One line per reason, in order of first appearance."""
        return tuple(
            f"{reason}: {self._first[reason]}" + (f" and {count - 1} more" if count > 1 else "")
            for reason, count in self._counts.items()
        )


@contextmanager
def paused_gc() -> Iterator[None]:
    """Puts off the search for reference cycles, which a reader makes none of.

    It would go through all the objects made so far, over and over, and take half of the time of a large file.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def open_bytes(path: Path, what: str, way_out: str) -> Iterator[BinaryIO]:
    """Opens a file for reading.

    Args:
        path: The file.
        what: What the file is to the user, for the message.
        way_out: What the user can do when it is not there.

    Raises:
        AnnotationFileError: The file is missing or cannot be read, now or within the block.
    """
    why = why_not_there(path)
    if why is not None and path.exists():
        raise _unreadable(path, what, ValueError(why))
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise AnnotationFileError(f'no {what} at "{path}"; {way_out}') from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, error) from error
    with file:
        try:
            yield file
        except OSError as error:
            raise _unreadable(path, what, error) from error


def read_bytes(path: Path, what: str, way_out: str) -> bytes:
    """All bytes of a file; see :func:`open_bytes`."""
    with open_bytes(path, what, way_out) as file:
        return file.read()


def _unreadable(path: Path, what: str, error: Exception) -> AnnotationFileError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return AnnotationFileError(
        f'{what} "{path}" cannot be read ({reason}); check that it is a file and may be read, or copy it again'
    )


def parse_uuid(text: object) -> UUID | None:
    """A UUID written with its dashes, as Java reads it (leading zeros may be missing); else None."""
    match = _UUID.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    if len(match[0]) == _UUID_LENGTH:
        return UUID(match[0])
    return UUID("".join(part.zfill(width) for part, width in zip(match.groups(), (8, 4, 4, 4, 12), strict=True)))


def full_class_name(parts: list[str]) -> str | None:
    """Joins the parts of a class name as QuPath shows it: ``Tumor: Positive``; None when nothing is left.

    Accents that are characters of their own, as macOS writes them, become part of their letters.
    """
    written = (unicodedata.normalize("NFC", part) for part in parts)
    names = [_LINE_ENDS.sub(" ", name).strip() for part in written for name in part.split(":")]
    return ": ".join(name for name in names if name) or None
