"""Names of images: those that `import` gives, and `predict` and `push` ask for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmn_qp.annotations import ObjectKind
from dmmn_qp.errors import AnnotationFileError, UnsupportedAnnotationsError
from dmmn_qp.qupath.notes import ReadResult, ReadRules
from dmmn_qp.qupath.project import ProjectEntry
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.qupath.review import review
from dmmn_qp.slides.names import bounded_name, normal_name


def announced_objects(entry: ProjectEntry, kinds: Sequence[ObjectKind]) -> int | None:
    """How many objects an image had when it was saved; None where unknown."""
    if set(kinds) == {"annotation"}:
        return None if entry.annotation_counts is None else sum(entry.annotation_counts.values())
    return entry.object_count


KindCounts = Counter[tuple[ObjectKind, str | None]]
"""Number of objects by kind and class."""


def of_kinds(objects: ReadResult, kinds: Sequence[ObjectKind]) -> tuple[ReadResult, KindCounts]:
    """The objects of some kinds, and how many others there are."""
    wanted = tuple(a for a in objects.annotations if a.kind in kinds)
    others = Counter((a.kind, a.class_name) for a in objects.annotations if a.kind not in kinds)
    return ReadResult(wanted, objects.warnings), others


def slide_ids(names: Sequence[str]) -> list[str]:
    """Unique names fit for files: file names of slides without their endings, numbered where they repeat."""
    ids: list[str] = []
    for file_name in names:
        stem = re.sub(r"[^\w.()+ -]", "_", Path(normal_name(file_name)).stem)
        stem = bounded_name(stem).strip(" .") or "slide"
        name, n = stem, 1
        while name.casefold() in (other.casefold() for other in ids):
            n += 1
            name = f"{stem}-{n}"
        ids.append(name)
    return ids


def project_slide_ids(entries: Sequence[ProjectEntry], paths: Mapping[str, Path]) -> dict[str, str]:
    """The names that `import` gives to the images of a project, and names for those that it leaves out.

    Images that nothing is drawn on are numbered after the others. Where names repeat, their annotations are read to
    tell which are which.

    Args:
        entries: All images of the project in its order.
        paths: Files by ``entry_id``, as far as they were found.

    Returns:
        Name by ``entry_id``.
    """

    def numbered(ordered: Sequence[ProjectEntry]) -> dict[str, str]:
        names = [paths[e.entry_id].name if e.entry_id in paths else e.slide_name for e in ordered]
        return dict(zip([e.entry_id for e in ordered], slide_ids(names), strict=True))

    ids, backwards = numbered(entries), numbered(entries[::-1])
    if ids == backwards:
        return ids
    annotated = {entry.entry_id for entry in entries if _is_annotated(entry)}
    return numbered(sorted(entries, key=lambda entry: entry.entry_id not in annotated))


def _is_annotated(entry: ProjectEntry) -> bool:
    announced = announced_objects(entry, ReadRules().kinds)
    if announced == 0 or not entry.data_path.is_file():
        return False
    try:
        annotations = read_qpdata(entry.data_path).annotations
        vouched_for = (
            a for a, verdict in zip(annotations, review(annotations), strict=True) if verdict.origin != "unchecked"
        )
        return any(annotation.kind in ReadRules().kinds for annotation in vouched_for)
    except UnsupportedAnnotationsError:  # which QuPath itself may read
        return True
    except AnnotationFileError:
        return False
