"""A table of slides to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.errors import SlideError
from dmmn_qp.files.tables import TableForm, TableRow, read_table
from dmmn_qp.slides.pixel_sizes import parse_mpp
from dmmn_qp.text import shorten

_FORM: Final = TableForm(("slide", "mpp", "roi"), ("slide",), SlideError, paths=("slide", "roi"))


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a table; ``where`` is the table and the row's number, as a spreadsheet counts."""

    where: str
    slide: str
    mpp: float | None
    roi: Path | None


def read_input_table(path: Path) -> list[_Row]:
    """Reads a table of slides, see `read_table`; ``mpp`` and ``roi`` may be empty or missing.

    Raises:
        SlideError: It is missing, too long, or not of this form, or an area file does not exist.
        PixelSizeError: A pixel size cannot be.
    """
    return [_row(row, path) for row in read_table(path, _FORM)]


def _row(row: TableRow, path: Path) -> _Row:
    slide, mpp, roi = (row.cells[column] for column in _FORM.columns)
    areas = path.parent / roi if roi else None
    if areas is not None and not areas.is_file():
        raise SlideError(f'{row.where}, column roi: "{shorten(roi, 120)}" is no file; check the path')
    return _Row(row.where, slide, parse_mpp(mpp, row.where) if mpp else None, areas)
