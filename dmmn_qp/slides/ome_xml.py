"""OME-XML in the description of a TIFF."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tifffile

from dmmn_qp.errors import SlidePlaceError
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.slides.base import MICROMETRES

MAX_OME_XML = 8 * 1024**2
"""Longest OME-XML that is read."""

_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BEGINS_WITHIN: Final = 4096  # characters: a declaration and a comment go before


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF; a folder does not."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Opens a TIFF, on a disk or a server.

    Raises:
        Exception: Of any kind: tifffile checks little of what a damaged file says.
    """
    source: Any = path.open("rb") if isinstance(path, RemotePath) else path
    return tifffile.TiffFile(source)


def is_ome_tiff(path: Path) -> bool:
    """Whether a file is a TIFF with OME-XML, whose pixel size and levels other readers of TIFF do not know."""
    if not is_tiff(path):
        return False
    try:
        with open_tiff(path) as file:
            return _is_ome(file)
    except SlidePlaceError:
        raise
    except Exception:  # of any kind: tifffile checks little of what a damaged file says
        return False


def _is_ome(file: Any) -> bool:
    return "<OME" in file.pages.first.description[:_BEGINS_WITHIN]


def read_ome_xml(file: Any) -> ElementTree.Element | None:
    """Reads the OME-XML of an open TIFF (tifffile's); None where it has none, or it is too long.

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


def physical_size(pixels: Mapping[str, str]) -> tuple[float, float] | None:
    """Returns PhysicalSizeX and Y of an image in um; the unit is um where none is given, as OME says.

    Args:
        pixels: The attributes of its element ``Pixels``.
    """
    sides = []
    for axis in "XY":
        factor = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "um").strip())
        try:
            side = float(pixels[f"PhysicalSize{axis}"])
        except (KeyError, ValueError):
            return None
        if factor is None or not math.isfinite(side):
            return None
        sides.append(side * factor)
    return sides[0], sides[1]
