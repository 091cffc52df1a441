"""Names of a project's images beside a dataset of several projects, which tells slides of one name apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject
from dmmn_qp.slides.names import normal_name


def names_among_projects(
    project: QuPathProject, ids: Mapping[str, str], paths: Mapping[str, Path], records: Mapping[str, SlideRecord]
) -> dict[str, str]:
    """The names that a dataset has for a project's images; others have none that is another slide's there.

    Args:
        project: The project.
        ids: The names that its images have without a dataset, by ``entry_id``.
        paths: Their files by ``entry_id``, as far as they were found.
        records: The slides of the dataset by name.

    Returns:
        Name by ``entry_id``.
    """
    by_path: dict[Path, list[SlideRecord]] = {}
    for record in records.values():
        by_path.setdefault(Path(record.path).resolve(), []).append(record)
    known = {
        entry.entry_id: _record_of(project, entry, by_path.get(paths[entry.entry_id].resolve(), []))
        for entry in project.entries
        if entry.entry_id in paths
    }
    taken = {_folded(name) for name in records}
    named: dict[str, str] = {}
    for entry in project.entries:
        image, name, number = known.get(entry.entry_id), ids[entry.entry_id], 1
        while image is None and _folded(name) in taken:
            number += 1
            name = f"{ids[entry.entry_id]}-{number}"
        named[entry.entry_id] = name if image is None else image.slide_id
        taken.add(_folded(named[entry.entry_id]))
    return named


def _record_of(project: QuPathProject, entry: ProjectEntry, records: Sequence[SlideRecord]) -> SlideRecord | None:
    """The slide of the dataset that an image is; of several that show one file in one frame, that of the project."""
    shown = [r for r in records if (r.frame, r.crop_to_bounds) == (entry.frame, entry.crop_to_bounds)]
    own = [r for r in shown if r.project is not None and _folder(Path(r.project)) == project.folder.resolve()]
    return next(iter(own or shown), None)


def _folder(path: Path) -> Path:
    return (path if path.is_dir() else path.parent).resolve()


def _folded(name: str) -> str:
    return normal_name(name).casefold()
