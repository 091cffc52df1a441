"""Slides through OpenSlide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import openslide

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.closing import undisturbed
from dmmn_qp.slides.pixel_sizes import StatedMpp

_HALF_OPAQUE = 128  # OpenSlide gives 0 or 255, and between them only where it interpolates

PLAIN_PAGES: Final = frozenset({"aperio", "generic-tiff"})
"""What OpenSlide calls the formats whose levels are plain pages of a TIFF, each a grid of tiles that do not overlap."""

MAX_TILE_BYTES = 512 * 1024**2
"""Largest tile in memory. OpenSlide takes memory for what a file claims, and ends the process where there is none."""


class OpenSlideReader:
    """A slide that OpenSlide reads (Aperio, Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, tiled TIFF ...).

    OpenSlide takes places in whole level-0 pixels. Where a level's downsample is not whole (2.005 for sizes that do not
    divide), it interpolates by what is left: at most half a level-0 pixel.

    Args:
        path: The slide.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: Whether (0, 0) is the corner of the scanned bounds, as in QuPath unless its server has
            ``--no-crop``.

    Raises:
        SlideError: OpenSlide cannot read the file.
        PixelSizeError: The pixel size is unknown or implausible.
    """

    def __init__(
        self,
        path: Path,
        *,
        mpp: StatedMpp | float | None = None,
        crop_to_bounds: bool = True,
    ) -> None:
        self._open: list[openslide.OpenSlide] = []  # none where it is closed
        try:
            slide = openslide.OpenSlide(str(path))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(f'slide "{path}" cannot be read by OpenSlide ({_one_line(error)})') from error
        properties = slide.properties
        full_width, full_height = slide.dimensions
        x = y = 0
        width, height = full_width, full_height
        if crop_to_bounds:
            x = _integer(properties.get(openslide.PROPERTY_NAME_BOUNDS_X), 0)
            y = _integer(properties.get(openslide.PROPERTY_NAME_BOUNDS_Y), 0)
            width = min(_integer(properties.get(openslide.PROPERTY_NAME_BOUNDS_WIDTH), width), full_width - x)
            height = min(_integer(properties.get(openslide.PROPERTY_NAME_BOUNDS_HEIGHT), height), full_height - y)
        self._sizes = tuple(slide.level_dimensions)
        self._steps = tuple(slide.level_downsamples)
        try:
            if not self._sizes or len(self._sizes) != len(self._steps):
                raise SlideError(f'slide "{path}" was cut or replaced while it was opened; try again')
            _check_tiles(path, properties, len(self._sizes))
            pixel_size = StatedMpp.of(mpp).resolve(path.name, _file_mpp(properties))
        except SlideError:
            undisturbed(slide.close)
            raise
        self._open.append(slide)
        self.vendor = str(properties.get(openslide.PROPERTY_NAME_VENDOR, ""))
        """What OpenSlide calls the format."""
        is_whole = (x, y, width, height) == (0, 0, full_width, full_height)
        sizes = self._sizes if is_whole and self.vendor in PLAIN_PAGES else ()
        self.info = SlideInfo(
            path,
            width,
            height,
            pixel_size.mpp,
            tuple(_by_the_longer_side(sizes)) or self._steps,
            (x, y),
            _tile_size(properties),
            level_sizes=sizes,
            pixel_size=pixel_size,
        )

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level of the file, whatever its bounds."""
        return self._sizes

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        width, height = (max(1, round(side / self._steps[level])) for side in (self.info.width, self.info.height))
        if self.info.level_sizes:
            width, height = self._sizes[level]
        return read_inside(region, width, height, lambda inside: self._read(level, inside))

    def _read(self, level: int, inside: Region) -> RgbArray:
        step = self._steps[level]  # OpenSlide's own number, by which it finds the pixel of the level
        location = (round(inside.x * step) + self.info.origin_px[0], round(inside.y * step) + self.info.origin_px[1])
        slide = next(iter(self._open), None)
        if slide is None:
            raise SlideError(f'slide "{self.info.path}" was closed before it was read; open it again')
        try:
            rgba = slide.read_region(location, level, (inside.width, inside.height))
        except (openslide.OpenSlideError, OSError) as error:
            self._open_again(slide)
            raise SlideError(
                f'slide "{self.info.path}" is damaged at level {level}, x {location[0]}, y {location[1]} '
                f"({_one_line(error)}); copy the file again from its source"
            ) from error
        return _over_white(np.asarray(rgba))

    def _open_again(self, failed: openslide.OpenSlide) -> None:
        """Opens the slide again: after an error OpenSlide reads nothing more. Others may still use ``failed``."""
        if failed in self._open:
            with contextlib.suppress(openslide.OpenSlideError, OSError):
                self._open[:] = [openslide.OpenSlide(str(self.info.path))]

    def close(self) -> None:
        """Releases the file, as soon as no other thread reads it.

        It is let go and not closed: openslide closes what nobody holds any more, and OpenSlide would end the process if
        a slide was closed that another thread reads.
        """
        undisturbed(self._open.clear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _over_white(rgba: RgbArray) -> RgbArray:
    """Lays RGBA over white: what was not scanned is glass."""
    scanned = rgba[..., 3:] >= _HALF_OPAQUE
    return rgba[..., :3] if scanned.all() else np.where(scanned, rgba[..., :3], np.uint8(255))


def _file_mpp(properties: object) -> tuple[float, float] | None:
    """Returns (width, height) of a pixel in um from OpenSlide's properties."""
    get = getattr(properties, "get")  # noqa: B009  # openslide's mapping is untyped
    try:
        return float(get(openslide.PROPERTY_NAME_MPP_X)), float(get(openslide.PROPERTY_NAME_MPP_Y))
    except (TypeError, ValueError):
        return None


def _tile_size(properties: object) -> tuple[int, int] | None:
    get = getattr(properties, "get")  # noqa: B009
    width, height = (_integer(get(f"openslide.level[0].tile-{side}"), 0) for side in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None


def _check_tiles(path: Path, properties: object, levels: int) -> None:
    """Refuses a file before OpenSlide takes memory for its tiles.

    Raises:
        SlideError: A tile is too large.
    """
    get = getattr(properties, "get")  # noqa: B009
    for level in range(levels):
        width, height = (_integer(get(f"openslide.level[{level}].tile-{side}"), 0) for side in ("width", "height"))
        if width * height * 4 > MAX_TILE_BYTES:
            raise SlideError(
                f'slide "{path}" says that its tiles have {width} x {height} px, too large to be read; it is damaged, '
                "or must be converted to smaller tiles, for example with QuPath (File > Export images > OME TIFF)"
            )


def _by_the_longer_side(sizes: Sequence[tuple[int, int]]) -> Iterator[float]:
    """Yields level-0 px per pixel of each level: by the longer side, where cutting matters least."""
    for size in sizes:
        side = 0 if sizes[0][0] >= sizes[0][1] else 1
        yield sizes[0][side] / size[side]


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
