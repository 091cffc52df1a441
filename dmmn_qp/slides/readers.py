"""The readers of slides. `SLIDE_READERS` holds them in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import openslide

from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.files.remote import ZARR_SUFFIX, RemotePath
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.direct_tiff import DirectTiffReader, is_direct_tiff
from dmmn_qp.slides.files import slide_file
from dmmn_qp.slides.ome_xml import is_tiff
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.picture_reader import PictureReader
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tifffile_reader import TiffReader
from dmmn_qp.slides.transformed import Change, TransformedSlide
from dmmn_qp.slides.whole import check_end
from dmmn_qp.slides.zarr_folders import is_zarr
from dmmn_qp.slides.zarr_reader import ZarrReader


class SlideReader(NamedTuple):
    """A way to read slides.

    Attributes:
        wants: Whether the reader wants a file.
        open: Opens it, with the arguments of the readers here.
        suffixes: Endings that are taken for slides when a folder is searched.
        reads_remote: Whether it reads slides on servers too.
    """

    wants: Callable[[Path], bool]
    open: Callable[..., Slide]
    suffixes: tuple[str, ...]
    reads_remote: bool = False


SVS_SUFFIX: Final = ".svs"
"""Ending of TIFF of Aperio's, which OpenSlide reads on disks and tifffile on servers."""


def _is_for_openslide(path: Path) -> bool:
    """Whether OpenSlide knows a file; of TIFF of no particular kind it sees neither the images nor what OME says."""
    kind = openslide.OpenSlide.detect_format(str(path))
    return kind is not None and kind != "generic-tiff"


SLIDE_READERS: dict[str, SlideReader] = {
    "ome-zarr": SlideReader(is_zarr, ZarrReader, (ZARR_SUFFIX,), reads_remote=True),
    "direct-tiff": SlideReader(is_direct_tiff, DirectTiffReader, (".svs", ".tif", ".tiff")),
    "openslide": SlideReader(
        _is_for_openslide,
        OpenSlideReader,
        (".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"),
    ),
    "tifffile": SlideReader(is_tiff, TiffReader, (".tif", ".tiff", ".btf"), reads_remote=True),
    "picture": SlideReader(lambda path: True, PictureReader, (".png", ".jpg", ".jpeg", ".bmp")),
}
"""Name -> reader."""


def slide_suffixes() -> frozenset[str]:
    """Returns file endings that are taken for slides when a folder is searched: those of all readers."""
    return frozenset(suffix for reader in SLIDE_READERS.values() for suffix in reader.suffixes)


def open_slide(
    path: Path,
    *,
    mpp: StatedMpp | float | None = None,
    crop_to_bounds: bool = True,
    frame: Sequence[Change] = (),
) -> Slide:
    """Opens a slide with the first reader that wants it.

    Args:
        path: The slide, on a disk or a server; of one that is a folder of DICOM files, the folder or one of them.
        mpp: What is said of its um/px beside the file; a number is said of this very slide, and counts.
        crop_to_bounds: QuPath's frame: (0, 0) is the corner of the scanned bounds.
        frame: Crops, turns and flips that the QuPath project puts around the file, the one next to the file first.

    Raises:
        SlideError: There is no such file or no reader can read it.
        PixelSizeError: The pixel size is unknown or implausible.
    """
    path = slide_file(path)
    if not (path.is_file() or is_zarr(path)):
        raise SlideError(f'slide "{path}" {why_not_there(path) or "is no file"}; check the path or pass --slides-root')
    is_remote = isinstance(path, RemotePath)
    for reader in SLIDE_READERS.values():
        if (reader.reads_remote or not is_remote) and reader.wants(path):
            try:
                slide = reader.open(path, mpp=mpp, crop_to_bounds=crop_to_bounds)
            except SlidePlaceError:
                raise
            except SlideError:
                check_end(path)  # why it lacks a pixel size, or cannot be read
                raise
            return _framed(slide, frame) if frame else slide
    if is_remote:
        raise SlideError(
            f'slide "{path}" is neither TIFF nor OME-Zarr, which alone are read over a network; copy it to a disk'
        )
    raise SlideError(f'slide "{path}" is of no kind that {", ".join(SLIDE_READERS)} can read')


def remote_suffixes() -> frozenset[str]:
    """Returns file endings that are taken for slides when a folder on a server is searched: of who reads them there."""
    readers = (reader for reader in SLIDE_READERS.values() if reader.reads_remote)
    return frozenset(suffix for reader in readers for suffix in reader.suffixes) | {SVS_SUFFIX}


def _framed(slide: Slide, frame: Sequence[Change]) -> Slide:
    try:
        return TransformedSlide(slide, frame)
    except SlideError:
        slide.close()
        raise
