"""Which scanner a slide says it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import openslide
import tifffile

from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.files import slide_file
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
    """
    try:
        file = slide_file(path)
        return _of_openslide(file) or _of_tiff(file)
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
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        told = [str(tags[tag].value).strip() for tag in (_MAKER, _MODEL) if tag in tags]
    return shorten(" ".join(filter(None, told))) or None
