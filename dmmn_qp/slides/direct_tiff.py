"""Tiled TIFF of kinds that OpenSlide knows: its frame and its pixels, but tiles are decoded without it, several times
as fast.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import openslide
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, read_inside
from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.ome_xml import is_ome_tiff
from dmmn_qp.slides.openslide_reader import PLAIN_PAGES, OpenSlideReader
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.same_picture import Picture, fits, is_reduced_copy, seen_once
from dmmn_qp.slides.tiff_images import find_image, page_size
from dmmn_qp.slides.tiff_level import JPEG, RGB, SEPARATE, YCBCR, TiffLevel, detailed_places
from dmmn_qp.slides.tiff_tiles import TiffTiles

MAX_PAGES = 64
"""Pages of a file that are looked at as levels."""

_APERIO_JPEG_2000_RGB: Final = 33005
_COMPRESSIONS: Final = frozenset({1, 5, JPEG, 8, 32946, _APERIO_JPEG_2000_RGB})  # none, LZW, JPEG, deflate twice
_UPRIGHT: Final = 1


_WHITE_IS_0: Final = 0
_GREY: Final = frozenset({_WHITE_IS_0, 1})
_PALETTE: Final = 3
_COLOURS: Final = _GREY | {RGB, _PALETTE, YCBCR}
_ALPHA: Final = frozenset({1, 2})


def is_direct_tiff(path: Path) -> bool:
    """Whether a file is of one of OpenSlide's kinds of plain pages, and OpenSlide sees the right image of it.

    It knows nothing of the levels of OME-TIFF. In TIFF of no particular kind it takes the first image for the slide,
    turns or mirrors each tile for itself where the file says that the image is turned (which others leave alone), and
    refuses the file where some page comes in a wrong order. Of grey pages of one size, which are the channels or planes
    of one picture, it would show the first as if it were all.
    """
    kind = openslide.OpenSlide.detect_format(str(path))
    if kind not in PLAIN_PAGES or is_ome_tiff(path):
        return False
    if kind == "aperio":
        return True
    try:
        with tifffile.TiffFile(path) as file:
            image, others = find_image(path, file)
            page = image.page
            if page.index != 0 or page is not file.pages.first or not _is_upright(page):
                return False
            if page.photometric in _GREY and any(page_size(other) == image.size for other in others):
                return False
        with opened(path):
            return True
    except (SlideError, openslide.OpenSlideError):
        return False  # the reader that is asked next says why
    except Exception:  # of any kind: OpenSlide reads what tifffile does not understand
        return True


class DirectTiffReader:
    """A slide that `OpenSlideReader` could read, with the same frame and the same pixels.

    A level is decoded directly where it is a page of 8-bit RGB or YCbCr of a known compression, and its size is that of
    level 0 divided by a whole number: OpenSlide interpolates between others. Where a level of Aperio's lacks tiles,
    OpenSlide draws what they touch in the coarser ones anew, so it reads those. Before a level's first pixel is
    returned, its most detailed tile and three others are compared with what OpenSlide makes of them; if one differs,
    OpenSlide reads the level from then on. It also reads the tiles that were never written (white, or made from
    Aperio's finer level) and those that are damaged, which it refuses.

    In TIFF of no particular kind, OpenSlide takes every page for a level that claims to be a reduced one; only those
    are offered that look like it.

    Args:
        path: The slide.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: See `OpenSlideReader`.

    Raises:
        SlideError: OpenSlide cannot read the file, or would make other colours of it.
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
        self._lock = threading.Lock()
        self._checked: dict[int, TiffLevel | None] = {}
        self._tiles: TiffTiles | None = None
        self._found: dict[int, TiffLevel] = {}
        with contextlib.suppress(Exception):  # of any kind: OpenSlide reads what tifffile does not understand
            self._tiles = TiffTiles(path, strict=True)
        try:
            self._check_colours()
            self._numbers = seen_once(path, "direct-tiff", self._own_levels)
        except SlideError:
            self.close()
            raise
        info, numbers = self._openslide.info, self._numbers
        self.info = replace(
            info,
            level_downsamples=tuple(info.level_downsamples[number] for number in numbers),
            level_sizes=tuple(info.level_sizes[number] for number in numbers if info.level_sizes),
        )
        with contextlib.suppress(Exception):
            self._found = self._find_levels(self._tiles) if self._tiles is not None else {}

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        level = self._numbers[level]
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

    def _check_colours(self) -> None:
        """Refuses what OpenSlide makes RGB of, but not as it is meant.

        Raises:
            SlideError: It has inks, or channels that are neither colours nor opacity.
        """
        if self._openslide.vendor == "generic-tiff" and self._tiles is not None:
            page = self._tiles.file.pages.first
            if not _has_colours(page) or (_is_mixed_up(page) and any(map(_is_cut, _tiled_pages(self._tiles.file)))):
                raise self._tiles.refused(page)

    def _own_levels(self) -> list[int]:
        """Returns OpenSlide's numbers of the levels that are this image; in plain TIFF it takes any page for one."""
        sizes = self._openslide.level_sizes
        if self._openslide.vendor != "generic-tiff":
            return list(range(len(sizes)))
        own = [0]
        for number in range(1, len(sizes)):
            if fits(sizes[0], sizes[number]) and any(
                is_reduced_copy(self._picture(finer), self._picture(number), self._detailed_places(finer, number))
                for finer in dict.fromkeys((own[-1], 0))
            ):
                own.append(number)
        return own

    def _picture(self, number: int) -> Picture:
        return Picture(*self._openslide.level_sizes[number], lambda region: self._openslide.read_level(number, region))

    def _detailed_places(self, *numbers: int) -> list[tuple[float, float]]:
        """Returns where the pages of some levels show most; none where tifffile does not understand them."""
        with contextlib.suppress(Exception):
            assert self._tiles is not None
            pages = {(page.imagewidth, page.imagelength): page for page in _tiled_pages(self._tiles.file)}
            sizes = [self._openslide.level_sizes[number] for number in numbers]
            return detailed_places(*(self._tiles.level(pages[size]) for size in sizes))
        return []

    def _direct(self, number: int) -> TiffLevel | None:
        """Returns the page of a level, if it may be decoded directly."""
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
        """Finds the page of each level that has exactly one of its size, and could be decoded directly."""
        pages = list(_tiled_pages(tiles.file))
        found, redrawn = {}, False
        for number, (width, height) in enumerate(self._openslide.level_sizes):
            downsample = self._openslide.info.level_downsamples[number]
            same = [page for page in pages if (page.imagewidth, page.imagelength) == (width, height)]
            # what OpenSlideReader takes for the level's size is the page's, and nothing is interpolated
            whole = (self.info.width, self.info.height) == (width * downsample, height * downsample)
            if len(same) == 1 and self.info.origin_px == (0, 0) and whole and not redrawn and _is_known(tiles, same[0]):
                found[number] = tiles.level(same[0])
            redrawn |= self._openslide.vendor == "aperio" and (len(same) != 1 or 0 in same[0].databytecounts)
        return found


def _tiled_pages(file: Any) -> Iterator[Any]:
    for number in range(MAX_PAGES):
        try:
            page = file.pages[number]
        except IndexError:
            return
        if isinstance(page, tifffile.TiffPage) and page.is_tiled:
            yield page


def _has_colours(page: Any) -> bool:
    """Whether a page has grey levels or colours, and besides at most their opacity."""
    colours = 3 if page.photometric in (RGB, YCBCR) else 1
    opacity = page.samplesperpixel - colours
    is_number = page.dtype is not None and page.dtype.kind == "u"
    is_opacity = opacity == 0 or (opacity == 1 and {int(kind) for kind in page.extrasamples} <= _ALPHA)
    libtiff_knows = opacity == 0 or page.photometric not in (_WHITE_IS_0, _PALETTE)
    return page.photometric in _COLOURS and is_number and is_opacity and libtiff_knows


def _is_mixed_up(page: Any) -> bool:
    """Whether libtiff mixes up the rows of tiles that the right border cuts: in grey of 16 bits, or with opacity."""
    return page.photometric in _GREY and (page.samplesperpixel > 1 or page.dtype.itemsize > 1)


def _is_cut(page: Any) -> bool:
    return bool(page.imagewidth % page.tilewidth)


def _is_known(tiles: TiffTiles, page: Any) -> bool:
    """Whether a page is of a form in which OpenSlide and we can be expected to agree."""
    return (
        tiles.not_rgb(page) is None
        and page.compression in _COMPRESSIONS
        and page.planarconfig != SEPARATE
        and page.fillorder == 1
        and _is_upright(page)
    )


def _is_upright(page: Any) -> bool:
    return bool(page.tags.valueof("Orientation", _UPRIGHT) == _UPRIGHT)


def _sample(page: TiffLevel) -> list[int]:
    """Numbers of the tile with the most bytes, where differences would show most, and of the first, middle and last."""
    sizes = page.page.databytecounts[: page.tiles]
    written = [index for index, size in enumerate(sizes) if size]
    if not written:
        return []
    return sorted({max(written, key=sizes.__getitem__), written[0], written[len(written) // 2], written[-1]})
