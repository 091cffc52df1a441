"""OME-Zarr as slides, chunk by chunk through zarr-python, on a disk or a server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.files.failures import install_command
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.cached import TileBudget
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tiff_level import TiffLevel
from dmmn_qp.slides.tiff_tiles import CACHE_BYTES
from dmmn_qp.slides.zarr_folders import ZarrPyramid, read_pyramid
from dmmn_qp.slides.zarr_levels import ZarrLevel
from dmmn_qp.text import words_of


class ZarrReader:
    """A picture of OME-Zarr 0.4 or 0.5: RGB of 8 bits, three channels, one plane and one time.

    Args:
        path: The slide: a folder, on a disk or a server.
        mpp: What is said of its um/px beside the slide.
        crop_to_bounds: These slides have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: zarr is not installed, or the folder is no such picture.
        PixelSizeError: The pixel size is unknown or implausible.
    """

    def __init__(
        self,
        path: Path,
        *,
        mpp: StatedMpp | float | None = None,
        crop_to_bounds: bool = True,
    ) -> None:
        del crop_to_bounds
        self._path = path
        pyramid = read_pyramid(path)
        pixel_size = StatedMpp.of(mpp).resolve(path.name, pyramid.mpp)
        self._arrays = _opened(path, pyramid)
        self._levels = [_level(level) for level in pyramid.levels]
        self._axes = pyramid.levels[0].axes
        self._lock = threading.Lock()
        self._cache = TileBudget(CACHE_BYTES)
        first = self._levels[0]
        sizes = tuple((level.width, level.height) for level in self._levels)
        longer = 0 if first.width >= first.height else 1
        self.info = SlideInfo(
            path,
            first.width,
            first.height,
            pixel_size.mpp,
            tuple(sizes[0][longer] / size[longer] for size in sizes),
            tile_px=(first.tile_width, first.tile_height),
            pixel_size=pixel_size,
            level_sizes=sizes,
        )

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        page = self._levels[level]

        def part_of_tile(index: int, part: Region) -> RgbArray:
            tile, place = self._tile(level, index), page.tile_region(index)
            y, x = part.y - place.y, part.x - place.x
            return tile[y : y + part.height, x : x + part.width]

        return read_inside(region, page.width, page.height, lambda inside: page.read(inside, part_of_tile))

    def close(self) -> None:
        """Releases the chunks."""
        self._cache = TileBudget(CACHE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _tile(self, number: int, index: int) -> RgbArray:
        """Decodes what lies in one chunk of all channels, (rows, columns, 3); less at the border."""
        key = (number, index, 0, 0)
        with self._lock:
            tile = self._cache.get(key)
        if tile is None:
            tile = self._decoded(number, index)
            with self._lock:
                if self._cache.get(key) is None:  # another thread may have been as fast
                    self._cache.put(key, tile)
        return tile

    def _decoded(self, number: int, index: int) -> RgbArray:
        level = self._levels[number]
        place = level.tile_region(index)
        rows, columns = slice(place.y, min(place.bottom, level.height)), slice(place.x, min(place.right, level.width))
        chosen = {"t": 0, "c": slice(0, 3), "z": 0, "y": rows, "x": columns}
        try:
            pixels = np.asarray(self._arrays[number][tuple(chosen[axis] for axis in self._axes)])
        except SlidePlaceError:
            raise
        except Exception as error:  # of any kind: so are those of the decoders
            raise SlideError(
                f'slide "{self._path}" is damaged at level {number}, x {place.x}, y {place.y} ({words_of(error)}); '
                "copy it again from its source"
            ) from error
        return np.ascontiguousarray(np.moveaxis(pixels, 0, 2))


def _level(level: ZarrLevel) -> TiffLevel:
    """What of a level says how regions are put together from chunks."""
    tile_height, tile_width = level.chunk[-2:]
    return TiffLevel(level, *level.size, tile_width=tile_width, tile_height=tile_height)


def _opened(path: Path, pyramid: ZarrPyramid) -> list[Any]:
    """Opens the arrays of a slide with zarr.

    Raises:
        SlideError: It is not installed, or does not take what the metadata say.
    """
    try:
        from dmmn_qp.slides.zarr_store import opened_array
    except ImportError:
        raise SlideError(
            f'slide "{path}" is OME-Zarr, which needs zarr; {install_command("zarr")}, or convert it to OME-TIFF'
        ) from None
    try:
        return [opened_array(pyramid.folder, level, pyramid.zarr_format) for level in pyramid.levels]
    except SlideError:
        raise
    except Exception as error:  # of any kind: zarr has many
        raise SlideError(
            f'slide "{path}" cannot be read as OME-Zarr ({words_of(error)}); write it again, or as OME-TIFF'
        ) from error
