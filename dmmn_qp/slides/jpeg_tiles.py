"""Tiles of a TIFF that are JPEG: whether each is what its page says, and its pixels."""

from __future__ import annotations

import simplejpeg

from dmmn_qp.slides.base import RgbArray
from dmmn_qp.slides.tiff_level import YCBCR, TiffLevel


def strict_jpeg(data: bytes, level: TiffLevel) -> RgbArray:
    """Decodes a JPEG tile, if it is without fault and has the size of its tile.

    The tables that all tiles share are put before its own, and a marker of Adobe's says what the page says: whether it
    holds RGB or YCbCr.

    Raises:
        ValueError: It is damaged, or of another size.
    """
    place = _start_of_frame(data)
    if place is None:
        raise ValueError("no JPEG")
    rows, columns = _jpeg_size(data, place)
    if (rows, columns) != (level.tile_height, level.tile_width):
        raise ValueError(f"a JPEG of {columns} x {rows} px")
    tables = (level.page.jpegtables or b"\xff\xd8\xff\xd9")[2:-2]
    transformed = level.page.photometric == YCBCR
    colours = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transformed])
    whole = b"".join([data[:2], tables, data[2:place], colours, data[place:]])
    pixels: RgbArray = simplejpeg.decode_jpeg(whole, "RGB", strict=True)
    return pixels


def check_jpeg_size(data: bytes, level: TiffLevel) -> None:
    """Refuses a JPEG tile that would decode to more than its tile.

    Raises:
        ValueError: Its own header says so.
    """
    place = _start_of_frame(data)
    if place is not None:
        rows, columns = _jpeg_size(data, place)
        if rows > level.tile_height or columns > level.tile_width:
            raise ValueError(
                f"a JPEG of {columns} x {rows} px in a tile of {level.tile_width} x {level.tile_height} px"
            )


def _start_of_frame(data: bytes) -> int | None:
    """Returns where a JPEG says its size; None where it does not."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return place
        place += 2 + length
    return None


def _jpeg_size(data: bytes, start_of_frame: int) -> tuple[int, int]:
    """Returns (rows, columns)."""
    rows, columns = data[start_of_frame + 5 : start_of_frame + 7], data[start_of_frame + 7 : start_of_frame + 9]
    return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
