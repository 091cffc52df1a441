"""Which scanner a slide says it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import openslide

from dmmn_qp.errors import SlidePlaceError
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.files import slide_file
from dmmn_qp.slides.ome_xml import open_tiff
from dmmn_qp.slides.tiff_images import aperio_value
from dmmn_qp.text import shorten

_GENERIC: Final = "generic-tiff"
"""What OpenSlide calls files that say nothing of their maker."""

_MODELS: Final = (
    "aperio.ScanScope ID",
    "dicom.ManufacturerModelName",
    "hamamatsu.Product",
    "leica.device-model",
    "ventana.ScannerModel",
    "tiff.Model",
)
"""Properties of OpenSlide that name a device or its kind, the first of them that there is."""

_MAKER, _MODEL = 271, 272
"""Tags of TIFF."""


def scanner_of(path: Path) -> str | None:
    """Names the maker of a slide, and its device where the file says it; None where it says nothing.

    Args:
        path: The slide; of DICOM its folder, or a file of it.

    Raises:
        SlideUnreachableError: It is on a server that does not answer.
        SlideChangedError: It becomes another one meanwhile.
    """
    try:
        file = slide_file(path)
        return (None if isinstance(file, RemotePath) else _of_openslide(file)) or _of_tiff(file)
    except SlidePlaceError:
        raise
    except Exception:  # of any kind: tifffile checks little of what a damaged file says
        return None


def _of_openslide(path: Path) -> str | None:
    vendor = openslide.OpenSlide.detect_format(str(path))
    if vendor is None or vendor == _GENERIC:
        return None
    with opened(path) as slide:
        model = next((slide.properties[name] for name in _MODELS if slide.properties.get(name)), "")
    return shorten(f"{vendor} {model}".strip())


def _of_tiff(path: Path) -> str | None:
    with open_tiff(path) as file:
        page: Any = file.pages.first
        if page.is_svs:
            told = ["aperio", aperio_value(page, "ScanScope ID")]
        else:
            told = [str(page.tags[tag].value).strip() for tag in (_MAKER, _MODEL) if tag in page.tags]
    return shorten(" ".join(filter(None, told))) or None
