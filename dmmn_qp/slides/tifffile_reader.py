"""TIFF and OME-TIFF that OpenSlide refuses, tile by tile or strip by strip through tifffile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import MICROMETRES, RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.ome_xml import physical_size
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.same_picture import Picture, fits, is_reduced_copy, seen_once
from dmmn_qp.slides.tiff_images import aperio_value, find_image, page_size
from dmmn_qp.slides.tiff_level import TiffLevel, detailed_places
from dmmn_qp.slides.tiff_tiles import TiffTiles
from dmmn_qp.text import words_of

_UM_PER_RESOLUTION_UNIT: Final = {2: 25_400.0, 3: 10_000.0}  # inch, cm


class TiffReader:
    """A tiled or striped RGB TIFF of 8 bits; pyramid levels are its SubIFDs or its smaller pages.

    Only pages of this very file are read. Of several images `find_image` says which one is the slide, and a page is a
    level of it only where it looks like a reduced copy.

    Args:
        path: The slide.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: These files have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: The file is damaged, no RGB of 8 bits, has too large tiles, or several images of like size.
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
        try:
            self._tiles = TiffTiles(path)
        except SlidePlaceError:
            raise
        except Exception as error:  # of any kind: tifffile checks little of what a damaged file says
            raise self._damaged(error) from error
        try:
            self._image, smaller = find_image(path, self._tiles.file)
            self._levels = self._find_levels(smaller)
            if self._levels[0].plain_offset is None:
                self._tiles.tile(self._levels[0], 0)  # an unknown compression is told now, not in training
            pixel_size = StatedMpp.of(mpp).resolve(path.name, self._mpp())
        except SlideError:
            self._tiles.close()
            raise
        except Exception as error:
            self._tiles.close()
            raise self._damaged(error) from error
        first = self._levels[0]
        downsamples = tuple(_downsample(first, level) for level in self._levels)
        tile_px = (first.tile_width, first.tile_height) if first.page.is_tiled else None
        sizes = tuple((level.width, level.height) for level in self._levels)
        self.info = SlideInfo(
            path,
            first.width,
            first.height,
            pixel_size.mpp,
            downsamples,
            tile_px=tile_px,
            pixel_size=pixel_size,
            level_sizes=sizes,
        )

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        page = self._levels[level]
        return read_inside(region, page.width, page.height, lambda inside: self._read(level, inside))

    def close(self) -> None:
        """Releases the file."""
        self._tiles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self, number: int, inside: Region) -> RgbArray:
        level = self._levels[number]

        def part_of_tile(index: int, part: Region) -> RgbArray:
            try:
                return self._tiles.part(level, index, part)
            except SlidePlaceError:
                raise
            except Exception as error:  # of any kind: so are those of the decoders
                raise self._damaged(error, f" at level {number}, x {part.x}, y {part.y}") from error

        return level.read(inside, part_of_tile)

    def _find_levels(self, smaller: Sequence[Any]) -> list[TiffLevel]:
        """Finds the pages of the pyramid, finest first."""
        size, first = self._image.size, self._tiles.level(self._image.page)
        pages = [page for page in smaller if fits(size, page_size(page)) and self._tiles.not_rgb(page) is None]
        levels = [first, *map(self._tiles.level, sorted(pages, key=page_size, reverse=True))]
        return [levels[number] for number in seen_once(self._path, "tifffile", lambda: self._own_levels(levels))]

    def _own_levels(self, levels: Sequence[TiffLevel]) -> list[int]:
        """Returns the numbers of the levels that are this image, of each size one."""
        own = [0]
        for number, level in enumerate(levels[1:], start=1):
            if (level.width, level.height) != (levels[own[-1]].width, levels[own[-1]].height) and any(
                is_reduced_copy(self._picture(finer), self._picture(level), detailed_places(finer, level))
                for finer in (levels[i] for i in dict.fromkeys((own[-1], 0)))
            ):
                own.append(number)
        return own

    def _picture(self, level: TiffLevel) -> Picture:
        def read(region: Region) -> RgbArray:
            return level.read(region, lambda index, part: self._tiles.part(level, index, part))

        return Picture(level.width, level.height, read)

    def _mpp(self) -> tuple[float, float] | None:
        """Returns (width, height) of a pixel in um: of the OME-XML, else as Aperio says it, else of the tags."""
        return physical_size(self._image.pixels) or _aperio_mpp(self._image.page) or _tag_mpp(self._image.page)

    def _damaged(self, error: Exception, where: str = "") -> SlideError:
        return SlideError(
            f'slide "{self._path}" is damaged{where}, or of a kind that tifffile cannot read ({words_of(error)}); '
            "copy the file again from its source, or export it from QuPath (File > Export images > OME TIFF)"
        )


def _downsample(first: TiffLevel, level: TiffLevel) -> float:
    """Returns level-0 pixels per pixel: by the longer side, where cutting to whole pixels matters least."""
    return first.width / level.width if first.width >= first.height else first.height / level.height


def _aperio_mpp(page: Any) -> tuple[float, float] | None:
    """Returns the pixel size that Aperio says; None where it does not."""
    try:
        mpp = float(aperio_value(page, "MPP") or "")
    except ValueError:
        return None
    return (mpp, mpp) if math.isfinite(mpp) else None


def _tag_mpp(page: Any) -> tuple[float, float] | None:
    """Returns the pixel size of XResolution and YResolution; None where they or their unit are missing."""
    um_per_unit = _UM_PER_RESOLUTION_UNIT.get(int(page.tags.valueof("ResolutionUnit", 2)))
    if page.description.startswith("ImageJ="):  # which gives the unit in words, and pixels per unit in the tags
        fields = dict(line.partition("=")[::2] for line in page.description.splitlines())
        unit = fields.get("unit", "").strip().replace("\\u00B5", "µ")
        um_per_unit = MICROMETRES.get(unit, um_per_unit)
    sides = []
    for name in ("XResolution", "YResolution"):
        value = page.tags.valueof(name)
        numerator, denominator = value if isinstance(value, tuple) and len(value) == 2 else (0, 0)
        if um_per_unit is None or not numerator or not denominator:
            return None
        sides.append(um_per_unit * denominator / numerator)
    return sides[0], sides[1]
