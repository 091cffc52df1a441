"""What every slide reader offers, and the one way to read a field at a magnification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmmn_qp.choices import Reduction
from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.pixel_sizes import PixelSize
from dmmn_qp.specs import PatchGrid

RgbArray = NDArray[np.uint8]
"""(rows, columns, 3) uint8."""

MICROMETRES: Final = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "mm": 1e3, "cm": 1e4,
}  # fmt: skip
"""How many um a unit of length is, as QuPath, OME and ImageJ spell them."""

_OVERVIEW_SOURCE_PX = 4096
_DECIMATED_SOURCE_PX = 4096


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What is known of an open slide.

    Attributes:
        path: The file.
        width: Level-0 columns in QuPath's frame.
        height: Level-0 rows in QuPath's frame.
        mpp: um/px at level 0.
        level_downsamples: Level-0 pixels per pixel of each level, 1 first, ascending.
        origin_px: QuPath's (0, 0) in the file's own level-0 pixels: OpenSlide's bounds offset.
        tile_px: (width, height) of the tiles in which the file keeps level 0, where it has any: reads along their
            borders decode nothing twice. The borders are multiples of it from the file's own corner on, which is at
            minus ``origin_px``.
        pixel_size: Who says ``mpp``, and who says what else; None for pixels in memory.
        level_sizes: (width, height) of each level, where the file says them and they are those of the whole frame.
    """

    path: Path
    width: int
    height: int
    mpp: float
    level_downsamples: tuple[float, ...]
    origin_px: tuple[int, int] = (0, 0)
    tile_px: tuple[int, int] | None = None
    pixel_size: PixelSize | None = None
    level_sizes: tuple[tuple[int, int], ...] = ()

    def scale_of(self, level: int) -> tuple[float, float]:
        """Returns level-0 px per pixel of a level, across and down; whole where its sides are cut to whole pixels."""
        stated = self.level_downsamples[level]
        if not self.level_sizes:
            downsample = whole_downsample(stated, max(self.width, self.height))
            return downsample, downsample
        across, down = (
            full / side for full, side in zip((self.width, self.height), self.level_sizes[level], strict=True)
        )
        whole = max(1, round(stated))
        is_cut = all(whole_downsample(d, side) == whole for d, side in ((across, self.width), (down, self.height)))
        return (float(whole), float(whole)) if is_cut else (across, down)


class Slide(Protocol):
    """An open slide; a context manager."""

    @property
    def info(self) -> SlideInfo:
        """Size, pixel size and levels."""
        ...

    def read_level(self, level: int, region: Region) -> RgbArray:
        """Pixels of one level.

        Args:
            level: Number of the level, 0 = full resolution.
            region: In pixels of that level, in QuPath's frame; it may leave the slide.

        Returns:
            (height, width, 3) uint8; 0 outside the slide, white where the scanner saved nothing.
        """
        ...

    def close(self) -> None:
        """Releases the file."""
        ...

    def __enter__(self) -> Slide: ...

    def __exit__(self, *exc: object) -> None: ...


def check_same(info: SlideInfo, slide: Slide) -> None:
    """Refuses a slide that was opened again, and has become another one meanwhile: cut, or replaced.

    Args:
        info: What was known of it.
        slide: The slide.

    Raises:
        SlideError: Size, pixel size or levels differ.
    """
    if slide.info != info:
        raise SlideError(
            f'slide "{info.path}" changed while it was read: its size, pixel size or levels are others than before; '
            "copy the file again from its source"
        )


def read_inside(region: Region, width: int, height: int, read: Callable[[Region], RgbArray]) -> RgbArray:
    """Pixels of a region that may leave a level: the frame that all readers put around what they read.

    Args:
        region: In pixels of the level.
        width: Columns of the level.
        height: Rows of the level.
        read: Gives the pixels of a region inside the level.

    Returns:
        (region.height, region.width, 3) uint8; 0 outside the level.
    """
    inside = region.intersection(Region(0, 0, width, height))
    if inside == region:
        return read(region)
    pixels = np.zeros((region.height, region.width, 3), np.uint8)
    if inside is not None:
        y, x = inside.y - region.y, inside.x - region.x
        pixels[y : y + inside.height, x : x + inside.width] = read(inside)
    return pixels


def read_field(
    slide: Slide, grid: PatchGrid, magnification: int, field: Region, reduction: Reduction = "area"
) -> RgbArray:
    """Reads a field at one magnification: the one reading primitive of import, training and prediction.

    With ``area``, a level whose pixels are those asked for is taken as it is. Otherwise the next finer level is
    averaged: exactly over whole pixels for whole factors, with an antialiasing filter for others.

    With ``decimate``, pixel (x, y) of magnification m is grid pixel (x * 2**m, y * 2**m): fields of all magnifications
    and places take the same pixels of the finest, and no coarser level is looked at.

    Args:
        slide: The slide.
        grid: The patch grid on it.
        magnification: Number of the magnification, 0 = finest.
        field: In pixels of that magnification (see `PatchGrid.field`); it may leave the slide.
        reduction: How the magnification is made from finer pixels.

    Returns:
        (field.height, field.width, 3) uint8 RGB, 0 outside the slide (the paper's zero padding).
    """
    if reduction == "area" or magnification == 0:
        return _read_scaled(slide, grid.downsample_of(magnification), field)
    step = 2**magnification
    decimated = np.empty((field.height, field.width, 3), np.uint8)
    for part in field.tiles(max(1, _DECIMATED_SOURCE_PX // step)):
        fine = Region(part.x * step, part.y * step, part.width * step, part.height * step)
        y, x = part.y - field.y, part.x - field.x
        decimated[y : y + part.height, x : x + part.width] = _read_scaled(slide, grid.downsample, fine)[::step, ::step]
    return decimated


def read_overview(slide: Slide, longest_px: int) -> RgbArray:
    """Reads the whole slide, its longer side about ``longest_px``; memory is bounded whatever levels it has."""
    info = slide.info
    downsample = overview_downsample(info, longest_px)
    height, width = ceil(info.height / downsample), ceil(info.width / downsample)
    picture = np.zeros((height, width, 3), np.uint8)
    _, scale = level_for(info, downsample)
    tile = max(1, int(_OVERVIEW_SOURCE_PX * min(scale) / downsample))
    for part in Region(0, 0, width, height).tiles(tile):
        picture[part.y : part.bottom, part.x : part.right] = _read_scaled(slide, downsample, part)
    return picture


def overview_downsample(info: SlideInfo, longest_px: int) -> float:
    """Returns level-0 px per pixel of `read_overview`: a whole number."""
    return max(1.0, float(ceil(max(info.width, info.height) / longest_px)))


def whole_downsample(stated: float, longest_px: int) -> float:
    """Returns a level's downsample, whole where that gives the same size: sizes of levels are cut to whole pixels.

    A relative tolerance would not do: of 4.03 taken for 4, the far end of a slide of 10,000 px is 75 px off.

    Args:
        stated: Level-0 pixels per pixel of the level, as the file says.
        longest_px: Longer side of level 0.
    """
    whole = max(1, round(stated))
    return float(whole) if abs(longest_px / whole - longest_px / stated) < 1 else stated


def _read_scaled(slide: Slide, wanted: float, region: Region) -> RgbArray:
    """Pixels of a region given in pixels of ``wanted`` level-0 px: (height, width, 3) uint8."""
    level, (across, down) = level_for(slide.info, wanted)
    factor, factor_down = wanted / across, wanted / down
    if factor == factor_down == 1:
        return slide.read_level(level, region)
    if factor == factor_down == int(factor):
        k = int(factor)
        source = Region(region.x * k, region.y * k, region.width * k, region.height * k)
        return np.asarray(Image.fromarray(slide.read_level(level, source)).reduce(k))
    left, top = region.x * factor, region.y * factor_down
    right, bottom = region.right * factor, region.bottom * factor_down
    margin = ceil(max(factor, factor_down)) + 1  # what the filter sees beyond the region, so that fields fit together
    x, y = floor(left) - margin, floor(top) - margin
    source = Region(x, y, ceil(right) + margin - x, ceil(bottom) + margin - y)
    pixels = Image.fromarray(slide.read_level(level, source))
    size, box = (region.width, region.height), (left - x, top - y, right - x, bottom - y)
    return np.asarray(pixels.resize(size, Image.Resampling.BILINEAR, box=box))  # widens when it shrinks: low-pass


def level_for(info: SlideInfo, wanted: float) -> tuple[int, tuple[float, float]]:
    """Returns (number, `SlideInfo.scale_of`) of the coarsest level that is not coarser than ``wanted``."""
    best, best_scale = 0, (1.0, 1.0)
    for level in range(len(info.level_downsamples)):
        scale = info.scale_of(level)
        if max(best_scale) <= max(scale) <= wanted:
            best, best_scale = level, scale
    return best, best_scale
