"""Copies of images' data before they are written."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from dmmn_qp.files import move, new_file, new_folder
from dmmn_qp.files.renaming import remove, remove_if_empty
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject

BACKUP_FOLDER: Final = "dmmn_qp_backup"
"""In the project's folder: ``<time>/data/<entry>/`` with what an image was before it was written."""

_SAVED_FILES: Final = ("data.qpdata", "summary.json")

_ASIDE: Final = ".bkp"
"""What follows the name of data that QuPath has moved aside."""


def back_up(project: QuPathProject, entries: Iterable[ProjectEntry], moment: datetime) -> Path:
    """Copies the data of images; nothing of an earlier backup is touched.

    Args:
        project: The project.
        entries: Its images that are to be written.
        moment: Names the backup.

    Returns:
        A new folder, laid out as the project's: to go back, copy its content there.

    Raises:
        OSError: There is no room for it; nothing of it is left then.
    """
    name, n = moment.strftime("%Y-%m-%d_%H-%M-%S"), 1
    place = project.folder / BACKUP_FOLDER
    folder = place / name
    while folder.exists():
        n += 1
        folder = place / f"{name}-{n}"
    is_first = not place.exists()
    try:
        with new_folder(folder, overwrite=False, marker=_SAVED_FILES[0]) as new:
            for source, relative in _saved_files(project, entries):
                if source.is_file():
                    (new / relative).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source, new / relative)
    except BaseException:
        if is_first:
            remove_if_empty(place)
        raise
    return folder


def put_back(project: QuPathProject, entry: ProjectEntry, backup: Path) -> None:
    """Makes the data of an image what they were before it was written.

    QuPath moves data aside while it writes them anew; where it did not come to an end they only need their name, for
    which there is room on a full disk too.

    Args:
        project: The project.
        entry: The image.
        backup: What `back_up` returned.

    Raises:
        OSError: They cannot be written.
    """
    for target, relative in _saved_files(project, [entry]):
        saved, aside = backup / relative, target.with_name(f"{target.name}{_ASIDE}")
        if not saved.is_file():
            remove(target)
        elif not _are_same(target, saved):
            if _are_same(aside, saved):
                move(aside, target)
            else:
                remove(target)  # which makes room
                with new_file(target) as temporary:
                    shutil.copy2(saved, temporary)


def _saved_files(project: QuPathProject, entries: Iterable[ProjectEntry]) -> Iterator[tuple[Path, Path]]:
    """(path, path from the project's folder) of each file of the data of images, there or not."""
    for entry in entries:
        for name in _SAVED_FILES:
            path = entry.data_path.with_name(name)
            yield path, path.relative_to(project.folder)


def _are_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except FileNotFoundError:
        return False
