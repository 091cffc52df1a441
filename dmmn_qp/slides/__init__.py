"""Reading slides. `SLIDE_READERS` holds the readers in the order in which they are tried."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import openslide

from dmmn_qp.errors import SlideError
from dmmn_qp.slides.base import RgbArray, Slide, SlideInfo, read_field, read_overview
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.picture_reader import PictureReader

__all__ = [
    "SLIDE_READERS",
    "SLIDE_SUFFIXES",
    "RgbArray",
    "Slide",
    "SlideInfo",
    "fingerprint",
    "list_slides",
    "open_slide",
    "read_field",
    "read_overview",
]

SLIDE_READERS: dict[str, tuple[Callable[[Path], bool], Callable[..., Slide]]] = {
    "openslide": (lambda path: openslide.OpenSlide.detect_format(str(path)) is not None, OpenSlideReader),
    "picture": (lambda path: True, PictureReader),
}
"""Name -> (whether the reader wants the file, how to open it)."""

SLIDE_SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".scn", ".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi"}
    | {".png", ".jpg", ".jpeg", ".bmp"}
)
"""File endings that are taken for slides when a folder is searched."""

_FINGERPRINT_CHUNK = 1 << 16


def open_slide(
    path: Path,
    *,
    project_mpp: float | None = None,
    user_mpp: float | None = None,
    crop_to_bounds: bool = True,
) -> Slide:
    """Opens a slide with the first reader that wants it.

    Args:
        path: The slide.
        project_mpp: um/px that the QuPath project stores, used when the file has none.
        user_mpp: ``--mpp``, used when neither says it.
        crop_to_bounds: QuPath's frame: (0, 0) is the corner of the scanned bounds.

    Raises:
        SlideError: There is no such file or no reader can read it.
        PixelSizeError: The pixel size is unknown or implausible.
    """
    if not path.is_file():
        raise SlideError(f'slide "{path}" does not exist; check the path or pass --slides-root')
    for wants, reader in SLIDE_READERS.values():
        if wants(path):
            return reader(path, project_mpp=project_mpp, user_mpp=user_mpp, crop_to_bounds=crop_to_bounds)
    raise SlideError(f'slide "{path}" is of no kind that {", ".join(SLIDE_READERS)} can read')


def list_slides(folder: Path) -> list[Path]:
    """The files of a folder that look like slides, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SLIDE_SUFFIXES and p.is_file())


def fingerprint(path: Path) -> str:
    """A short digest of a slide's size and of its first, middle and last 64 KiB.

    It guards against the wrong file under the right name without reading gigabytes.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in sorted({0, max(0, size // 2), max(0, size - _FINGERPRINT_CHUNK)}):
            file.seek(offset)
            digest.update(file.read(_FINGERPRINT_CHUNK))
    return digest.hexdigest()[:32]
