"""Reading slides. `SLIDE_READERS` holds the readers in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import openslide

from dmmn_qp.errors import SlideError
from dmmn_qp.slides.base import RgbArray, Slide, SlideInfo, overview_downsample, read_field, read_overview
from dmmn_qp.slides.direct_tiff import DirectTiffReader, is_direct_tiff
from dmmn_qp.slides.files import slide_file
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.picture_reader import PictureReader
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tifffile_reader import TiffReader, is_ome_tiff, is_tiff
from dmmn_qp.slides.transformed import Change, TransformedSlide

__all__ = [
    "SLIDE_READERS",
    "RgbArray",
    "Slide",
    "SlideInfo",
    "open_slide",
    "overview_downsample",
    "read_field",
    "read_overview",
]


def _is_for_openslide(path: Path) -> bool:
    """What OpenSlide knows, but OME-TIFF, of which it sees neither the pixel size nor the levels."""
    kind = openslide.OpenSlide.detect_format(str(path))
    return kind is not None and not (kind == "generic-tiff" and is_ome_tiff(path))


SLIDE_READERS: dict[str, tuple[Callable[[Path], bool], Callable[..., Slide]]] = {
    "direct-tiff": (is_direct_tiff, DirectTiffReader),
    "openslide": (_is_for_openslide, OpenSlideReader),
    "tifffile": (is_tiff, TiffReader),
    "picture": (lambda path: True, PictureReader),
}
"""Name -> (whether the reader wants the file, how to open it)."""


def open_slide(
    path: Path,
    *,
    mpp: StatedMpp | float | None = None,
    crop_to_bounds: bool = True,
    frame: Sequence[Change] = (),
) -> Slide:
    """Opens a slide with the first reader that wants it.

    Args:
        path: The slide; of one that is a folder of DICOM files, the folder or one of them.
        mpp: What is said of its um/px beside the file; a number is said of this very slide, and counts.
        crop_to_bounds: QuPath's frame: (0, 0) is the corner of the scanned bounds.
        frame: Crops, turns and flips that the QuPath project puts around the file, the one next to the file first.

    Raises:
        SlideError: There is no such file or no reader can read it.
        PixelSizeError: The pixel size is unknown or implausible.
    """
    path = slide_file(path)
    if not path.is_file():
        raise SlideError(f'slide "{path}" does not exist; check the path or pass --slides-root')
    for wants, reader in SLIDE_READERS.values():
        if wants(path):
            slide = reader(path, mpp=mpp, crop_to_bounds=crop_to_bounds)
            return _framed(slide, frame) if frame else slide
    raise SlideError(f'slide "{path}" is of no kind that {", ".join(SLIDE_READERS)} can read')


def _framed(slide: Slide, frame: Sequence[Change]) -> Slide:
    try:
        return TransformedSlide(slide, frame)
    except SlideError:
        slide.close()
        raise
