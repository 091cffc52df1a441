"""Where annotations come from. `ANNOTATION_SOURCES` names the kinds; each lists slides with their annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dmmn_qp.annotations import Annotation, Plane
from dmmn_qp.errors import AnnotationFileError, ProjectError
from dmmn_qp.importing.geojson_source import read_geojson_folder
from dmmn_qp.importing.project_source import read_qupath_project
from dmmn_qp.importing.source import Source
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.pixel_sizes import MppRules, listed_pixel_sizes

SourceReader = Callable[[Path, Path | None, Sequence[SlidesRoot], ReadRules], Source]

ANNOTATION_SOURCES: dict[str, tuple[Callable[[Path], bool], SourceReader]] = {
    "qupath-project": (
        lambda path: (
            path.suffix.lower() == ".qpproj"
            or (path.is_dir() and any(not file.name.startswith(".") for file in path.glob("*.qpproj")))
        ),
        read_qupath_project,
    ),
    "geojson": (lambda path: True, read_geojson_folder),
}
"""Name -> (whether a path is of this kind, how to read it), in the order in which they are tried."""


def read_source(
    path: Path,
    annotations: Path | None,
    slides_roots: Sequence[SlidesRoot],
    rules: ReadRules | None = None,
    mpp: MppRules | None = None,
) -> Source:
    """Reads annotations from wherever the user points.

    Args:
        path: See `ANNOTATION_SOURCES`.
        annotations: See `ANNOTATION_SOURCES`.
        slides_roots: Where to look for slides that have been moved.
        rules: What is read, and how.
        mpp: What the user says of pixel sizes.

    Raises:
        ProjectError: There is nothing at ``path``.
        PixelSizeError: The table is damaged or lists none of the slides.
        AnnotationFileError: There is nothing on the plane asked for.
    """
    rules = rules or ReadRules()
    if not path.exists():
        raise ProjectError(f'"{path}" does not exist; give a project.qpproj, or a folder of slides with --annotations')
    for wants, read in ANNOTATION_SOURCES.values():
        if wants(path):
            source = _with_planes(read(path, annotations, slides_roots, rules), rules)
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
