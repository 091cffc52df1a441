"""Reading slides. `SLIDE_READERS` holds the readers in the order in which they are tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import openslide

from dmmn_qp.errors import SlideError
from dmmn_qp.slides.base import RgbArray, Slide, SlideInfo, overview_downsample, read_field, read_overview
from dmmn_qp.slides.direct_tiff import DirectTiffReader, is_direct_tiff
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.picture_reader import PictureReader
from dmmn_qp.slides.tifffile_reader import TiffReader, is_ome_tiff, is_tiff
from dmmn_qp.slides.transformed import Change, TransformedSlide

__all__ = [
    "SLIDE_READERS",
    "SLIDE_SUFFIXES",
    "RgbArray",
    "Slide",
    "SlideInfo",
    "fingerprint",
    "first_of_each_series",
    "is_slide_folder",
    "list_slides",
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

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"}
    | {".png", ".jpg", ".jpeg", ".bmp"}
)
"""File endings that are taken for slides when a folder is searched."""

DICOM_SUFFIX = ".dcm"

_FINGERPRINT_CHUNK = 1 << 16


def open_slide(
    path: Path,
    *,
    project_mpp: float | None = None,
    user_mpp: float | None = None,
    crop_to_bounds: bool = True,
    frame: Sequence[Change] = (),
) -> Slide:
    """Opens a slide with the first reader that wants it.

    Args:
        path: The slide; of one that is a folder of DICOM files, the folder or one of them.
        project_mpp: um/px that the QuPath project stores, used when the file has none.
        user_mpp: What ``--mpp-csv`` or ``--mpp`` says, used when neither says it.
        crop_to_bounds: QuPath's frame: (0, 0) is the corner of the scanned bounds.
        frame: Crops and turns that the QuPath project puts around the file, the one next to the file first.

    Raises:
        SlideError: There is no such file or no reader can read it.
        PixelSizeError: The pixel size is unknown or implausible.
    """
    path = slide_file(path)
    if not path.is_file():
        raise SlideError(f'slide "{path}" does not exist; check the path or pass --slides-root')
    for wants, reader in SLIDE_READERS.values():
        if wants(path):
            slide = reader(path, project_mpp=project_mpp, user_mpp=user_mpp, crop_to_bounds=crop_to_bounds)
            return _framed(slide, frame) if frame else slide
    raise SlideError(f'slide "{path}" is of no kind that {", ".join(SLIDE_READERS)} can read')


def _framed(slide: Slide, frame: Sequence[Change]) -> Slide:
    try:
        return TransformedSlide(slide, frame)
    except SlideError:
        slide.close()
        raise


def slide_file(path: Path) -> Path:
    """The file to open for a slide that is a folder: its first DICOM file. Any other path is returned as it is.

    Raises:
        SlideError: A folder holds no DICOM slide, or several.
    """
    if not path.is_dir():
        return path
    files = first_of_each_series(path.iterdir())
    if len(files) == 1:
        return files[0]
    if files:
        raise SlideError(
            f'folder "{path}" holds {len(files)} DICOM slides, not one; name one file, such as "{files[0]}"'
        )
    raise SlideError(f'folder "{path}" is no slide: it holds no DICOM file that OpenSlide reads; name a slide file')


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is one slide: the DICOM files of one series."""
    return path.is_dir() and len(first_of_each_series(path.iterdir())) == 1


def list_slides(folder: Path) -> list[Path]:
    """What looks like a slide in a folder, sorted by name: files, and folders of DICOM files; a series counts once."""
    found = list(folder.iterdir())
    files = [p for p in found if p.suffix.lower() in SLIDE_SUFFIXES - {DICOM_SUFFIX} and p.is_file()]
    folders = [p for p in found if not p.name.startswith(".") and is_slide_folder(p)]
    return sorted(files + folders + first_of_each_series(found))


def first_of_each_series(paths: Iterable[Path]) -> list[Path]:
    """One DICOM file for each slide among some paths: a slide is a series, and has a file for each level."""
    first: dict[str, Path] = {}
    for file in sorted(p for p in paths if p.suffix.lower() == DICOM_SUFFIX and p.is_file()):
        try:
            with openslide.OpenSlide(str(file)) as slide:
                first.setdefault(slide.properties.get("dicom.SeriesInstanceUID", str(file)), file)
        except (openslide.OpenSlideError, OSError):
            first.setdefault(str(file), file)  # opening it will say why
    return list(first.values())


def fingerprint(path: Path) -> str:
    """A short digest of a slide's size and of its first, middle and last 64 KiB.

    It guards against the wrong file under the right name without reading gigabytes.
    """
    path = slide_file(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in sorted({0, max(0, size // 2), max(0, size - _FINGERPRINT_CHUNK)}):
            file.seek(offset)
            digest.update(file.read(_FINGERPRINT_CHUNK))
    return digest.hexdigest()[:32]
