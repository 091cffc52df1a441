"""Whether a slide's file is there to its end: a look at a few places that costs little, however large the slide is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.files import slide_file
from dmmn_qp.slides.ome_xml import is_tiff, open_tiff
from dmmn_qp.slides.tiff_images import page_size

BIG_TIFF = 43
MAX_CLASSIC_BYTES = 2**32
MAX_PAGES = 64
"""Pages of a TIFF that are looked at."""


def check_whole(path: Path, slide: Slide) -> tuple[str, ...]:
    """Refuses a slide whose file was cut, or of which nothing can be read.

    A TIFF says where the tiles or strips of its largest pages end. Of all slides the pixels in the four corners of
    level 0 are read: a tile each. One damaged tile is no reason to refuse a TIFF; of other kinds of files the last
    corner tells whether they were cut.

    Args:
        path: The slide.
        slide: The same, open.

    Returns:
        What is damaged all the same, a line each.

    Raises:
        SlideError: The file was cut, or no corner can be read.
    """
    file = slide_file(path)
    of_tiff = is_tiff(file)
    if of_tiff:
        _check_pixels(path, file)
    right, bottom = slide.info.width - 1, slide.info.height - 1
    damage: list[SlideError] = []
    corners = dict.fromkeys([(0, 0), (right, 0), (0, bottom), (right, bottom)])
    for x, y in corners:
        try:
            slide.read_level(0, Region(x, y, 1, 1))
        except SlidePlaceError:
            raise
        except SlideError as error:
            damage.append(error)
            if len(damage) == len(corners) or ((x, y) == (right, bottom) and not of_tiff):
                raise
    return tuple(str(error) for error in damage[:1])


def check_end(path: Path) -> None:
    """Refuses a TIFF that was cut, whether or not a reader can open it.

    Raises:
        SlideError: It was cut.
    """
    with suppress(OSError, struct.error):
        file = slide_file(path)
        if is_tiff(file):
            size = file.stat().st_size
            for offset in _directories(file):
                if offset >= size:
                    raise SlideError(
                        f'slide "{path}" was cut: it goes on at byte {offset:,}, but the file has {size:,}; copy the '
                        "file again from its source"
                    )
            _check_pixels(path, file)


def _directories(file: Path) -> Iterator[int]:
    """Bytes that the first directories of a TIFF must have, as the file says it, each as far as that can be read."""
    with file.open("rb") as stream:
        head = stream.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = struct.unpack_from(order + "H", head, 2)[0] == BIG_TIFF
        if not is_big and file.stat().st_size > MAX_CLASSIC_BYTES:
            return  # such as NDPI, which keeps half of its offsets elsewhere
        count_form, entry_bytes, offset_form = ("Q", 20, "Q") if is_big else ("H", 12, "I")
        (offset,) = struct.unpack_from(order + offset_form, head, 8 if is_big else 4)
        for _ in range(MAX_PAGES):
            if not offset:
                return
            entries = offset + struct.calcsize(order + count_form)
            yield entries - 1
            stream.seek(offset)
            (count,) = struct.unpack(order + count_form, stream.read(entries - offset))
            end = entries + entry_bytes * count + struct.calcsize(order + offset_form)
            yield end - 1
            stream.seek(entries + entry_bytes * count)
            (offset,) = struct.unpack(order + offset_form, stream.read(struct.calcsize(order + offset_form)))


def _check_pixels(path: Path, file: Path) -> None:
    """Refuses a TIFF in which a tile of the largest pages lies behind the end of the file.

    Raises:
        SlideError: It was cut.
    """
    size, end = file.stat().st_size, 0
    with suppress(Exception), open_tiff(file) as tiff:  # of any kind: others read what tifffile cannot
        pages: list[Any] = list(islice(tiff.pages, MAX_PAGES))
        largest = max(map(page_size, pages), key=prod)
        for page in pages:
            if page_size(page) == largest:
                ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n)
                end = max(end, *ends, 0)
    if end > size:
        raise SlideError(
            f'slide "{path}" was cut: its pixels end at byte {end:,}, but the file has {size:,}; copy the file again '
            "from its source"
        )
