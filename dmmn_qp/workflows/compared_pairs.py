"""Which slide of one side is which of the other, and the grid on which both are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Final

import shapely

from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.labelled import SlideLabels, open_painted, open_raster
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.labels.class_rules import PaintRules
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.folders import list_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.specs import MM2_OF_UM2, ClassMap, PatchSpec
from dmmn_qp.text import names_text, shorten
from dmmn_qp.workflows.compared_sides import LabelledSlide, Side

GRID_MPP: Final = 0.5
"""um/px at which annotations are compared with annotations, unless the slide is coarser."""

LISTED: Final = 5
"""So many slides are named of which something is said."""

_SAME_MPP: Final = 0.02


@dataclass(frozen=True, slots=True)
class Grid:
    """Where pixels are compared.

    Attributes:
        shape: (rows, columns).
        downsample: Level-0 px per pixel.
        mpp: um/px at level 0; None where nobody says it.
    """

    shape: tuple[int, int]
    downsample: float
    mpp: float | None

    @property
    def pixel_um(self) -> float:
        """um/px of a compared pixel; of 1 um/px at level 0 where nobody says it."""
        return self.downsample * (self.mpp or 1.0)

    @property
    def pixel_mm2(self) -> float:
        """Area of a compared pixel."""
        return self.pixel_um**2 * MM2_OF_UM2


@dataclass(frozen=True, slots=True)
class Pair:
    """A slide as both sides have it.

    Attributes:
        slide_id: Its name, as the first side has it.
        first: What the first says of it.
        second: What the second does.
    """

    slide_id: str
    first: LabelledSlide
    second: LabelledSlide


def paired(first: Side, second: Side) -> tuple[list[Pair], list[str], list[str]]:
    """Finds the slides that both sides have, by their names; two single files are one slide whatever their names.

    Returns:
        The pairs in the order of the first side, and names of the slides that only the first or the second has.

    Raises:
        DatasetError: A name stands for several slides, or both have none in common.
    """
    if first.is_one_file and second.is_one_file:
        return [Pair(first.slides[0].slide_id, first.slides[0], second.slides[0])], [], []
    names = SlideNames(slide.named for slide in first.slides)
    found: dict[int, LabelledSlide] = {}
    only_second: list[str] = []
    for slide in second.slides:
        number = _number_of(slide, names, first, second)
        if number is None:
            only_second.append(slide.slide_id)
        elif number in found:
            raise DatasetError(
                f'slides "{found[number].slide_id}" and "{slide.slide_id}" of "{second.path}" are both '
                f'"{first.slides[number].slide_id}" of "{first.path}"; compare them file by file'
            )
        else:
            found[number] = slide
    if not found:
        raise DatasetError(
            f'"{first.path}" and "{second.path}" have no slide in common: the first has {_listed(first)}, the second '
            f"{_listed(second)}; slides meet by their names"
        )
    pairs = [Pair(first.slides[i].slide_id, first.slides[i], found[i]) for i in sorted(found)]
    return pairs, [slide.slide_id for i, slide in enumerate(first.slides) if i not in found], only_second


def _number_of(slide: LabelledSlide, names: SlideNames, first: Side, second: Side) -> int | None:
    where = f'"{second.path}"'
    exact = [i for i, other in enumerate(first.slides) if other.slide_id == slide.slide_id]
    if len(exact) == 1 and not slide.named.path.parent.name:  # which alone may tell slides of one name apart
        return exact[0]
    for name in dict.fromkeys((str(slide.named.path), *slide.named.names())):
        numbers = names.called(name, where, DatasetError)
        shown = [n for n in numbers if first.slides[n].frame == slide.frame] or numbers
        if len(shown) > 1:
            raise DatasetError(
                f'{where}: slide "{shorten(name)}" may be {len(shown)} images of "{first.path}", which show one file; '
                "compare them file by file"
            )
        if shown:
            return shown[0]
    return None


def _listed(side: Side) -> str:
    return names_text([slide.slide_id for slide in side.slides], LISTED) or "none"


class SlideFiles:
    """The slides in a folder, for what neither side says of them.

    Args:
        folder: The folder.

    Raises:
        DatasetError: There is none.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError(f'slides folder "{folder}" {why_not_there(folder) or "is no folder"}; check --slides')
        self._folder = folder
        self._files = list_slides(folder)
        self._names = SlideNames(map(NamedSlide, self._files))

    def called(self, name: str) -> Path | None:
        """The slide of a name; None where there is none.

        Raises:
            DatasetError: The name stands for several files.
        """
        numbers = self._names.called(name, f'"{self._folder}"', DatasetError)
        return self._files[numbers[0]] if numbers else None


def with_slides(pair: Pair, slides: SlideFiles | None) -> Pair:
    """The pair with size and um/px from the slide's file, where neither side says both.

    Args:
        pair: The slide as both sides have it.
        slides: Where slides are; None for nowhere.

    Raises:
        DatasetError: The name stands for several files.
        SlideError: The file cannot be read.
    """
    sides = (pair.first, pair.second)
    known = any(s.size_px for s in sides) and any(s.mpp for s in sides)
    if slides is None or known:
        return pair
    for name in dict.fromkeys((*pair.first.named.names(), *pair.second.named.names())):
        file = slides.called(name)
        if file is not None:
            with open_slide(file) as slide:
                size, mpp = (slide.info.width, slide.info.height), slide.info.mpp
            return replace(pair, first=replace(pair.first, size_px=pair.first.size_px or size,
                                               mpp=pair.first.mpp or mpp))  # fmt: skip
    return pair


def grid_of(pair: Pair, mpp: float | None, grid_mpp: float, warn: Callable[[str], None]) -> Grid:
    """The grid on which a slide is compared: that of its rasters, else one for annotations.

    Args:
        pair: The slide as both sides have it.
        mpp: um/px at level 0 where neither side says it.
        grid_mpp: um/px of the pixels in which annotations are compared with annotations.
        warn: Takes what the user should know.

    Raises:
        DatasetError: The two are not of one frame.
    """
    first, second = pair.first, pair.second
    _check_frames(pair)
    size, mpp = first.size_px or second.size_px, first.mpp or second.mpp or mpp
    shapes = {slide.path: _shape_of(slide.raster) for slide in (first, second) if slide.raster is not None}
    if len(set(shapes.values())) > 1:
        (one, (rows, columns)), (other, (others_rows, others_columns)) = shapes.items()
        raise DatasetError(
            f'"{one}" has {columns} x {rows} px but "{other}" {others_columns} x {others_rows}; label maps must be at '
            "the same um/px, or give one of them as polygons (GeoJSON), which are painted as needed"
        )
    if shapes:
        (shape,) = set(shapes.values())
        told = first.grid_mpp or second.grid_mpp
        downsample = _downsample(pair, size, shape, told / mpp if told and mpp else None, warn)
        mpp = mpp or (told / downsample if told else None)
    else:
        size = size or _bounds(pair)
        downsample = _painted_downsample(mpp, grid_mpp)
        shape = (max(1, ceil(size[1] / downsample - 1e-9)), max(1, ceil(size[0] / downsample - 1e-9)))
    if mpp is None:
        warn(
            f"nobody says the um/px of {pair.slide_id}, so its areas are those of 1 um/px; pass --mpp, or --slides "
            "with the folder of the slides"
        )
    return Grid(shape, downsample, mpp)


def _check_frames(pair: Pair) -> None:
    first, second = pair.first, pair.second
    way_out = "compare what was drawn and made of the same image"
    if None not in (first.size_px, second.size_px) and first.size_px != second.size_px:
        sizes = [" x ".join(map(str, size)) for size in (first.size_px, second.size_px) if size]
        raise DatasetError(
            f'slide "{pair.slide_id}" has {sizes[0]} px in "{first.path}" but {sizes[1]} in "{second.path}"; {way_out}'
        )
    if None not in (first.frame, second.frame) and first.frame != second.frame:
        raise DatasetError(
            f'slide "{pair.slide_id}" is turned or cropped in another way in "{second.path}" than in "{first.path}"; '
            f"{way_out}"
        )
    if first.mpp and second.mpp and abs(first.mpp / second.mpp - 1) > _SAME_MPP:
        raise DatasetError(
            f'slide "{pair.slide_id}" has {first.mpp:g} um/px in "{first.path}" but {second.mpp:g} in "{second.path}"; '
            "correct one of them in QuPath (Image > Set pixel size)"
        )


def _shape_of(path: Path) -> tuple[int, int]:
    with open_raster(path) as raster:
        return raster.shape


def _downsample(
    pair: Pair,
    size: tuple[int, int] | None,
    shape: tuple[int, int],
    told: float | None,
    warn: Callable[[str], None],
) -> float:
    """Level-0 px per pixel of a raster: by its um/px, else by the size of the slide."""
    if size is None:
        if told is None and any(slide.raster is None for slide in (pair.first, pair.second)):
            warn(
                f"nobody says the size of {pair.slide_id}, so its label map is taken to have the pixels of level 0; "
                "pass --slides with the folder of the slides"
            )
        return told or 1.0
    across, down = size[0] / shape[1], size[1] / shape[0]
    ratio = told or (round(across) if _covers(size, shape, round(across)) else (across + down) / 2)
    if not _covers(size, shape, ratio):
        raise DatasetError(
            f'the label map of "{pair.slide_id}" has {shape[1]} x {shape[0]} px, which is not the shape of the slide '
            f"({size[0]} x {size[1]} px); both must show the whole slide"
        )
    return float(ratio)


def _covers(size: tuple[int, int], shape: tuple[int, int], ratio: float) -> bool:
    """Whether pixels of ``ratio`` level-0 px cover a slide, but for a part of one at each end."""
    if ratio <= 0:
        return False
    return abs(size[0] / ratio - shape[1]) < 1.01 and abs(size[1] / ratio - shape[0]) < 1.01


def _painted_downsample(mpp: float | None, grid_mpp: float) -> float:
    if mpp is None or mpp >= grid_mpp:
        return 1.0
    return PatchSpec(mpps=(grid_mpp,)).grid_of(mpp).downsample


def _bounds(pair: Pair) -> tuple[int, int]:
    """A size that holds all annotations, where nobody says that of the slide."""
    outlines = [a.geometry for slide in (pair.first, pair.second) for a in slide.annotations if a.is_area]
    if not outlines:
        return 1, 1
    _, _, right, bottom = shapely.total_bounds(outlines)
    return max(1, ceil(right)), max(1, ceil(bottom))


def labels_of(slide: LabelledSlide, grid: Grid, names: Mapping[str, str]) -> SlideLabels:
    """What a side says of a slide, pixel by pixel.

    Args:
        slide: The slide.
        grid: The pixels.
        names: Own name of a class -> the name by which both meet, where that is another.
    """
    values = {value: names.get(name, name) for value, name in slide.classes.items()}
    own = {value: name for value, name in slide.classes.items() if name in names}
    if slide.raster is not None:
        opened, raster = partial(open_raster, slide.raster), slide.raster
        return SlideLabels(raster, values, slide.names_from, opened, partial(_no_class, slide), own)
    colors = distinct_colors(slide.classes.values())
    class_map = ClassMap.from_colors((name, colors[name]) for name in slide.classes.values())
    painter = LabelPainter(slide.annotations, class_map, grid.downsample, PaintRules(), grid.mpp, slide.plane)
    return SlideLabels(
        slide.path, values, slide.names_from, partial(open_painted, painter, grid.shape), partial(_no_class, slide), own
    )


def _no_class(slide: LabelledSlide, value: int) -> str:
    return f'"{slide.path}" holds the value {value}, which {slide.names_from} does not name; add it there'
