"""TIFF and OME-TIFF that OpenSlide refuses, tile by tile or strip by strip through tifffile."""

from __future__ import annotations

import itertools
import math
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import MICROMETRES, RgbArray, SlideInfo, read_inside, resolve_mpp
from dmmn_qp.slides.cached import TileBudget

MAX_SEGMENT_BYTES = 512 * 1024**2
"""Largest tile or strip, decoded: it is decoded whole. Strips without compression are read in parts, however large."""

CACHE_BYTES = 64 * 1024**2
"""Decoded tiles and strips that an open slide keeps; one is kept even when it is larger."""

MAX_PAGES = 64
"""Pages of a file that are looked at as pyramid levels."""

MAX_OME_XML = 8 * 1024**2
"""Longest OME-XML that is searched for the pixel size."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RGB: Final = 2
_YCBCR: Final = 6
_JPEG: Final = 7
_SEPARATE: Final = 2
_UM_PER_RESOLUTION_UNIT: Final = {2: 25_400.0, 3: 10_000.0}  # inch, cm
_GLASS = 255
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


@dataclass(frozen=True, slots=True)
class _Level:
    """One page: its size, and that of its tiles; a strip is a tile as wide as the page."""

    page: Any
    width: int
    height: int
    tile_width: int
    tile_height: int
    rows: RgbArray | None = None  # of pages that lie in the file as they are: the file itself

    @property
    def columns_of_tiles(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        return self.columns_of_tiles * -(-self.height // self.tile_height)


class TiffReader:
    """A tiled or striped RGB TIFF of 8 bits; pyramid levels are its SubIFDs or its smaller pages.

    Only pages of this very file are read, and of OME-XML only the pixel size.

    Args:
        path: The slide.
        project_mpp: um/px that the QuPath project stores.
        user_mpp: um/px given by the user for slides that do not say it.
        crop_to_bounds: These files have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: The file is damaged, no RGB of 8 bits, or has too large tiles.
        PixelSizeError: The pixel size is unknown or implausible.
    """

    def __init__(
        self,
        path: Path,
        *,
        project_mpp: float | None = None,
        user_mpp: float | None = None,
        crop_to_bounds: bool = True,
    ) -> None:
        del crop_to_bounds
        self._path = path
        self._lock = threading.Lock()
        self._cache = TileBudget(CACHE_BYTES)
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # of any kind: tifffile checks little of what a damaged file says
            raise self._damaged(error) from error
        try:
            self._levels = self._find_levels()
            if self._levels[0].rows is None:
                self._tile(0, 0)  # an unknown compression is told now, not on the first day of training
            mpp = resolve_mpp(path.name, self._mpp(), project_mpp, user_mpp)
        except SlideError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise self._damaged(error) from error
        first = self._levels[0]
        downsamples = tuple(_downsample(first, level) for level in self._levels)
        self.info = SlideInfo(path, first.width, first.height, mpp, downsamples)

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        page = self._levels[level]
        return read_inside(region, page.width, page.height, lambda inside: self._read(level, inside))

    def close(self) -> None:
        """Releases the file."""
        self._cache = TileBudget(CACHE_BYTES)
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read(self, number: int, inside: Region) -> RgbArray:
        level = self._levels[number]
        if level.rows is not None:
            return np.array(level.rows[inside.y : inside.bottom, inside.x : inside.right])
        pixels = np.empty((inside.height, inside.width, 3), np.uint8)
        wide, high = level.tile_width, level.tile_height
        for row in range(inside.y // high, -(-inside.bottom // high)):
            for column in range(inside.x // wide, -(-inside.right // wide)):
                part = Region(column * wide, row * high, wide, high).intersection(inside)
                assert part is not None
                try:
                    tile = self._tile(number, row * level.columns_of_tiles + column)
                    x, y = part.x - column * wide, part.y - row * high
                    pixels[part.y - inside.y : part.bottom - inside.y, part.x - inside.x : part.right - inside.x] = (
                        tile[y : y + part.height, x : x + part.width]
                    )
                except SlideError:
                    raise
                except Exception as error:  # of any kind: so are those of the decoders
                    raise self._damaged(error, f" at level {number}, x {part.x}, y {part.y}") from error
        return pixels

    def _tile(self, number: int, index: int) -> RgbArray:
        """A decoded tile or strip, (rows, columns, 3); those at the border may be smaller."""
        key = (number, index, 0, 0)
        with self._lock:
            tile = self._cache.get(key)
            if tile is None:
                level = self._levels[number]
                planes = 3 if level.page.planarconfig == _SEPARATE else 1
                parts = [self._segment(level, index + plane * level.tiles) for plane in range(planes)]
                tile = parts[0] if planes == 1 else np.concatenate(parts, axis=2)
                self._cache.put(key, tile)
        return tile

    def _segment(self, level: _Level, index: int) -> RgbArray:
        page = level.page
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        samples = 1 if page.planarconfig == _SEPARATE else 3
        if size == 0:  # never scanned
            return np.full((level.tile_height, level.tile_width, samples), _GLASS, np.uint8)
        handle = self._file.filehandle
        if offset + size > handle.size:
            raise ValueError("the file ends before the tile does")
        handle.seek(offset)
        data = handle.read(size)
        if page.compression == _JPEG:
            _check_jpeg_size(data, level)
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        pixels: RgbArray = decoded[0, : shape[1], : shape[2]]
        return pixels

    def _find_levels(self) -> list[_Level]:
        """The pages of the pyramid, finest first."""
        first = self._file.pages.first
        levels = [self._level(first)]
        for page in itertools.islice(self._smaller_pages(first), MAX_PAGES):
            if self._not_rgb(page) or not _is_smaller_copy(levels[0], page):
                continue
            level = self._level(page)
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
                page = self._file.pages[number]
            except IndexError:
                return
            if isinstance(page, tifffile.TiffPage) and (page.is_tiled == first.is_tiled or page.is_reduced):
                yield page

    def _not_rgb(self, page: Any) -> str | None:
        """What a page is where it is no RGB of 8 bits."""
        if page.dtype != np.uint8 or page.bitspersample not in (8, (8, 8, 8)):
            return f"{page.bitspersample} bits per sample ({page.dtype or 'of no known kind'}) instead of 8"
        if page.samplesperpixel != 3:
            return f"{page.samplesperpixel} channel{'s' if page.samplesperpixel > 1 else ''} instead of RGB"
        if page.photometric != _RGB and not (page.photometric == _YCBCR and page.compression == _JPEG):
            name = getattr(page.photometric, "name", page.photometric)
            return f"colours of kind {name} instead of RGB"
        if page.imagedepth != 1:
            return f"{page.imagedepth} planes in one page"
        return None

    def _level(self, page: Any) -> _Level:
        not_rgb = self._not_rgb(page)
        if not_rgb is not None:
            raise SlideError(
                f'slide "{self._path}" has {not_rgb}; export it from QuPath as RGB (File > Export images > OME TIFF)'
            )
        width, height = page.imagewidth, page.imagelength
        tile_width, tile_height = (
            (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
        )
        if min(width, height, tile_width, tile_height) < 1:
            raise ValueError(f"{width} x {height} px in tiles of {tile_width} x {tile_height} px")
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and page.planarconfig != _SEPARATE
        if plain and not page.is_tiled and page.is_contiguous:
            return _Level(
                page, width, height, tile_width, tile_height, self._mapped(page.dataoffsets[0], height, width)
            )
        level = _Level(page, width, height, tile_width, tile_height)
        if tile_width * tile_height * 3 > MAX_SEGMENT_BYTES:
            raise SlideError(
                f'slide "{self._path}" has {"tiles" if page.is_tiled else "compressed strips"} of {tile_width} x '
                f"{tile_height} px, too large to be read in parts; convert it to smaller tiles, for example with "
                "QuPath (File > Export images > OME TIFF)"
            )
        needed = level.tiles * (3 if page.planarconfig == _SEPARATE else 1)
        if len(page.dataoffsets) < needed or len(page.databytecounts) < needed:
            raise ValueError(f"{len(page.dataoffsets)} tiles or strips instead of {needed}")
        return level

    def _mapped(self, offset: int, rows: int, columns: int) -> RgbArray:
        """Uncompressed strips as they lie in the file."""
        return np.memmap(self._path, np.uint8, "r", offset, (rows, columns, 3))

    def _mpp(self) -> tuple[float, float] | None:
        """(width, height) of a pixel in um: of the OME-XML, else of the resolution tags."""
        page: Any = self._file.pages.first
        return (self._ome_mpp(page.description) if _is_ome(self._file) else None) or _tag_mpp(page)

    def _ome_mpp(self, text: str) -> tuple[float, float] | None:
        """PhysicalSizeX and Y of the first image; None where it has none or the XML is damaged or too long."""
        if len(text) > MAX_OME_XML:
            return None
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise SlideError(
                f'slide "{self._path}" has OME-XML with a DOCTYPE or an entity, which no microscope writes; '
                "export it again, for example with QuPath (File > Export images > OME TIFF)"
            )
        try:
            for element in ElementTree.fromstring(text).iter():
                if element.tag.rpartition("}")[2] == "Pixels":
                    return _physical_size(element.attrib)
        except ElementTree.ParseError:
            pass
        return None

    def _damaged(self, error: Exception, where: str = "") -> SlideError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return SlideError(
            f'slide "{self._path}" is damaged{where}, or of a kind that tifffile cannot read ({reason}); copy the file '
            "again from its source, or export it from QuPath (File > Export images > OME TIFF)"
        )


def _downsample(first: _Level, level: _Level) -> float:
    """Level-0 pixels per pixel: by the longer side, where cutting to whole pixels matters least."""
    return first.width / level.width if first.width >= first.height else first.height / level.height


def _is_smaller_copy(first: _Level, page: Any) -> bool:
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


def _check_jpeg_size(data: bytes, level: _Level) -> None:
    """Refuses a JPEG tile that would decode to more than its tile.

    Raises:
        ValueError: Its own header says so.
    """
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            rows = int.from_bytes(data[place + 5 : place + 7], "big")
            columns = int.from_bytes(data[place + 7 : place + 9], "big")
            if rows > level.tile_height or columns > level.tile_width:
                raise ValueError(
                    f"a JPEG of {columns} x {rows} px in a tile of {level.tile_width} x {level.tile_height} px"
                )
            return
        place += 2 + length
