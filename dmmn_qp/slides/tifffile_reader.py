"""TIFF and OME-TIFF that OpenSlide refuses, tile by tile or strip by strip through tifffile."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import MICROMETRES, RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tiff_tiles import TiffLevel, TiffTiles

MAX_PAGES = 64
"""Pages of a file that are looked at as pyramid levels."""

MAX_OME_XML = 8 * 1024**2
"""Longest OME-XML that is searched for the pixel size."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_UM_PER_RESOLUTION_UNIT: Final = {2: 25_400.0, 3: 10_000.0}  # inch, cm
_OME_BEGINS_WITHIN = 4096  # characters: a declaration and a comment go before


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def is_ome_tiff(path: Path) -> bool:
    """Whether a file is a TIFF with OME-XML, whose pixel size and levels other readers of TIFF do not know."""
    if not is_tiff(path):
        return False
    try:
        with tifffile.TiffFile(path) as file:
            return _is_ome(file)
    except Exception:  # of any kind: tifffile checks little of what a damaged file says
        return False


def _is_ome(file: Any) -> bool:
    return "<OME" in file.pages.first.description[:_OME_BEGINS_WITHIN]


def read_ome_xml(file: Any) -> ElementTree.Element | None:
    """The OME-XML of an open TIFF (tifffile's); None where it has none, or it is too long.

    Raises:
        ElementTree.ParseError: It is damaged.
        ValueError: It has a DOCTYPE or an entity, which could make anything of a few letters.
    """
    if not _is_ome(file):
        return None
    text = file.pages.first.description
    if len(text) > MAX_OME_XML:
        return None
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise ValueError("OME-XML with a DOCTYPE or an entity")
    return ElementTree.fromstring(text)


class TiffReader:
    """A tiled or striped RGB TIFF of 8 bits; pyramid levels are its SubIFDs or its smaller pages.

    Only pages of this very file are read, and of OME-XML only the pixel size.

    Args:
        path: The slide.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: These files have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: The file is damaged, no RGB of 8 bits, or has too large tiles.
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
        except Exception as error:  # of any kind: tifffile checks little of what a damaged file says
            raise self._damaged(error) from error
        try:
            self._levels = self._find_levels()
            if self._levels[0].rows is None:
                self._tiles.tile(self._levels[0], 0)  # an unknown compression is told now, not in training
            said = StatedMpp.of(mpp).resolve(path.name, self._mpp())
        except SlideError:
            self._tiles.close()
            raise
        except Exception as error:
            self._tiles.close()
            raise self._damaged(error) from error
        first = self._levels[0]
        downsamples = tuple(_downsample(first, level) for level in self._levels)
        tile_px = (first.tile_width, first.tile_height) if first.page.is_tiled else None
        self.info = SlideInfo(path, first.width, first.height, said.mpp, downsamples, tile_px=tile_px, said=said)

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
        if level.rows is not None:
            return np.array(level.rows[inside.y : inside.bottom, inside.x : inside.right])

        def part_of_tile(index: int, part: Region) -> RgbArray:
            try:
                return self._tiles.part(level, index, part)
            except Exception as error:  # of any kind: so are those of the decoders
                raise self._damaged(error, f" at level {number}, x {part.x}, y {part.y}") from error

        return level.read(inside, part_of_tile)

    def _find_levels(self) -> list[TiffLevel]:
        """The pages of the pyramid, finest first."""
        first = self._tiles.file.pages.first
        levels = [self._tiles.level(first)]
        for page in itertools.islice(self._smaller_pages(first), MAX_PAGES):
            if self._tiles.not_rgb(page) or not _is_smaller_copy(levels[0], page):
                continue
            level = self._tiles.level(page)
            if _downsample(levels[0], level) not in [_downsample(levels[0], other) for other in levels]:
                levels.append(level)
        return sorted(levels, key=lambda level: _downsample(levels[0], level))

    def _smaller_pages(self, first: Any) -> Iterator[Any]:
        """SubIFDs, as in OME-TIFF, else the pages that follow; labels and other series are sorted out by their form."""
        if first.subifds:
            yield from first.pages
            return
        for number in range(1, MAX_PAGES):
            try:
                page = self._tiles.file.pages[number]
            except IndexError:
                return
            if isinstance(page, tifffile.TiffPage) and (page.is_tiled == first.is_tiled or page.is_reduced):
                yield page

    def _mpp(self) -> tuple[float, float] | None:
        """(width, height) of a pixel in um: of the OME-XML, else of the resolution tags."""
        return self._ome_mpp() or _tag_mpp(self._tiles.file.pages.first)

    def _ome_mpp(self) -> tuple[float, float] | None:
        """PhysicalSizeX and Y of the first image; None where it has none or the XML is damaged or too long."""
        try:
            root = read_ome_xml(self._tiles.file)
        except ElementTree.ParseError:
            return None
        except ValueError as error:
            raise SlideError(
                f'slide "{self._path}" has {error}, which no microscope writes; '
                "export it again, for example with QuPath (File > Export images > OME TIFF)"
            ) from None
        for element in root.iter() if root is not None else ():
            if element.tag.rpartition("}")[2] == "Pixels":
                return _physical_size(element.attrib)
        return None

    def _damaged(self, error: Exception, where: str = "") -> SlideError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return SlideError(
            f'slide "{self._path}" is damaged{where}, or of a kind that tifffile cannot read ({reason}); copy the file '
            "again from its source, or export it from QuPath (File > Export images > OME TIFF)"
        )


def _downsample(first: TiffLevel, level: TiffLevel) -> float:
    """Level-0 pixels per pixel: by the longer side, where cutting to whole pixels matters least."""
    return first.width / level.width if first.width >= first.height else first.height / level.height


def _is_smaller_copy(first: TiffLevel, page: Any) -> bool:
    """Whether a page has the first one's form and is smaller: sides fit to a pixel."""
    width, height = int(page.imagewidth), int(page.imagelength)
    if not (0 < width < first.width and 0 < height < first.height):
        return False
    across, down = first.width / width, first.height / height
    downsample = across if first.width >= first.height else down
    return abs(first.width / downsample - width) <= 1 and abs(first.height / downsample - height) <= 1


def _physical_size(attributes: dict[str, str]) -> tuple[float, float] | None:
    """PhysicalSizeX and Y in um; the unit is um where none is given, as OME says."""
    sides = []
    for axis in "XY":
        factor = MICROMETRES.get(attributes.get(f"PhysicalSize{axis}Unit", "um").strip())
        try:
            side = float(attributes[f"PhysicalSize{axis}"])
        except (KeyError, ValueError):
            return None
        if factor is None or not math.isfinite(side):
            return None
        sides.append(side * factor)
    return sides[0], sides[1]


def _tag_mpp(page: Any) -> tuple[float, float] | None:
    """The pixel size of XResolution and YResolution; None where they or their unit are missing."""
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
