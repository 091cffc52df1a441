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
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.importing.geojson_source import read_geojson_folder
from dmmn_qp.importing.joining import check_together, joined, of_one_among_others, source_labels
from dmmn_qp.importing.project_source import read_qupath_project
from dmmn_qp.importing.rules import SplitRules
from dmmn_qp.importing.source import Source, all_of
from dmmn_qp.importing.unannotated import with_test_slides
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.project import projects_in
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.pixel_sizes import MppRules, listed_pixel_sizes

_FIRST_PLANE = (0, 0)

SourceReader = Callable[[Path, Path | None, Sequence[SlidesRoot], ReadRules], Source]
"""What the user points at, ``--annotations`` if any, where else slides may be, and what is read."""


class AnnotationSource(NamedTuple):
    """A kind of annotations.

    Attributes:
        wants: Whether what the user points at, which is there, and ``--annotations`` if any, are of this kind.
        read: Lists the slides with their annotations.
        goes_with_others: Whether several of this kind, or of others, make one dataset.
    """

    wants: Callable[[Path, Path | None], bool]
    read: SourceReader
    goes_with_others: bool = True


def _is_project(path: Path, annotations: Path | None) -> bool:
    """Whether a path is a project of QuPath or a folder with one, whatever annotations are named beside it."""
    return path.suffix.lower() == ".qpproj" or (
        not isinstance(path, RemotePath) and path.is_dir() and bool(projects_in(path))
    )


ANNOTATION_SOURCES: dict[str, AnnotationSource] = {
    "qupath-project": AnnotationSource(_is_project, read_qupath_project),
    "geojson": AnnotationSource(lambda path, annotations: True, read_geojson_folder, goes_with_others=False),
}
"""Name -> kind, in the order in which they are asked."""


def read_source(
    path: Path,
    annotations: Path | None,
    slides_roots: Sequence[SlidesRoot],
    rules: ReadRules | None = None,
    mpp: MppRules | None = None,
) -> Source:
    """Reads annotations from wherever the user points; see `read_sources`."""
    return read_sources([path], annotations, slides_roots, rules, mpp)


def read_sources(
    paths: Sequence[Path],
    annotations: Path | None,
    slides_roots: Sequence[SlidesRoot],
    rules: ReadRules | None = None,
    mpp: MppRules | None = None,
    splits: SplitRules | None = None,
) -> Source:
    """Reads annotations from the places where the user points, as one source.

    Args:
        paths: Projects, or slides; each kind of source says what it reads.
        annotations: What the user names as ``--annotations``, if anything.
        slides_roots: Where to look for slides that have been moved.
        rules: What is read, and how.
        mpp: What the user says of pixel sizes.
        splits: Where slides are said to be for test that nothing is drawn on; None leaves out all such.

    Raises:
        ConfigError: Several sources do not go together, or are one.
        ProjectError: There is nothing at a path.
        PixelSizeError: The table is damaged or lists none of the slides.
        AnnotationFileError: There is nothing on the plane asked for, or all annotations are damaged.
        DatasetError: The table of splits is damaged.
    """
    rules = rules or ReadRules()
    kinds = [_kind_of(path, annotations) for path in paths]
    check_together(paths, annotations, [kind.goes_with_others for kind in kinds])
    sources: list[Source] = []
    problems: dict[str, str] = {}
    for path, kind, label in zip(paths, kinds, source_labels(paths), strict=True):
        try:
            source = kind.read(path, annotations, slides_roots, rules)
        except AnnotationFileError as error:
            if len(paths) == 1:
                raise
            problems[label] = f"{label}: {error}"
        else:
            sources.append(source if len(paths) == 1 else of_one_among_others(source, path, label))
    if problems and not any(source.slides for source in sources):
        raise AnnotationFileError(all_of([*problems.values()]))
    source = joined(sources, [*problems.values()])
    source = _with_planes(source if splits is None else with_test_slides(source, splits), rules)
    return source if mpp is None else _with_mpp(source, mpp)


def _kind_of(path: Path, annotations: Path | None) -> AnnotationSource:
    """The kind of what the user points at."""
    if why := why_not_there(path):
        raise ProjectError(f'"{path}" {why}; give a project.qpproj, or a folder of slides with --annotations')
    if annotations is not None and (why := why_not_there(annotations)):
        raise AnnotationFileError(f'annotations "{annotations}" {why}; check --annotations')
    for kind in ANNOTATION_SOURCES.values():
        if kind.wants(path, annotations):
            return kind
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
    chosen = [
        rules.plane or min(planes, key=lambda plane: (-planes[plane], plane), default=_FIRST_PLANE) for planes in counts
    ]
    return replace(
        source,
        slides=tuple(replace(s, plane=Plane(z=z, t=t)) for s, (z, t) in zip(source.slides, chosen, strict=True)),
    )


def _planes(annotations: Sequence[Annotation]) -> Counter[tuple[int, int]]:
    """Number of objects on each plane (z, t); only those with a class count where there are any."""
    labelling = [a for a in annotations if a.class_name is not None] or annotations
    return Counter((a.plane.z, a.plane.t) for a in labelling)
