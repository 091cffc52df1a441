"""A table of slides to predict."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.qupath.notes import shorten
from dmmn_qp.specs import MAX_MPP, MIN_MPP

MAX_TABLE_BYTES: Final = 16 * 1024**2
"""Longest table that is read; a row for each of 50,000 slides fits."""

_COLUMNS: Final = ("slide", "mpp", "roi")


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table; ``where`` is the table and the row's number, as a spreadsheet counts."""

    where: str
    slide: str
    mpp: float | None
    roi: Path | None


def read_input_table(path: Path) -> list[_Row]:
    """Reads a table of slides: RFC 4180 in UTF-8, with commas or semicolons.

    Raises:
        SlideError: It is missing, too long, or not of this form, or an area file does not exist.
        PixelSizeError: A pixel size cannot be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise SlideError(f'table "{path}" does not exist; check the path') from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SlideError(f'table "{path}" cannot be read ({reason}); save it as CSV in UTF-8') from error
    if len(data) > MAX_TABLE_BYTES:
        raise SlideError(f'table "{path}" is longer than {MAX_TABLE_BYTES} bytes; divide it')
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[_Row] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(header, path)
        for number, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                rows.append(_row(header, cells, path, f'table "{path}" row {number}'))
    except csv.Error as error:
        raise SlideError(
            f'table "{path}" line {reader.line_num} is no CSV ({error}); save it again as CSV in UTF-8'
        ) from error
    if not rows:
        raise SlideError(f'table "{path}" names no slide; write a row for each under the line "slide,mpp,roi"')
    return rows


def _check_header(header: Sequence[str], path: Path) -> None:
    if "slide" not in header:
        raise SlideError(
            f'table "{path}" must begin with the line "slide,mpp,roi" (mpp and roi may be missing); it begins '
            f'"{shorten(",".join(header))}"'
        )
    twice = next((name for name in _COLUMNS if header.count(name) > 1), None)
    if twice is not None:
        raise SlideError(f'table "{path}" row 1 has the column {twice} twice; keep one of them')


def _row(header: Sequence[str], cells: Sequence[str], path: Path, where: str) -> _Row:
    if len(cells) > len(header):
        raise SlideError(
            f"{where} has {len(cells)} cells, but there are {len(header)} columns; put a text with separators into "
            "quotes"
        )
    said = dict(zip(header, [cell.strip() for cell in cells], strict=False))
    if "\0" in "".join(cells):
        raise SlideError(f"{where} holds a NUL character; save the table again as CSV in UTF-8")
    if not said["slide"]:
        raise SlideError(f"{where}, column slide: it is empty; write the slide's path")
    roi = path.parent / said["roi"] if said.get("roi") else None
    if roi is not None and not roi.is_file():
        raise SlideError(f'{where}, column roi: "{shorten(said["roi"], 120)}" is no file; check the path')
    mpp: float | None = None
    if said.get("mpp"):
        try:
            mpp = float(said["mpp"])
        except ValueError:
            mpp = float("nan")
        if not MIN_MPP <= mpp <= MAX_MPP:
            raise PixelSizeError(
                f'{where}, column mpp: "{shorten(said["mpp"], 40)}" is no number between {MIN_MPP:g} and {MAX_MPP:g} '
                "um/px; write it as 0.25, or leave it empty"
            )
    return _Row(where, said["slide"], mpp, roi)
