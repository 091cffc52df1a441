"""How large a slide's pixels are: who says it, and which of several statements counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from dmmn_qp.errors import ConfigError, PixelSizeError
from dmmn_qp.files.tables import TableForm, read_table
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.specs import MAX_MPP, MIN_MPP
from dmmn_qp.text import shorten

ANISOTROPY: Final = 0.02
"""Largest relative difference between the pixel's width and height that counts as a square pixel."""

AGREEMENT: Final = 1e-3
"""Largest relative difference of two pixel sizes that counts as rounding: 100 px on the longest slides."""

THE_FILE: Final = "the file"
THE_TABLE: Final = "the table"
THE_PROJECT: Final = "the QuPath project"
THE_DATASET: Final = "the dataset"
THE_OPTION: Final = "--mpp"
THE_CALLER: Final = "mpp"

_FORM: Final = TableForm(("slide", "mpp"), ("slide", "mpp"), PixelSizeError, paths=("slide",))


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The pixel size that counts.

    Attributes:
        mpp: um/px.
        said_by: Who says it, in words.
        others: Who says what else, beyond rounding: words and um/px.
    """

    mpp: float
    said_by: str
    others: tuple[tuple[str, float], ...] = ()

    @property
    def message(self) -> str:
        """All that is said, in one line."""
        others = "".join(f"; {who} says {mpp:g}" for who, mpp in self.others)
        return f"{self.mpp:g} um/px is used, as {self.said_by} says{others}"

    @property
    def way_out(self) -> str:
        """What to do where what counts is wrong."""
        if self.said_by == THE_OPTION:
            return "leave out --force-mpp if that is wrong"
        if self.said_by == THE_FILE:
            return "pass --force-mpp if --mpp is right, or a table slide,mpp of these slides"
        if self.said_by == THE_PROJECT:
            return (
                "if that is wrong, set it in QuPath (Image > Set pixel size) and save the project, or pass --mpp with "
                "--force-mpp"
            )
        if self.said_by == THE_DATASET:
            return "if that is wrong, import again with the right size, or pass --mpp with --force-mpp"
        return "correct it there if that is wrong"


def contradictions(sizes: Mapping[str, PixelSize | None]) -> list[str]:
    """One line for all slides of which the same is said in contradiction.

    Args:
        sizes: The pixel size of each slide by its name; None where only one can say it.
    """
    slides: dict[PixelSize, list[str]] = {}
    for name, size in sizes.items():
        if size is not None and size.others:
            slides.setdefault(size, []).append(name)
    return [f"{', '.join(names)}: {size.message}; {size.way_out}" for size, names in slides.items()]


@dataclass(frozen=True, slots=True)
class MppRules:
    """What the user says of the pixel sizes of all slides.

    Attributes:
        default: ``--mpp``, for slides of which nobody else says it.
        forced: ``--force-mpp``: it counts for all slides but those in the table.
        table: ``--mpp-csv``.

    Raises:
        ConfigError: There is nothing to force.
    """

    default: float | None = None
    forced: bool = False
    table: Path | None = None

    def __post_init__(self) -> None:
        """Refuses ``--force-mpp`` alone."""
        if self.forced and self.default is None:
            raise ConfigError("--force-mpp forces nothing without --mpp; pass both, for example --mpp 0.25 --force-mpp")


@dataclass(frozen=True, slots=True)
class StatedMpp:
    """What is said of a slide's um/px beside its file.

    What a person said about this very slide counts more than a tag in the file: ``listed``, then ``stored``. A
    ``default`` fills gaps, unless it is ``forced``: then it counts more than ``stored`` and the file.

    Attributes:
        listed: What a row of a table, or the caller, says of this slide.
        listed_by: Who that is, in words.
        stored: What the QuPath project or the dataset says, which a person may have set there.
        stored_by: Who that is, in words.
        refused: Why what is stored cannot be used; an error, unless somebody says better.
        default: ``--mpp``.
        forced: Whether ``--force-mpp`` was given.
    """

    listed: float | None = None
    listed_by: str = THE_TABLE
    stored: float | None = None
    stored_by: str = THE_PROJECT
    refused: str | None = None
    default: float | None = None
    forced: bool = False

    @classmethod
    def of(cls, mpp: float | StatedMpp | None) -> Self | StatedMpp:
        """A number is what the caller says of this slide."""
        return mpp if isinstance(mpp, StatedMpp) else cls(listed=mpp, listed_by=THE_CALLER)

    def resolve(self, name: str, from_file: tuple[float, float] | None) -> PixelSize:
        """The pixel size that counts; what cannot be is passed over, unless a person says it of this slide.

        Args:
            name: The slide's name, for the message.
            from_file: (width, height) of a pixel in um as the file says, or None.

        Raises:
            PixelSizeError: Nobody knows it, or what is said is implausible or not square.
        """
        if self.refused is not None and self.listed is None and not self.forced:
            raise PixelSizeError(self.refused)
        of_file, doubt = _square(from_file)
        candidates = [(THE_FILE, of_file), (THE_OPTION, self.default)]
        if self.stored is not None and not _agree(self.stored, of_file):  # else the file's digits are the exact ones
            candidates.insert(0, (self.stored_by, self.stored))
        if self.forced:
            candidates.insert(0, (THE_OPTION, self.default))
        candidates.insert(0, (self.listed_by, self.listed))
        said = [(who, mpp) for who, mpp in dict.fromkeys(candidates) if mpp is not None]
        usable = [(who, mpp) for who, mpp in said if MIN_MPP <= mpp <= MAX_MPP]
        if self.listed is not None and usable[:1] != [(self.listed_by, self.listed)]:
            raise PixelSizeError(
                f'slide "{name}": {self.listed_by} says {self.listed:g} um/px, which is not between {MIN_MPP:g} and '
                f"{MAX_MPP:g}; write it as 0.25"
            )
        if usable:
            (who, mpp), *others = usable
            return PixelSize(mpp, who, tuple(other for other in others if not _agree(mpp, other[1])))
        if said:
            doubt = f" ({said[-1][0]} says {said[-1][1]:g}, which is not between {MIN_MPP:g} and {MAX_MPP:g})"
        raise PixelSizeError(
            f'slide "{name}" has no usable pixel size{doubt}; pass --mpp with its um/px, for example --mpp 0.25, or '
            "set it in QuPath (Image > Set pixel size) and save the project"
        )


def listed_pixel_sizes(path: Path, slides: Sequence[NamedSlide], *, must_match: bool = True) -> list[float | None]:
    """Reads a table with the columns ``slide`` (its name, see `SlideNames`) and ``mpp`` (um/px).

    Args:
        path: The table.
        slides: The slides.
        must_match: Whether a table that lists none of the slides is an error.

    Returns:
        um/px of each slide; None for one that is not listed.

    Raises:
        PixelSizeError: The table cannot be read, contradicts itself, says what cannot be, or lists none of the slides.
    """
    form = replace(_FORM, may_be_empty=not must_match)
    rows = [(row.where, row.cells["slide"], parse_mpp(row.cells["mpp"], row.where)) for row in read_table(path, form)]
    sizes, _ = SlideNames(slides).values_by_slide(rows, PixelSizeError)
    if must_match and slides and not sizes:
        raise PixelSizeError(
            f'table "{path}" lists none of the slides; its column slide must hold file names, such as '
            f"{slides[0].path.name}"
        )
    return [sizes.get(i) for i in range(len(slides))]


def parse_mpp(text: str, where: str) -> float:
    """A pixel size in um/px as a table says it; a decimal comma is read as such.

    Raises:
        PixelSizeError: It is no plausible number.
    """
    try:
        mpp = float(re.sub(r"^(\d+),(\d+)$", r"\1.\2", text.strip()))
    except ValueError:
        mpp = float("nan")
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise PixelSizeError(
            f'{where}, column mpp: "{shorten(text, 40)}" is no number between {MIN_MPP:g} and {MAX_MPP:g} um/px; write '
            "it as 0.25"
        )
    return mpp


def is_square(width: float, height: float) -> bool:
    """Whether a pixel of a width and height (in any one unit) counts as a square."""
    return abs(width / height - 1) <= ANISOTROPY


def _square(from_file: tuple[float, float] | None) -> tuple[float | None, str]:
    """um/px as the file says it, or None and why it cannot be used."""
    if from_file is None:
        return None, ""
    width, height = from_file
    if not (MIN_MPP <= width <= MAX_MPP and MIN_MPP <= height <= MAX_MPP):
        return None, f" (the file says {width:g} x {height:g} um, which cannot be)"
    if not is_square(width, height):
        return None, f" (the file says {width:g} x {height:g} um, not square)"
    return (width + height) / 2, ""


def _agree(mpp: float, other: float | None) -> bool:
    return other is not None and abs(mpp / other - 1) <= AGREEMENT
