"""Which pages of a TIFF are the slide: the image that is meant among those of the file, and its reduced copies."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.slides.ome_xml import read_ome_xml

MAX_PAGES = 64
"""Pages of a file that are looked at."""

CLEARLY_LARGER = 4
"""How many times as many pixels as the first image another one must have to be taken for the slide without asking."""

_REDUCED: Final = 1
_MASK: Final = 4


@dataclass(frozen=True, slots=True)
class TiffImage:
    """One image of a file.

    Attributes:
        page: Its page of full resolution (tifffile's).
        name: What the file calls it.
        pixels: What OME-XML says of its pixels; empty where there is none.
    """

    page: Any
    name: str = ""
    pixels: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return page_size(self.page)

    @property
    def area(self) -> int:
        """Number of its pixels."""
        return self.size[0] * self.size[1]


def page_size(page: Any) -> tuple[int, int]:
    """Returns (width, height) of a page (tifffile's)."""
    return int(page.imagewidth), int(page.imagelength)


def find_image(path: Path, file: Any) -> tuple[TiffImage, list[Any]]:
    """Finds the image of a file that is meant, and the pages that may be reduced copies of it.

    Of several images the first is meant, unless another one has four times as many pixels: then the first is a
    picture of the label or of the whole glass. Which pages are images is said by OME-XML, else by NewSubfileType.

    Args:
        path: The file, for messages.
        file: The same, open (tifffile's).

    Raises:
        SlideError: It cannot be told which image is meant, or the OME-XML has what no microscope writes.
        Exception: Of any kind: tifffile checks little of what a damaged file says.
    """
    pages = list(_pages(file))
    images, claimed = _ome_images(path, file)
    images = images or [TiffImage(page) for page in _full_pages(pages)]
    first = images[0]
    largest = max(images, key=lambda image: image.area)  # of equals the first
    if first.area < largest.area < CLEARLY_LARGER * first.area:
        (w, h), (x, y) = first.size, largest.size
        raise SlideError(
            f'slide "{path}" holds {len(images)} images, and it does not say whether the first of {w} x {h} px or that '
            f"of {x} x {y} px is meant; export the one as a file of its own (QuPath: File > Export images > OME TIFF)"
        )
    if largest.page.subifds:
        return largest, list(_pages(largest.page))
    others = [
        page
        for page in pages
        if page is not largest.page
        and page.index not in claimed
        and page.is_tiled == largest.page.is_tiled
        and not page.subfiletype & _MASK
    ]
    return largest, others


def _pages(file: Any) -> Iterator[Any]:
    """Yields the first pages of a file, or of what a page has below it."""
    for number in range(MAX_PAGES):
        try:
            page = file.pages[number]
        except IndexError:
            return
        if isinstance(page, tifffile.TiffPage):
            yield page


def _full_pages(pages: list[Any]) -> list[Any]:
    """Returns the first page, and others that claim to be no mask and no reduced copy, or are larger all the same."""
    first = pages[0]
    area = first.imagewidth * first.imagelength
    below = list(_pages(first)) if first.subifds else []
    return [first] + [
        page
        for page in (*pages[1:], *below)
        if not page.subfiletype & _MASK
        and (not (page.subfiletype & _REDUCED or page in below) or page.imagewidth * page.imagelength > area)
    ]


def _ome_images(path: Path, file: Any) -> tuple[list[TiffImage], set[int]]:
    """Finds the images that OME-XML names, by their first page, and the numbers of all pages that they have."""
    try:
        root = read_ome_xml(file)
    except ElementTree.ParseError:
        return [], set()
    except ValueError as error:
        raise SlideError(
            f'slide "{path}" has {error}, which no microscope writes; '
            "export it again, for example with QuPath (File > Export images > OME TIFF)"
        ) from None
    images: dict[int, TiffImage] = {}
    claimed: set[int] = set()
    for image in _children(root, "Image"):
        for pixels in _children(image, "Pixels"):
            numbers = _page_numbers(pixels)
            first = min(numbers, default=None)
            if first is None or first in images:  # of a set of files each says the images of all
                continue
            try:
                page = file.pages[first]
            except IndexError:
                continue
            if isinstance(page, tifffile.TiffPage):
                images[first] = TiffImage(page, image.get("Name", ""), dict(pixels.attrib))
                claimed |= numbers
    return [images[number] for number in sorted(images)], claimed


def _children(element: ElementTree.Element | None, name: str) -> Iterator[ElementTree.Element]:
    for child in element if element is not None else ():
        if child.tag.rpartition("}")[2] == name:
            yield child


def _page_numbers(pixels: ElementTree.Element) -> set[int]:
    """Numbers of the pages of an image, at most `MAX_PAGES` from each place that OME-XML names."""
    planes = 1
    for axis in ("SizeZ", "SizeT"):
        planes *= max(1, _integer(pixels.get(axis), 1))
    data = list(_children(pixels, "TiffData"))
    numbers: set[int] = set()
    for part in data[:MAX_PAGES]:
        start = _integer(part.get("IFD"), 0)
        count = _integer(part.get("PlaneCount"), 1 if part.get("IFD") is not None else planes)
        numbers |= set(range(max(0, start), max(0, start) + min(max(1, count), MAX_PAGES)))
    return numbers or {0}


def _integer(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default


def aperio_value(page: Any, name: str) -> str | None:
    """Returns what Aperio's description says under a name; OpenSlide knows it too, but reads from disks only."""
    found = re.search(rf"\|\s*{name}\s*=\s*([^|]{{1,99}})", page.description) if page.is_svs else None
    return None if found is None else found[1].strip()
