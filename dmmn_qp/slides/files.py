"""Which file a slide is, and what it is called."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import openslide

from dmmn_qp.errors import SlideChangedError, SlideError, SlideUnreachableError
from dmmn_qp.files.remote import ZARR_SUFFIX, RemotePath
from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.zarr_folders import is_zarr, zarr_fingerprint

DICOM_SUFFIX = ".dcm"

_FINGERPRINT_CHUNK = 1 << 16

_SEGMENTATION = b"1.2.840.10008.5.1.4.1.1.66."
"""What the names of all kinds of segmentations begin with."""

_DICOM_HEAD = 512


def slide_file(path: Path) -> Path:
    """Returns the file to open for a slide that is a folder of DICOM, its first file; any other path as it is.

    Raises:
        SlideError: A folder holds no DICOM slide, or several.
    """
    if not path.is_dir() or isinstance(path, RemotePath) or is_zarr(path):
        return path
    files = first_of_each_series(path.iterdir())
    if len(files) == 1:
        return files[0]
    if files:
        raise SlideError(
            f'folder "{path}" holds {len(files)} DICOM slides, not one; name one file, such as "{files[0]}"'
        )
    raise SlideError(
        f'folder "{path}" is no slide: it is no OME-Zarr, and holds no DICOM file that OpenSlide reads; name a slide '
        "file"
    )


def is_slide_folder(path: Path) -> bool:
    """Whether a folder is one slide: OME-Zarr, or the DICOM files of one series."""
    if is_zarr(path):
        return True
    return not isinstance(path, RemotePath) and path.is_dir() and len(first_of_each_series(path.iterdir())) == 1


def is_dicom(path: Path) -> bool:
    """Whether a path looks like a DICOM file."""
    return path.suffix.lower() == DICOM_SUFFIX and not path.name.startswith(".") and path.is_file()


def first_of_each_series(paths: Iterable[Path]) -> list[Path]:
    """Returns one DICOM file for each slide among some paths: a slide is a series, and has a file for each level."""
    first: dict[str, Path] = {}
    for file in sorted(p for p in paths if is_dicom(p)):
        try:
            with opened(file) as slide:
                first.setdefault(slide.properties.get("dicom.SeriesInstanceUID", str(file)), file)
        except (openslide.OpenSlideError, OSError):
            if not _is_segmentation(file):
                first.setdefault(str(file), file)  # opening it will say why
    return list(first.values())


def _is_segmentation(file: Path) -> bool:
    """Whether a DICOM file says that it is a segmentation: no slide, though it may lie beside one."""
    try:
        with file.open("rb") as content:
            return _SEGMENTATION in content.read(_DICOM_HEAD)
    except OSError:
        return False


def slide_stem(path: Path) -> str:
    """Returns the name of a slide without the ending of its file; of a folder that is one, the folder's name."""
    is_named_so = isinstance(path, RemotePath) or path.suffix.lower() == ZARR_SUFFIX or not path.is_dir()
    return path.stem if is_named_so else path.name


def users_path(path: Path) -> Path:
    """Returns a slide's full path as its user knows it: links, such as those into stores, are not followed."""
    if isinstance(path, RemotePath):
        return path
    plain = Path(os.path.abspath(path))  # noqa: PTH100 (which drops "..", where a link does not make it wrong)
    is_it = plain.exists() and path.exists() and plain.samefile(path)
    return plain if is_it or not path.exists() else path.absolute()


def fingerprint(path: Path) -> str:
    """Returns a short digest of a slide's size and of its first, middle and last 64 KiB.

    It guards against the wrong file under the right name without reading gigabytes. Of a folder of OME-Zarr it is a
    digest of its metadata and of three chunks.
    """
    if is_zarr(path):
        return zarr_fingerprint(path)
    path = slide_file(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in sorted({0, max(0, size // 2), max(0, size - _FINGERPRINT_CHUNK)}):
            file.seek(offset)
            digest.update(file.read(_FINGERPRINT_CHUNK))
    return digest.hexdigest()[:32]


def has_fingerprint(path: Path, wanted: str) -> bool:
    """Whether a path is the slide of a `fingerprint`; what cannot be read as one, such as a folder, is not.

    Raises:
        SlideUnreachableError: It is on a server that does not answer.
    """
    try:
        return fingerprint(path) == wanted
    except SlideUnreachableError:
        raise
    except (OSError, SlideError):
        return False


def check_unchanged(path: Path, known: str) -> None:
    """Refuses a slide whose file became another one since its `fingerprint` was taken.

    Raises:
        SlideChangedError: It was cut, is written anew, or is gone.
    """
    if not has_fingerprint(path, known):
        raise SlideChangedError(
            f'slide "{path}" was cut or changed while it was read; copy the file again from its source, and repeat the '
            "command when it is there to its end"
        )
