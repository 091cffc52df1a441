"""``--mpp-csv``: pixel sizes of slides that do not say it themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dmmn_qp.errors import PixelSizeError
from dmmn_qp.files.tables import TableForm, read_table, shown
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.specs import MAX_MPP, MIN_MPP

_FORM = TableForm(("slide", "mpp"), ("slide", "mpp"), PixelSizeError, paths=("slide",))


def listed_pixel_sizes(path: Path, slides: Sequence[NamedSlide]) -> list[float | None]:
    """Reads a table with the columns ``slide`` (its name, see `SlideNames`) and ``mpp`` (um/px).

    Returns:
        um/px of each slide; None for one that is not listed.

    Raises:
        PixelSizeError: The table cannot be read, contradicts itself, says what cannot be, or lists none of the slides.
    """
    rows = [(row.where, row.cells["slide"], parse_mpp(row.cells["mpp"], row.where)) for row in read_table(path, _FORM)]
    sizes, _ = SlideNames(slides).said(rows, PixelSizeError)
    if slides and not sizes:
        raise PixelSizeError(
            f'table "{path}" lists none of the slides; its column slide must hold file names, such as '
            f"{slides[0].path.name}"
        )
    return [sizes.get(i) for i in range(len(slides))]


def parse_mpp(text: str, where: str) -> float:
    """A pixel size in um/px as a table says it.

    Raises:
        PixelSizeError: It is no plausible number.
    """
    try:
        mpp = float(text)
    except ValueError:
        mpp = float("nan")
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise PixelSizeError(
            f'{where}, column mpp: "{shown(text, 40)}" is no number between {MIN_MPP:g} and {MAX_MPP:g} um/px; write '
            "it as 0.25"
        )
    return mpp
