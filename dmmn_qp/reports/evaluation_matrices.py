"""Confusion matrices, as places and texts from which the page draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dmmn_qp.folders.evaluation import Figures
from dmmn_qp.text import shorten

_CELL: Final = 42
_LONGEST_LABEL: Final = 22
_LABEL_PX: Final = 7.2
"""Width of a letter of the labels, about."""

_SLANT: Final = 0.72
"""Height and width of a slanted letter, in widths of one."""

_TITLE_PX: Final = 300
"""Least width of a matrix, for its title."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a matrix.

    Attributes:
        x: Its left border.
        y: Its upper border.
        share: What is drawn: a part of the row's or the column's pixels; None where there are none.
        pixels: Its pixels.
        is_right: Whether true and predicted class are the same.
        true: The true class.
        predicted: The predicted class.
    """

    x: float
    y: float
    share: float | None
    pixels: int
    is_right: bool
    true: str
    predicted: str

    @property
    def text(self) -> str:
        """Per cent, as many digits as there is room for."""
        if self.share is None or not self.pixels:
            return ""
        percent = 100 * self.share
        return "<0.1" if percent < 0.05 else f"{percent:.1f}" if percent < 99.95 else "100"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix.

    Attributes:
        title: What its shares are of.
        cells: The cells, row by row.
        rows: (y of the middle, name) of each row.
        columns: (x of the middle, name) of each column.
        left: Where cells begin.
        top: Likewise.
        width: Of all.
        height: Of all.
        cell: Side of a cell.
    """

    title: str
    cells: tuple[Cell, ...]
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]
    left: float
    top: float
    width: float
    height: float
    cell: int = _CELL


def matrices_of(figures: Figures) -> tuple[Matrix, Matrix]:
    """The confusion matrix, as shares of what is true and of what was predicted."""
    return (
        _matrix("% of the true class", figures, figures.row_shares()),
        _matrix("% of the predicted class", figures, figures.column_shares()),
    )


def _matrix(title: str, figures: Figures, shares: Sequence[Sequence[float | None]]) -> Matrix:
    rows = [shorten(c.name, _LONGEST_LABEL) for c in figures.classes]
    columns = [shorten(name, _LONGEST_LABEL) for name in figures.columns]
    left = round(_LABEL_PX * max(map(len, rows)) + 30, 1)
    slanted = _SLANT * _LABEL_PX * max(map(len, columns))
    top, right = round(slanted + 36, 1), round(max(8.0, slanted - _CELL / 2 + 12), 1)
    cells = tuple(
        Cell(
            left + j * _CELL,
            top + i * _CELL,
            share,
            figures.confusion[i][j],
            figures.classes[i].name == figures.columns[j],
            figures.classes[i].name,
            figures.columns[j],
        )
        for i, row in enumerate(shares)
        for j, share in enumerate(row)
    )
    return Matrix(
        title,
        cells,
        tuple((top + (i + 0.5) * _CELL, name) for i, name in enumerate(rows)),
        tuple((left + (j + 0.5) * _CELL, name) for j, name in enumerate(columns)),
        left,
        top,
        max(_TITLE_PX, round(left + len(columns) * _CELL + right, 1)),
        top + len(rows) * _CELL + 4,
    )
