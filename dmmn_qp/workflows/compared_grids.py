"""The pixels on which both sides of a slide are compared, and what each side says in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Final

import shapely

from dmmn_qp.errors import DatasetError
from dmmn_qp.evaluating.ground import whole_downsample
from dmmn_qp.evaluating.labelled import SlideLabels, open_painted, open_raster
from dmmn_qp.folders.counted_labels import OpenLabels
from dmmn_qp.folders.evaluation import Ground
from dmmn_qp.folders.resampled_labels import open_resampled
from dmmn_qp.labels.class_rules import PaintRules
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.specs import MM2_OF_UM2, ClassMap, PatchSpec
from dmmn_qp.workflows.compared_pairs import Pair
from dmmn_qp.workflows.compared_sides import LabelledSlide

GRID_MPP: Final = 0.5
"""um/px at which annotations are compared with annotations, unless the slide is coarser."""

_SAME_MPP: Final = 0.02
"""um/px that differ by less were rounded."""

_SAME_PX: Final = 1e-6

Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where pixels are compared.

    Attributes:
        shape: (rows, columns).
        downsample: Level-0 px per pixel.
        mpp: um/px at level 0; None where nobody says it.
        other_px: Level-0 px per pixel of the first's and of the second's label map, where these are other pixels; None
            of a map that has these, and of annotations.
    """

    shape: tuple[int, int]
    downsample: float
    mpp: float | None
    other_px: tuple[float | None, float | None] = (None, None)

    @property
    def pixel_um(self) -> float:
        """um/px of a compared pixel; of 1 um/px at level 0 where nobody says it."""
        return self.downsample * (self.mpp or 1.0)

    @property
    def pixel_mm2(self) -> float:
        """Area of a compared pixel."""
        return self.pixel_um**2 * MM2_OF_UM2


@dataclass(frozen=True, slots=True)
class _LabelMap:
    """A label map of a slide.

    Attributes:
        path: The file.
        shape: (rows, columns).
        um: um/px that it tells, if any.
        told_px: Level-0 px per pixel, as far as um/px tell them.
    """

    path: Path
    shape: tuple[int, int]
    um: float | None
    told_px: float | None

    @classmethod
    def of(cls, slide: LabelledSlide, mpp: float | None) -> _LabelMap | None:
        """The label map of a side, where it is one and no annotations; ``mpp`` is um/px of level 0, where known."""
        if slide.raster is None:
            return None
        with open_raster(slide.raster) as raster:
            shape = raster.shape
        um, mpp = slide.grid_mpp, slide.mpp or mpp
        return cls(slide.raster, shape, um, whole_downsample(um, mpp) if um and mpp else None)

    @property
    def described(self) -> str:
        """Its size, for messages: ``"a.png" has 5 x 3 px of 0.5 um``."""
        of_um = f" of {self.um:.4g} um" if self.um else ""
        return f'"{self.path}" has {self.shape[1]} x {self.shape[0]} px{of_um}'

    def ratio(self, size: tuple[float, float], told: float | None) -> float | None:
        """How many px of a slide one of its own is wide; None where it cannot show that slide.

        Args:
            size: (width, height) of the slide in some px.
            told: What um/px tell of it; where these were rounded, the shape tells it.
        """
        across, down = size[0] / self.shape[1], size[1] / self.shape[0]
        guesses = [told] if told is not None else []
        for guess in (*guesses, round(across), (across + down) / 2):
            is_told = told is None or abs(guess / told - 1) <= _SAME_MPP
            if is_told and _covers(size, self.shape, guess):
                return float(guess)
        return None


def grid_of(pair: Pair, mpp: float | None, grid_mpp: float, warn: Warn) -> Grid:
    """The grid on which a slide is compared: that of its finer label map, else one for annotations.

    The finer map's, because figures then do not depend on which side comes first, and nothing that either side says is
    lost: a pixel of the coarser one becomes as many of the finer as lie in it.

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
    maps = _LabelMap.of(first, mpp), _LabelMap.of(second, mpp)
    if maps != (None, None):
        grid = _grid_of_maps(pair, maps, size, mpp, warn)
    else:
        size = size or _bounds(pair)
        downsample = _painted_downsample(mpp, grid_mpp)
        shape = (max(1, ceil(size[1] / downsample - 1e-9)), max(1, ceil(size[0] / downsample - 1e-9)))
        grid = Grid(shape, downsample, mpp)
    if grid.mpp is None:
        warn(
            f"nobody says the um/px of {pair.slide_id}, so its areas are those of 1 um/px; pass --mpp, or --slides "
            "with the folder of the slides"
        )
    return grid


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
    _check_mpps(pair, first.mpp, second.mpp)


def _check_mpps(pair: Pair, one: float | None, other: float | None) -> None:
    """Refuses a slide of which both sides say different um/px at level 0."""
    if one and other and abs(one / other - 1) > _SAME_MPP:
        raise DatasetError(
            f'slide "{pair.slide_id}" has {one:g} um/px in "{pair.first.path}" but {other:g} in "{pair.second.path}"; '
            "correct one of them in QuPath (Image > Set pixel size)"
        )


Maps = tuple[_LabelMap | None, _LabelMap | None]
_Pixels = tuple[float | None, float | None]


def _grid_of_maps(pair: Pair, maps: Maps, size: tuple[int, int] | None, mpp: float | None, warn: Warn) -> Grid:
    """The grid of the finer of the label maps; of equal ones that of the first."""
    own_px = _by_one_another(pair, maps, warn) if size is None else _by_slide(pair, maps, size, mpp)
    placed = [(one, px) for one, px in zip(maps, own_px, strict=True) if one is not None and px is not None]
    if mpp is None:
        told = [one.um / px if one.um else None for one, px in placed]
        _check_mpps(pair, told[0], told[-1])
        mpp = next((one for one in told if one is not None), None)
    finer, downsample = min(placed, key=lambda one: round(one[1] / _SAME_PX))

    def other_px(one: _LabelMap | None, px: float | None) -> float | None:
        has_these = one is None or px is None or (one.shape == finer.shape and abs(px / downsample - 1) < _SAME_PX)
        return None if has_these else px

    return Grid(finer.shape, downsample, mpp, (other_px(maps[0], own_px[0]), other_px(maps[1], own_px[1])))


def _by_slide(pair: Pair, maps: Maps, size: tuple[int, int], mpp: float | None) -> _Pixels:
    """Level-0 px per pixel of each label map of a slide whose size is known."""

    def own_px(one: _LabelMap | None) -> float | None:
        if one is None or (found := one.ratio(size, one.told_px)) is not None:
            return None if one is None else found
        raise DatasetError(
            f'{one.described}, which is not the shape of the slide "{pair.slide_id}" ({size[0]} x {size[1]} px'
            f"{f' of {mpp:.4g} um' if mpp else ''}); it must show the whole slide"
        )

    return own_px(maps[0]), own_px(maps[1])


def _by_one_another(pair: Pair, maps: Maps, warn: Warn) -> _Pixels:
    """Level-0 px per pixel of each label map, where nobody says the size of the slide: all of them show all of it."""
    there = sorted((one for one in maps if one is not None), key=lambda one: -prod(one.shape))
    finer, coarser = there[0], there[-1]
    if len(there) == 1:
        if finer.told_px is None:
            warn(
                f"nobody says the size of {pair.slide_id}, so its label map is taken to have the pixels of level 0; "
                "pass --slides with the folder of the slides"
            )
        px = finer.told_px or 1.0
        return (px, None) if maps[0] is not None else (None, px)
    ratio = coarser.ratio(finer.shape[::-1], coarser.um / finer.um if coarser.um and finer.um else None)
    if ratio is None:
        raise DatasetError(
            f"{finer.described} but {coarser.described}; both must show the whole slide, at any um/px: that is another "
            "part of it, or the um/px of one of them is wrong"
        )
    if finer.shape != coarser.shape and not (finer.um and coarser.um):
        which = finer if coarser.um else coarser
        warn(
            f'"{which.path}" does not say its um/px: by their shapes, a pixel of "{coarser.path}" is taken to be '
            f'{ratio:.4g} of "{finer.path}" wide'
        )
    px = finer.told_px or (coarser.told_px / ratio if coarser.told_px else 1.0)
    return (px, px * ratio) if maps[0] is finer else (px * ratio, px)


def _covers(size: tuple[float, float], shape: tuple[int, int], ratio: float) -> bool:
    """Whether pixels of ``ratio`` px of a slide cover it, but for a part of one at each end."""
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


def sides_of(pair: Pair, grid: Grid, maps: Mapping[str, str]) -> tuple[SlideLabels, SlideLabels]:
    """What both sides say of a slide, pixel by pixel.

    Args:
        pair: The slide.
        grid: The pixels.
        maps: Class of the second -> that of the first by which both meet, where that is another.
    """
    return _labels_of(pair.first, grid, grid.other_px[0], {}), _labels_of(pair.second, grid, grid.other_px[1], maps)


def _labels_of(slide: LabelledSlide, grid: Grid, other_px: float | None, names: Mapping[str, str]) -> SlideLabels:
    values = {value: names.get(name, name) for value, name in slide.classes.items()}
    own = {value: name for value, name in slide.classes.items() if name in names}
    opened: OpenLabels
    if slide.raster is not None:
        opened = partial(open_raster, slide.raster)
        if other_px is not None:
            opened = partial(open_resampled, opened, other_px, Ground(downsample=grid.downsample, shape=grid.shape))
        return SlideLabels(slide.raster, values, slide.names_from, opened, partial(_no_class, slide), own)
    colors = distinct_colors(slide.classes.values())
    class_map = ClassMap.from_colors((name, colors[name]) for name in slide.classes.values())
    painter = LabelPainter(slide.annotations, class_map, grid.downsample, PaintRules(), grid.mpp, slide.plane)
    return SlideLabels(
        slide.path, values, slide.names_from, partial(open_painted, painter, grid.shape), partial(_no_class, slide), own
    )


def _no_class(slide: LabelledSlide, value: int) -> str:
    return f'"{slide.path}" holds the value {value}, which {slide.names_from} does not name; add it there'
