"""Several sources as one: what each is called, and which slides are from which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.annotations import Color
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.importing.source import FindSlides, Source, SourceSlide, Unannotated
from dmmn_qp.qupath.image_names import KindCounts
from dmmn_qp.qupath.project import projects_in
from dmmn_qp.text import shorten

_USUAL_NAME: Final = "project"
"""Name of a project's file that says nothing: QuPath gives it to all."""


def source_labels(paths: Sequence[Path]) -> list[str]:
    """Short names by which people tell sources apart: that of the project's file or folder, with folders as needed."""
    parts = [_telling_parts(path) for path in paths]
    for length in range(1, max(map(len, parts), default=0) + 1):
        labels = ["/".join(names[-length:]) for names in parts]
        if len(set(labels)) == len(labels):
            return [shorten(label) for label in labels]
    return [shorten(str(path)) for path in paths]


def _telling_parts(path: Path) -> tuple[str, ...]:
    resolved = path.resolve()
    if path.is_dir():
        return resolved.parts
    return resolved.parent.parts if resolved.stem == _USUAL_NAME else (*resolved.parent.parts, resolved.stem)


def place_of(path: Path) -> Path:
    """Where a source is: a project is the same by its file and by its folder, if that stands for no other."""
    projects = projects_in(path) if not isinstance(path, RemotePath) and path.is_dir() else []
    return (projects[0] if len(projects) == 1 else path).resolve()


def check_together(paths: Sequence[Path], annotations: Path | None, goes_with_others: Sequence[bool]) -> None:
    """Checks that several sources make one dataset.

    Args:
        paths: The sources.
        annotations: What the user names as ``--annotations``, if anything.
        goes_with_others: Whether each is of a kind of which several do.

    Raises:
        ConfigError: They do not.
    """
    if len(paths) == 1:
        return
    first: dict[Path, Path] = {}
    for path, goes in zip(paths, goes_with_others, strict=True):
        other = first.setdefault(place_of(path), path)
        if other is not path:
            raise ConfigError(f'"{other}" and "{path}" are one project; name it once')
        if annotations is not None or not goes:
            raise ConfigError(
                f'"{path}" is one of {len(paths)} sources, and only projects of QuPath go together; import slides with '
                "--annotations into a dataset of their own, or import their GeoJSON into a project"
            )


def of_one_among_others(source: Source, path: Path, label: str) -> Source:
    """A source whose slides, and whose notes, say which of several it is.

    Args:
        source: The source.
        path: What the user named.
        label: What it is called in messages.
    """
    finds = {slide.find: _finding_for(path, slide.find) for slide in source.unannotated}
    return replace(
        source,
        slides=tuple(replace(slide, project=path) for slide in source.slides),
        problems=tuple(f"{label}: {problem}" for problem in source.problems),
        warnings=tuple(f"{label}: {warning}" for warning in source.warnings),
        unannotated=tuple(replace(slide, find=finds[slide.find]) for slide in source.unannotated),
    )


def _finding_for(path: Path, find: FindSlides) -> FindSlides:
    def found(chosen: Sequence[Unannotated]) -> list[SourceSlide]:
        return [replace(slide, project=path) for slide in find(chosen)]

    return found


def joined(sources: Sequence[Source], problems: Sequence[str] = ()) -> Source:
    """Some sources as one; classes are in the order of the first that has them, with the first colour that one has.

    Args:
        sources: The sources.
        problems: Why others cannot be read.
    """
    colors: dict[str, Color | None] = {}
    for source in sources:
        for name, color in source.class_colors.items():
            colors[name] = colors.get(name) or color
    return Source(
        slides=tuple(slide for source in sources for slide in source.slides),
        class_colors=colors,
        without_annotations=sum(source.without_annotations for source in sources),
        problems=(*(problem for source in sources for problem in source.problems), *problems),
        warnings=tuple(warning for source in sources for warning in source.warnings),
        only_predicted=tuple(counts for source in sources for counts in source.only_predicted),
        other_kinds=sum((source.other_kinds for source in sources), KindCounts()),
        unread_objects=sum(source.unread_objects for source in sources),
        unannotated=tuple(slide for source in sources for slide in source.unannotated),
    )
