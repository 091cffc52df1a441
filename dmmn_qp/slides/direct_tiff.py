"""Tiled TIFF of kinds that OpenSlide knows: its frame and its pixels, but tiles are decoded without it, several times
as fast.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import openslide
import tifffile

from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, read_inside
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tiff_tiles import JPEG, SEPARATE, TiffLevel, TiffTiles
from dmmn_qp.slides.tifffile_reader import is_ome_tiff

KINDS: Final = frozenset({"aperio", "generic-tiff"})
"""What OpenSlide calls the formats whose levels are plain pages, each a grid of tiles that do not overlap."""

MAX_PAGES = 64
"""Pages of a file that are looked at as levels."""

_APERIO_JPEG_2000_RGB: Final = 33005
_COMPRESSIONS: Final = frozenset({1, 5, JPEG, 8, 32946, _APERIO_JPEG_2000_RGB})  # none, LZW, JPEG, deflate twice
_UPRIGHT: Final = 1


def is_direct_tiff(path: Path) -> bool:
    """Whether a file is of one of the kinds, and no OME-TIFF, of whose levels OpenSlide knows nothing."""
    return openslide.OpenSlide.detect_format(str(path)) in KINDS and not is_ome_tiff(path)


class DirectTiffReader:
    """A slide that `OpenSlideReader` could read, with the same frame and the same pixels.

    A level is decoded directly where it is a page of 8-bit RGB or YCbCr of a known compression, and its size is that of
    level 0 divided by a whole number: OpenSlide interpolates between others. Where a level of Aperio's lacks tiles,
    OpenSlide draws what they touch in the coarser ones anew, so it reads those. Before a level's first pixel is
    returned, its most detailed tile and three others are compared with what OpenSlide makes of them; if one differs,
    OpenSlide reads the level from then on. It also reads the tiles that were never written (white, or made from
    Aperio's finer level) and those that are damaged, which it refuses.

    Args:
        path: The slide.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: See `OpenSlideReader`.

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
        self._openslide = OpenSlideReader(path, mpp=mpp, crop_to_bounds=crop_to_bounds)
        self.info = self._openslide.info
        self._lock = threading.Lock()
        self._checked: dict[int, TiffLevel | None] = {}
        self._tiles: TiffTiles | None = None
        self._found: dict[int, TiffLevel] = {}
        try:
            self._tiles = TiffTiles(path, strict=True)
            self._found = self._find_levels(self._tiles)
        except Exception:  # of any kind: OpenSlide reads what tifffile does not understand
            self._found = {}

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        page = self._direct(level)
        if page is None:
            return self._openslide.read_level(level, region)

        def part_of_tile(index: int, part: Region) -> RgbArray:
            assert self._tiles is not None
            try:
                return self._tiles.part(page, index, part)
            except Exception:  # of any kind: so are those of the decoders; OpenSlide says what is to be said
                return self._openslide.read_level(level, part)

        return read_inside(region, page.width, page.height, lambda inside: page.read(inside, part_of_tile))

    def close(self) -> None:
        """Releases the file."""
        self._openslide.close()
        if self._tiles is not None:
            self._tiles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _direct(self, number: int) -> TiffLevel | None:
        """The page of a level, if it may be decoded directly."""
        with self._lock:
            if number not in self._checked:
                page = self._found.get(number)
                self._checked[number] = page if page is not None and self._equals_openslide(number, page) else None
            return self._checked[number]

    def _equals_openslide(self, number: int, page: TiffLevel) -> bool:
        assert self._tiles is not None
        whole = Region(0, 0, page.width, page.height)
        for index in _sample(page):
            part = page.tile_region(index).intersection(whole)
            assert part is not None
            try:
                pixels = self._tiles.part(page, index, part)
                if not np.array_equal(pixels, self._openslide.read_level(number, part)):
                    return False
            except Exception:  # of any kind: whatever is wrong with the tile, nothing was shown
                return False
        return True

    def _find_levels(self, tiles: TiffTiles) -> dict[int, TiffLevel]:
        """The page of each level that has exactly one of its size, and could be decoded directly."""
        pages = list(_tiled_pages(tiles.file))
        found, redrawn = {}, False
        for number, (width, height) in enumerate(self._openslide.level_sizes):
            downsample = self.info.level_downsamples[number]
            fits = [page for page in pages if (page.imagewidth, page.imagelength) == (width, height)]
            # what OpenSlideReader takes for the level's size is the page's, and nothing is interpolated
            whole = (self.info.width, self.info.height) == (width * downsample, height * downsample)
            if len(fits) == 1 and self.info.origin_px == (0, 0) and whole and not redrawn and _is_known(tiles, fits[0]):
                found[number] = tiles.level(fits[0])
            redrawn |= self._openslide.vendor == "aperio" and (len(fits) != 1 or 0 in fits[0].databytecounts)
        return found


def _tiled_pages(file: Any) -> Iterator[Any]:
    for number in range(MAX_PAGES):
        try:
            page = file.pages[number]
        except IndexError:
            return
        if isinstance(page, tifffile.TiffPage) and page.is_tiled:
            yield page


def _is_known(tiles: TiffTiles, page: Any) -> bool:
    """Whether a page is of a form in which OpenSlide and we can be expected to agree."""
    return (
        tiles.not_rgb(page) is None
        and page.compression in _COMPRESSIONS
        and page.planarconfig != SEPARATE
        and page.fillorder == 1
        and page.tags.valueof("Orientation", _UPRIGHT) == _UPRIGHT
    )


def _sample(page: TiffLevel) -> list[int]:
    """Numbers of the tile with the most bytes, where differences would show most, and of the first, middle and last."""
    sizes = page.page.databytecounts[: page.tiles]
    written = [index for index, size in enumerate(sizes) if size]
    if not written:
        return []
    return sorted({max(written, key=sizes.__getitem__), written[0], written[len(written) // 2], written[-1]})
