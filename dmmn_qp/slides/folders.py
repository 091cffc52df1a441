"""Which slides a folder holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import openslide
import tifffile

from dmmn_qp.errors import SlideError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.files import DICOM_SUFFIX, first_of_each_series, is_slide_folder, slide_file
from dmmn_qp.slides.names import normal_name
from dmmn_qp.slides.ome_xml import is_tiff
from dmmn_qp.slides.picture_reader import opened_picture
from dmmn_qp.slides.readers import SLIDE_READERS, remote_suffixes, slide_suffixes
from dmmn_qp.slides.tiff_images import find_image

MOST_OF_A_SLIDE: Final = 0.5
"""Largest part of a slide's longer side that a picture of it may have to be taken for its thumbnail."""

_BESIDES: Final = re.compile(r"[-_. ]*(thumb(nail)?|label|macro|overview|preview)$")


class BesideSlide(NamedTuple):
    """A picture that lies beside the slide that it shows.

    Attributes:
        picture: The picture.
        slide: The slide.
    """

    picture: Path
    slide: Path

    def line(self) -> str:
        """Returns what is said of it."""
        return f'picture "{self.picture}" is left out: it shows slide "{self.slide}", which lies beside it'


def list_slides(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Lists what looks like a slide in a folder, sorted: files, and folders of DICOM files; a series counts once.

    Args:
        folder: The folder.
        recursive: Whether the folders in it are searched too, but for those that we wrote.
    """
    return sorted(slide for place in (_folders_below(folder) if recursive else [folder]) for slide in _slides_in(place))


def _slides_in(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if not path.name.startswith(".")]  # such as ._<slide> of macOS
    if isinstance(folder, RemotePath):
        known = remote_suffixes()
        return [p for p in found if p.suffix.lower() in known and (p.is_file() or is_slide_folder(p))]
    suffixes = slide_suffixes() - {DICOM_SUFFIX}
    files = [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
    folders = [path for path in found if is_slide_folder(path)]
    return files + folders + first_of_each_series(found)


def _folders_below(top: Path) -> Iterator[Path]:
    """Yields a folder and those in it that we did not write; no folder twice, and none that is a slide."""
    if isinstance(top, RemotePath):
        yield from _remote_folders_below(top)
        return
    entered: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(top, followlinks=True):
        here = Path(place)
        status = here.stat()
        is_ours = RUN_FILE in files and here != top
        if (status.st_dev, status.st_ino) in entered or is_ours or (here != top and is_slide_folder(here)):
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here


def _remote_folders_below(top: RemotePath) -> Iterator[RemotePath]:
    """Yields a folder on a server and those in it that we did not write; none that is a slide."""
    folders = [top]
    for folder in folders:  # grows while it is walked
        inside = list(folder.iterdir())
        if folder == top or all(path.name != RUN_FILE for path in inside):
            folders += [p for p in inside if p.is_dir() and not p.name.startswith(".") and not is_slide_folder(p)]
            yield folder


def without_pictures_of_slides(slides: Sequence[Path]) -> tuple[list[Path], list[BesideSlide]]:
    """Leaves out pictures that lie beside the slides that they show, as scanners and viewers put them there.

    Such a picture has the slide's name, alone or with a word such as *thumbnail* behind it, and at most half its size.

    Args:
        slides: What looks like slides.

    Returns:
        The slides, in their order, and what is left out.

    Raises:
        SlideError: A picture has a slide's name and is too large to be a thumbnail of it.
    """
    pictures = set(SLIDE_READERS["picture"].suffixes)
    is_picture = {path: path.suffix.lower() in pictures for path in slides}
    named = {(path.parent, _name(path)): path for path in slides if not is_picture[path]}
    kept, left_out = [], []
    for path in slides:
        slide = None
        if is_picture[path]:
            name = _name(path)
            slide = named.get((path.parent, name)) or named.get((path.parent, _BESIDES.sub("", name)))
        if slide is None:
            kept.append(path)
            continue
        sizes = _size_px(slide), _size_px(path)
        if None not in sizes and max(sizes[1] or ()) > MOST_OF_A_SLIDE * max(sizes[0] or ()):
            raise SlideError(
                f'"{slide}" and "{path}" may both be slide "{path.stem}", and are of like size; name the one that is '
                "meant, or move the other one to another folder"
            )
        left_out.append(BesideSlide(path, slide))
    return kept, left_out


def _name(path: Path) -> str:
    """Returns a slide's name for comparing: without ending, in one case and spelling."""
    return re.sub(r"\.ome$", "", normal_name(path.stem).casefold())


def _size_px(path: Path) -> tuple[int, int] | None:
    """Returns (width, height); None where the file does not say it. No pixel is decoded."""
    try:
        file = slide_file(path)
        if is_tiff(file):
            with tifffile.TiffFile(file) as tiff:
                return find_image(file, tiff)[0].size
        if openslide.OpenSlide.detect_format(str(file)) is not None:
            with opened(file) as slide:
                width, height = slide.dimensions
                return width, height
        with opened_picture(file) as picture:
            return picture.size
    except Exception:  # of any kind: what is wrong with the file is told when it is opened
        return None
