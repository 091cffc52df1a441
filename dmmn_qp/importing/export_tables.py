"""Tables beside GeoJSON files: what a project says of its slides and classes, where only its annotations were exported.

``pixel_sizes.csv`` (slide, mpp) and ``classes.csv`` (class, red, green, blue) are written by the export script;
``frames.csv`` (slide, frame) says how QuPath shows a slide that the project turns, mirrors or crops, in the words of
`parse_frame`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from dmmn_qp.annotations import Color
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.files.tables import TableForm, read_table
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.slides.pixel_sizes import listed_pixel_sizes
from dmmn_qp.slides.transformed import describe_frame, parse_frame
from dmmn_qp.slides.view import SlideView
from dmmn_qp.text import shorten

PIXEL_SIZES: Final = "pixel_sizes.csv"
FRAMES: Final = "frames.csv"
CLASSES: Final = "classes.csv"

_FRAMES_FORM: Final = TableForm(
    ("slide", "frame"), ("slide", "frame"), AnnotationFileError, may_be_empty=True, paths=("slide",)
)
_CLASSES_FORM: Final = TableForm(("class", "red", "green", "blue"), ("class",), AnnotationFileError, may_be_empty=True)


def exported_views(folder: Path, slides: Sequence[NamedSlide], others: Collection[str] = ()) -> list[SlideView]:
    """The slides as QuPath showed them when their annotations were exported.

    Args:
        folder: Where the annotations and the tables are; tables that are not there say nothing.
        slides: The slides.
        others: Names, without the ending, of slides that are not there but may be named.

    Raises:
        PixelSizeError: ``pixel_sizes.csv`` cannot be read, contradicts itself, or says what cannot be.
        AnnotationFileError: ``frames.csv`` cannot be read, contradicts itself, or names a slide that is not there.
    """
    sizes: Sequence[float | None] = [None] * len(slides)
    if (table := folder / PIXEL_SIZES).is_file():
        sizes = listed_pixel_sizes(table, slides, must_match=False)
    frames: Mapping[int, str] = {}
    if (table := folder / FRAMES).is_file():
        rows = [
            (row.where, row.cells["slide"], _frame_text(row.cells["frame"], row.where))
            for row in read_table(table, _FRAMES_FORM)
        ]
        frames, unknown = SlideNames(slides).values_by_slide(rows, AnnotationFileError)
        for where, name in unknown:
            if {name, PurePath(name).stem} & set(others):
                continue
            raise AnnotationFileError(
                f'{where}: slide "{shorten(name)}" is not there; correct the name or leave it out'
            )
    return [
        SlideView(
            slide.path if isinstance(slide.path, Path) else Path(slide.path), frame=parse_frame(frames.get(i, ""))
        ).with_stored(sizes[i], f'"{PIXEL_SIZES}"')
        for i, slide in enumerate(slides)
    ]


def exported_colors(folder: Path) -> dict[str, Color | None]:
    """The project's classes in their order, with their colours; empty where there is no ``classes.csv``.

    Raises:
        AnnotationFileError: It cannot be read, or a colour is none.
    """
    table = folder / CLASSES
    if not table.is_file():
        return {}
    colors: dict[str, Color | None] = {}
    for row in read_table(table, _CLASSES_FORM):
        colors.setdefault(row.cells["class"], _color(row.cells, row.where))
    return colors


def _frame_text(text: str, where: str) -> str:
    try:
        return describe_frame(parse_frame(text))
    except ValueError as error:
        raise AnnotationFileError(f"{where}, column frame: {error}") from None


def _color(cells: Mapping[str, str], where: str) -> Color | None:
    parts = [cells[name] for name in ("red", "green", "blue")]
    if not any(parts):
        return None
    try:
        red, green, blue = (int(part) for part in parts)
    except ValueError:
        red = green = blue = -1
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise AnnotationFileError(
            f'{where}: "{shorten(", ".join(parts))}" is no colour; write red, green and blue as 0 to 255'
        )
    return red, green, blue
