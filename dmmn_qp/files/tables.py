"""CSV: one reader of the tables that users give, as people, spreadsheets and programs write them, and one writer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Final

from dmmn_qp.errors import ConfigError, DmmnQpError
from dmmn_qp.files import new_file
from dmmn_qp.files.paths import user_text, why_not_there
from dmmn_qp.text import shorten, spreadsheet_cell

MAX_BYTES: Final = 16 * 1024**2
"""Longest table that is read; a row for each of 50,000 slides fits."""

MAX_ROWS: Final = 200_000
"""Most rows that are read, blank ones included."""

SEPARATORS: Final = (",", ";", "\t")
"""What may separate cells; that one counts by which the first row has the columns."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table.

    Attributes:
        where: The table and the row's number, as a spreadsheet counts, for messages.
        cells: Text of each wanted column without blanks around it; empty where the row says nothing.
    """

    where: str
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TableForm:
    """What a table must look like.

    Attributes:
        columns: Names of the columns that are read, in lower case; others are ignored.
        filled: Those of them that must be there and have text in every row.
        error: What is raised.
        may_be_empty: Whether there may be no row below the column names.
        paths: Those of them that hold paths, in which ``~`` is home.
    """

    columns: tuple[str, ...]
    filled: tuple[str, ...]
    error: type[DmmnQpError]
    may_be_empty: bool = False
    paths: tuple[str, ...] = ()


def read_table(path: Path, form: TableForm) -> list[TableRow]:
    """Reads a table: a row of column names, in any case and order, and rows below it.

    Commas, semicolons or tabs separate cells, and a line ``sep=;`` may come first. Cells may be quoted (RFC 4180) and
    have blanks around them; blank rows count for nothing. The text is UTF-8, or UTF-16 as Excel writes "Unicode text".

    Args:
        path: The table.
        form: What it must look like.

    Raises:
        DmmnQpError: Of ``form.error``: it is missing, too long, no CSV, or not of this form.
    """
    wanted = ",".join(form.columns)
    rows = _records(path, _text_of(path, form), form)
    header: list[str] | None = None
    found: list[TableRow] = []
    for number, cells in rows:
        where = f'table "{path}" row {number}'
        if header is None:
            header = [_folded(name) for name in cells]
            twice = next((name for name in form.columns if header.count(name) > 1), None)
            if twice is not None:
                raise form.error(f"{where} has the column {twice} twice; keep one of them")
        else:
            found.append(TableRow(where, _cells(header, cells, where, form)))
    if not found and not form.may_be_empty:
        raise form.error(f'table "{path}" names no {form.columns[0]}; write a row for each under the line "{wanted}"')
    return found


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table of commas that replaces ``path`` when it is complete; no cell of it is a formula.

    Args:
        path: The table.
        columns: Their names.
        rows: A value for each column; numbers are written as they are, texts as `spreadsheet_cell` makes them.
    """
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in chain([columns], rows):
            writer.writerow([spreadsheet_cell(value) if isinstance(value, str) else value for value in row])


def _text_of(path: Path, form: TableForm) -> str:
    if why := why_not_there(path):
        raise form.error(f'table "{path}" {why}; check the path')
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise form.error(
            f'table "{path}" cannot be read ({reason}); check that it is a file and may be read'
        ) from error
    if len(data) > MAX_BYTES:
        raise form.error(
            f'table "{path}" is longer than {MAX_BYTES} bytes; keep only the columns {", ".join(form.columns)}, or '
            "divide it"
        )
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise form.error(f'table "{path}" cannot be read (not {name}); save it as CSV in UTF-8') from error
    if "\0" in text:
        raise form.error(f'table "{path}" holds a NUL character; save it again as CSV in UTF-8')
    return text


def _records(path: Path, text: str, form: TableForm) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that are not blank, the column names first, and their numbers from 1 on."""
    separators: Sequence[str] = SEPARATORS
    first, _, below = text.partition("\n")
    skipped = 0
    if first.strip().lower().startswith("sep=") and first.strip()[4:] in (*SEPARATORS, ""):
        separators, text, skipped = (first.strip("\r\n ")[4:] or "\t",), below, 1
    reader = _reader(text, next((s for s in separators if _has_columns(text, s, form)), separators[0]))
    is_first, number = True, skipped
    try:
        for number, cells in enumerate(reader, start=1 + skipped):
            if number > MAX_ROWS:
                raise form.error(f'table "{path}" has more than {MAX_ROWS} rows, blank ones included; divide it')
            if not any(cell.strip() for cell in cells):
                continue
            if is_first and not set(form.filled) <= set(map(_folded, cells)):
                break
            is_first = False
            yield number, cells
    except csv.Error as error:
        raise form.error(
            f'table "{path}" row {number + 1} is no CSV ({error}); save it again as CSV in UTF-8'
        ) from error
    if is_first:
        optional = [name for name in form.columns if name not in form.filled]
        may_lack = f" ({' and '.join(optional)} may be missing)" if optional else ""
        raise form.error(
            f'table "{path}" must begin with the line "{",".join(form.columns)}"{may_lack}; it begins '
            f'"{shorten(text.lstrip().partition(chr(10))[0])}"'
        )


def _has_columns(text: str, separator: str, form: TableForm) -> bool:
    try:
        rows = islice(_reader(text, separator), MAX_ROWS)
        header = next((cells for cells in rows if any(cell.strip() for cell in cells)), [])
    except csv.Error:
        return False
    return set(form.filled) <= set(map(_folded, header))


def _reader(text: str, separator: str) -> Iterator[list[str]]:
    if '"' in text:  # csv knows blanks before quotes, not those after them
        blank = " " if separator == "\t" else "[ \t]"
        text = re.sub(rf'((?:^|[\r\n{separator}]){blank}*"(?:[^"]|"")*"){blank}*', r"\1", text)
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)


def _cells(header: Sequence[str], cells: Sequence[str], where: str, form: TableForm) -> dict[str, str]:
    if any(cell.strip() for cell in cells[len(header) :]):
        raise form.error(
            f"{where} has {len(cells)} cells, but there are {len(header)} columns; put a text with separators into "
            "quotes"
        )
    texts = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    empty = next((name for name in form.filled if not texts.get(name)), None)
    if empty is not None:
        raise form.error(f"{where}, column {empty}: it is empty; fill it in, or leave out the row")
    found = {name: texts.get(name, "") for name in form.columns}
    try:
        return {name: user_text(text) if name in form.paths else text for name, text in found.items()}
    except ConfigError as error:
        raise form.error(f"{where}: {error}") from None


def _folded(name: str) -> str:
    return "".join(name.split()).casefold()
