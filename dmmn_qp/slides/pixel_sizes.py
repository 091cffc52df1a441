"""``--mpp-csv``: pixel sizes of slides that do not say it themselves."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from dmmn_qp.errors import PixelSizeError
from dmmn_qp.specs import MAX_MPP, MIN_MPP

MAX_BYTES = 16 * 1024**2
"""Longest table that is read; a row for each of 100,000 slides fits."""

_COLUMNS = ("slide", "mpp")


def read_pixel_sizes(path: Path) -> dict[str, float]:
    """Reads a table with the columns ``slide`` (file name, with or without its ending) and ``mpp`` (um/px).

    Commas or semicolons separate the columns; others than these two are ignored.

    Returns:
        um/px by the slide as the table names it.

    Raises:
        PixelSizeError: The table is missing, too long, not of this form, contradicts itself, or says what cannot be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise PixelSizeError(f'table "{path}" does not exist; check --mpp-csv') from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise PixelSizeError(f'table "{path}" cannot be read ({reason}); save it as CSV in UTF-8') from error
    if len(data) > MAX_BYTES:
        raise PixelSizeError(f'table "{path}" is longer than {MAX_BYTES} bytes; keep only the columns slide and mpp')
    lines = text.splitlines()
    separator = ";" if lines and ";" in lines[0] else ","
    reader = csv.reader(lines, delimiter=separator)
    sizes: dict[str, float] = {}
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        if not set(_COLUMNS) <= set(header):
            raise PixelSizeError(
                f'table "{path}" must begin with a line "slide,mpp"; it begins "{",".join(header)[:60]}"'
            )
        where = [header.index(name) for name in _COLUMNS]
        for row in reader:
            if any(cell.strip() for cell in row):
                _add(sizes, row, where, f'table "{path}" line {reader.line_num}')
    except csv.Error as error:
        raise PixelSizeError(f'table "{path}" is no CSV ({error}); save it again as CSV in UTF-8') from error
    return sizes


def pixel_size_of(slide: Path, sizes: Mapping[str, float]) -> float | None:
    """um/px of a slide by its file name, else by its name without the ending; None where it is not listed."""
    by_name = sizes.get(_normal(slide.name))
    return by_name if by_name is not None else sizes.get(_normal(slide.stem))


def _add(sizes: dict[str, float], row: list[str], where: list[int], line: str) -> None:
    if len(row) <= max(where):
        raise PixelSizeError(f"{line} has {len(row)} columns; it needs slide and mpp")
    slide, said = (row[column].strip() for column in where)
    try:
        mpp = float(said)
    except ValueError:
        mpp = float("nan")
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise PixelSizeError(
            f'{line}: mpp "{said[:40]}" is no number between {MIN_MPP:g} and {MAX_MPP:g} um/px; write it as 0.25'
        )
    name = _normal(slide.replace("\\", "/").rpartition("/")[2])
    if not name:
        raise PixelSizeError(f"{line} names no slide; write the slide's file name")
    if sizes.setdefault(name, mpp) != mpp:
        raise PixelSizeError(f'{line}: slide "{slide[:60]}" has {sizes[name]:g} um/px further up; keep one of them')


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)
