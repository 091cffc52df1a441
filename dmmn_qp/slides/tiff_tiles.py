"""The tiles and strips of a TIFF, decoded one by one through tifffile: what the readers of TIFF share."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray
from dmmn_qp.slides.cached import TileBudget
from dmmn_qp.slides.jpeg_tiles import check_jpeg_size, strict_jpeg
from dmmn_qp.slides.tiff_level import JPEG, RGB, SEPARATE, YCBCR, TiffLevel
from dmmn_qp.text import count_of

MAX_SEGMENT_BYTES = 512 * 1024**2
"""Largest tile or strip, decoded: it is decoded whole. Strips without compression are read in parts, however large."""

CACHE_BYTES = 64 * 1024**2
"""Decoded tiles and strips that an open slide keeps; one is kept even when it is larger."""

_GLASS = 255


class TiffTiles:
    """An open TIFF and the tiles that were decoded last. Several threads may read: only the file is shared in turns.

    Args:
        path: The file.
        strict: Whether a tile counts as damaged that was never written, or whose JPEG libjpeg only warns of (which
            OpenSlide takes for an error, and tifffile for grey or noise).

    Raises:
        Exception: Of any kind: tifffile checks little of what a damaged file says.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        self._path = path
        self._strict = strict
        self._file_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._cache = TileBudget(CACHE_BYTES)
        self._remote = path.open("rb") if isinstance(path, RemotePath) else None
        source: Any = self._remote or path
        self.file = tifffile.TiffFile(source)

    def close(self) -> None:
        """Releases the file and the tiles."""
        self._cache = TileBudget(CACHE_BYTES)
        self.file.close()

    def not_rgb(self, page: Any) -> str | None:
        """Tells what a page is where it is no RGB of 8 bits."""
        if page.dtype != np.uint8 or page.bitspersample not in (8, (8, 8, 8)):
            return f"{page.bitspersample} bits per sample ({page.dtype or 'of no known kind'}) instead of 8"
        if page.samplesperpixel != 3:
            return f"{count_of(self._channels(page), 'channel')} instead of RGB"
        if page.photometric != RGB and not (page.photometric == YCBCR and page.compression == JPEG):
            name = getattr(page.photometric, "name", page.photometric)
            return f"colours of kind {name} instead of RGB"
        if page.imagedepth != 1:
            return f"{page.imagedepth} planes in one page"
        return None

    def _channels(self, page: Any) -> int:
        """How many channels the picture of a page has, which may be pages of their own."""
        if page.samplesperpixel == 1:
            with suppress(Exception):  # whatever tifffile raises of what it cannot make series of
                axes, shape = self.file.series[0].axes, self.file.series[0].shape
                return int(shape[axes.index("C")])
        return int(page.samplesperpixel)

    def refused(self, page: Any) -> SlideError:
        """Returns what is said of a page that is no RGB of 8 bits."""
        return SlideError(
            f'slide "{self._path}" has {self.not_rgb(page)}; export it from QuPath as RGB '
            "(File > Export images > OME TIFF)"
        )

    def level(self, page: Any) -> TiffLevel:
        """Returns what is needed to read a page.

        Raises:
            SlideError: It is no RGB of 8 bits, or its tiles are too large.
            ValueError: The page contradicts itself.
        """
        if self.not_rgb(page) is not None:
            raise self.refused(page)
        width, height = page.imagewidth, page.imagelength
        tile_width, tile_height = (
            (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(page.rowsperstrip, height))
        )
        if min(width, height, tile_width, tile_height) < 1:
            raise ValueError(f"{width} x {height} px in tiles of {tile_width} x {tile_height} px")
        plain = page.compression == 1 and page.predictor == 1 and page.fillorder == 1 and page.planarconfig != SEPARATE
        if plain and not page.is_tiled and page.is_contiguous:
            return TiffLevel(page, width, height, width, height, int(page.dataoffsets[0]))
        level = TiffLevel(page, width, height, tile_width, tile_height)
        if tile_width * tile_height * 3 > MAX_SEGMENT_BYTES:
            raise SlideError(
                f'slide "{self._path}" has {"tiles" if page.is_tiled else "compressed strips"} of {tile_width} x '
                f"{tile_height} px, too large to be read in parts; convert it to smaller tiles, for example with "
                "QuPath (File > Export images > OME TIFF)"
            )
        needed = level.tiles * (3 if page.planarconfig == SEPARATE else 1)
        if len(page.dataoffsets) < needed or len(page.databytecounts) < needed:
            raise ValueError(f"{len(page.dataoffsets)} tiles or strips instead of {needed}")
        return level

    def part(self, level: TiffLevel, index: int, part: Region) -> RgbArray:
        """Returns what lies in one tile: see `TiffLevel.read`.

        Raises:
            Exception: Of any kind, as the decoders raise it: the tile is damaged.
        """
        if level.plain_offset is not None:
            return self._plain(level, level.plain_offset, part)
        tile, place = self.tile(level, index), level.tile_region(index)
        y, x = part.y - place.y, part.x - place.x
        cut = tile[y : y + part.height, x : x + part.width]
        if cut.shape != (part.height, part.width, 3):
            raise ValueError(f"a picture of {tile.shape[1]} x {tile.shape[0]} px in its place")
        return cut

    def _plain(self, level: TiffLevel, offset: int, part: Region) -> RgbArray:
        """Reads a part of pixels that lie in the file as they are.

        They are read and not mapped: a process that looks at mapped pixels ends when the file is cut meanwhile.
        """
        pixels = np.empty((part.height, part.width, 3), np.uint8)
        at_once = part.height if part.width == level.width else 1  # rows
        for row in range(0, part.height, at_once):
            data = self._bytes(offset + ((part.y + row) * level.width + part.x) * 3, at_once * part.width * 3)
            if len(data) != at_once * part.width * 3:
                raise ValueError("the file ends before the pixels do")
            pixels[row : row + at_once] = np.frombuffer(data, np.uint8).reshape(at_once, part.width, 3)
        return pixels

    def _bytes(self, offset: int, size: int) -> bytes:
        """Reads a part of the file: from a disk by one thread at a time, from a server by as many as want."""
        if self._remote is not None:
            return self._remote.read_at(offset, size)
        handle = self.file.filehandle
        with self._file_lock:
            handle.seek(offset)
            data: bytes = handle.read(size)
        return data

    def tile(self, level: TiffLevel, index: int) -> RgbArray:
        """Decodes a tile or strip, (rows, columns, 3); those at the border may be smaller."""
        key = (level.page.offset, index, 0, 0)
        with self._cache_lock:
            tile = self._cache.get(key)
        if tile is None:
            planes = 3 if level.page.planarconfig == SEPARATE else 1
            parts = [self._segment(level, index + plane * level.tiles) for plane in range(planes)]
            tile = parts[0] if planes == 1 else np.concatenate(parts, axis=2)
            with self._cache_lock:
                if self._cache.get(key) is None:  # another thread may have been as fast
                    self._cache.put(key, tile)
        return tile

    def _segment(self, level: TiffLevel, index: int) -> RgbArray:
        page = level.page
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        samples = 1 if page.planarconfig == SEPARATE else 3
        if size == 0:  # never scanned
            if self._strict:
                raise ValueError("nothing was written")
            return np.full((level.tile_height, level.tile_width, samples), _GLASS, np.uint8)
        if offset + size > self.file.filehandle.size:
            raise ValueError("the file ends before the tile does")
        data = self._bytes(offset, size)
        if page.compression == JPEG:
            if self._strict:
                return strict_jpeg(data, level)
            check_jpeg_size(data, level)
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        if decoded.dtype != np.uint8:  # a JPEG 2000 may have another depth than its page says
            raise ValueError(f"pixels of type {decoded.dtype} instead of 8 bits")
        pixels: RgbArray = decoded[0, : shape[1], : shape[2]]
        return pixels
