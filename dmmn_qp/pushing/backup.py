"""Copies of images' data before they are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from dmmn_qp.qupath.project import ProjectEntry, QuPathProject

BACKUP_FOLDER: Final = "dmmn_qp_backup"
"""In the project's folder: ``<time>/data/<entry>/`` with what an image was before it was written."""

_SAVED_FILES: Final = ("data.qpdata", "summary.json")


def back_up(project: QuPathProject, entries: Iterable[ProjectEntry], moment: datetime) -> Path:
    """Copies the data of images; nothing of an earlier backup is touched.

    Args:
        project: The project.
        entries: Its images that are to be written.
        moment: Names the backup.

    Returns:
        A new folder, laid out as the project's: to go back, copy its content there.
    """
    name, n = moment.strftime("%Y-%m-%d_%H-%M-%S"), 1
    folder = project.folder / BACKUP_FOLDER / name
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = project.folder / BACKUP_FOLDER / f"{name}-{n}"
    for entry in entries:
        for file in _SAVED_FILES:
            source = entry.data_path.with_name(file)
            if source.is_file():
                target = folder / source.relative_to(project.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    return folder
