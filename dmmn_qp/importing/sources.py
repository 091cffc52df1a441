"""Where annotations come from. `ANNOTATION_SOURCES` names the kinds; each lists slides with their annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.errors import AnnotationFileError, ProjectError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.importing.geojson_source import read_geojson_folder
from dmmn_qp.importing.project_source import read_qupath_project
from dmmn_qp.importing.source import Source
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.pixel_sizes import MppRules, listed_pixel_sizes

SourceReader = Callable[[Path, Path | None, Sequence[SlidesRoot], ReadRules], Source]
"""What the user points at, ``--annotations`` if any, where else slides may be, and what is read."""


class AnnotationSource(NamedTuple):
    """A kind of annotations.

    Attributes:
        wants: Whether what the user points at, which is there, and ``--annotations`` if any, are of this kind.
        read: Lists the slides with their annotations.
    """

    wants: Callable[[Path, Path | None], bool]
    read: SourceReader


def _is_project(path: Path, annotations: Path | None) -> bool:
    """Whether a path is a project of QuPath or a folder with one, whatever annotations are named beside it."""
    return path.suffix.lower() == ".qpproj" or (
        path.is_dir() and any(not file.name.startswith(".") for file in path.glob("*.qpproj"))
    )


ANNOTATION_SOURCES: dict[str, AnnotationSource] = {
    "qupath-project": AnnotationSource(_is_project, read_qupath_project),
    "geojson": AnnotationSource(lambda path, annotations: True, read_geojson_folder),
}
"""Name -> kind, in the order in which they are asked."""


def read_source(
    path: Path,
    annotations: Path | None,
    slides_roots: Sequence[SlidesRoot],
    rules: ReadRules | None = None,
    mpp: MppRules | None = None,
) -> Source:
    """Reads annotations from wherever the user points.

    Args:
        path: A project, or slides; each source says what it reads.
        annotations: What the user names as ``--annotations``, if anything.
        slides_roots: Where to look for slides that have been moved.
        rules: What is read, and how.
        mpp: What the user says of pixel sizes.

    Raises:
        ProjectError: There is nothing at ``path``.
        PixelSizeError: The table is damaged or lists none of the slides.
        AnnotationFileError: There is nothing on the plane asked for.
    """
    rules = rules or ReadRules()
    if why := why_not_there(path):
        raise ProjectError(f'"{path}" {why}; give a project.qpproj, or a folder of slides with --annotations')
    if annotations is not None and (why := why_not_there(annotations)):
        raise AnnotationFileError(f'annotations "{annotations}" {why}; check --annotations')
    for kind in ANNOTATION_SOURCES.values():
        if kind.wants(path, annotations):
            source = _with_planes(kind.read(path, annotations, slides_roots, rules), rules)
            return source if mpp is None else _with_mpp(source, mpp)
    raise ProjectError(f'"{path}" is none of {", ".join(ANNOTATION_SOURCES)}')


def _with_mpp(source: Source, rules: MppRules) -> Source:
    """The source with what the user says of its slides' pixel sizes."""
    named = [slide.named() for slide in source.slides]
    sizes = listed_pixel_sizes(rules.table, named) if rules.table is not None else [None] * len(named)
    return replace(
        source,
        slides=tuple(
            replace(slide, view=slide.view.with_rules(rules).with_listed(size, str(rules.table)))
            for slide, size in zip(source.slides, sizes, strict=True)
        ),
    )


def _with_planes(source: Source, rules: ReadRules) -> Source:
    """Settles which plane of each slide counts: the one asked for, else the one with most objects that can label."""
    counts = [_planes(slide.objects.annotations) for slide in source.slides]
    found = sum(counts, Counter[tuple[int, int]]())
    if rules.plane is not None and found and rules.plane not in found:
        planes = ", ".join(f"{z},{t} ({n} objects)" for (z, t), n in sorted(found.items())[:10])
        raise AnnotationFileError(
            f"nothing is drawn on plane z {rules.plane[0]}, t {rules.plane[1]}; the planes with objects are {planes}: "
            "pass one of them as --plane"
        )
    chosen = [rules.plane or min(planes, key=lambda plane: (-planes[plane], plane)) for planes in counts]
    return replace(
        source,
        slides=tuple(replace(s, plane=Plane(z=z, t=t)) for s, (z, t) in zip(source.slides, chosen, strict=True)),
    )


def _planes(annotations: Sequence[Annotation]) -> Counter[tuple[int, int]]:
    """Number of objects on each plane (z, t); only those with a class count where there are any."""
    labelling = [a for a in annotations if a.class_name is not None] or annotations
    return Counter((a.plane.z, a.plane.t) for a in labelling)
