"""Annotations of a QuPath project."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

from dmmn_qp.annotations import Color
from dmmn_qp.errors import (
    AnnotationFileError,
    DmmnQpError,
    PixelSizeError,
    ProjectError,
    SlideError,
    UnsupportedAnnotationsError,
)
from dmmn_qp.importing.reviewed import Reviewer
from dmmn_qp.importing.source import (
    NOTHING_TAKEN,
    Source,
    SourceSlide,
    Taken,
    Unannotated,
    all_of,
    class_colors_of,
    take_reviewed,
    with_project_order,
)
from dmmn_qp.qupath.image_names import KindCounts, announced_objects, slide_ids
from dmmn_qp.qupath.notes import ReadResult, ReadRules
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, find_each_slide, outside_finds, read_project
from dmmn_qp.qupath.qpdata import read_qpdata, way_out_of_damage
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.view import SlideView
from dmmn_qp.text import shorten


def read_qupath_project(
    path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot], rules: ReadRules
) -> Source:
    """Annotations of a QuPath project; slides without any are listed, but not searched for.

    Args:
        path: ``project.qpproj`` or its folder.
        annotations: Must be None: a project brings its own.
        slides_roots: Folders to search for slides that have been moved.
        rules: What is read, and how.

    Raises:
        ProjectError: The project is missing or damaged, or QuPath is asked for and missing.
        AnnotationFileError: Every ``data.qpdata`` of an annotated image is damaged or missing.
        SlideError: A folder of the user's does not exist.
    """
    if annotations is not None:
        raise ProjectError(
            f'--annotations goes with a folder of slides, but "{path}" is a QuPath project; leave it out'
        )
    project = read_project(path)
    reader, reviewer = _EntryReader(project, rules), Reviewer(rules)
    annotated: list[tuple[ProjectEntry, Taken]] = []
    nothing_drawn: list[tuple[ProjectEntry, Taken]] = []
    other_kinds, unread_objects = KindCounts(), 0
    problems: list[str] = []
    for entry in project.entries:
        announced = announced_objects(entry, rules.kinds)
        if announced == 0 or (announced is None and not entry.data_path.is_file()):
            unread_objects += entry.object_count or 0
            nothing_drawn.append((entry, NOTHING_TAKEN))
            continue
        try:
            objects = reader.read(entry)
        except AnnotationFileError as error:
            problems.append(f'image "{shorten(entry.image_name)}": {error}')
            continue
        names = {slide_ids([entry.slide_name])[0], PurePath(entry.slide_name).stem, PurePath(entry.image_name).stem}
        taken = take_reviewed(objects, sorted(names), reviewer)
        if taken.objects.annotations:
            annotated.append((entry, taken))
            continue
        other_kinds += taken.other_kinds
        reader.notes += [f'image "{shorten(entry.image_name)}": {note}' for note in taken.objects.warnings]
        if announced and not objects.annotations and not taken.review.left_out:
            problems.append(
                f'image "{shorten(entry.image_name)}": its summary.json tells of {announced} objects, but '
                f'"{entry.data_path}" holds none; {way_out_of_damage(entry.data_path)}'
            )
            continue
        nothing_drawn.append((entry, taken))
    if problems and not annotated:
        raise AnnotationFileError(all_of(problems))
    related = [entry for entry, _ in annotated if entry.unsupported_server is None]
    places = find_each_slide(project, related, slides_roots)
    return Source(
        slides=tuple(_project_slide(entry, taken, places.get(entry.entry_id)) for entry, taken in annotated),
        class_colors=_project_colors(project, [taken.objects for _, taken in annotated]),
        without_annotations=len(project.entries) - len(annotated) - len(problems),
        problems=tuple(problems),
        warnings=(*reader.notes, *reviewer.problems, *outside_finds(project, places, slides_roots)),
        only_predicted=tuple(taken.review for _, taken in nothing_drawn if taken.review.left_out),
        other_kinds=other_kinds,
        unread_objects=unread_objects,
        unannotated=_unannotated(project, nothing_drawn, slides_roots),
    )


def _unannotated(
    project: QuPathProject, nothing_drawn: Sequence[tuple[ProjectEntry, Taken]], slides_roots: Sequence[SlidesRoot]
) -> tuple[Unannotated, ...]:
    """The images that nothing is drawn on, with a function that looks for their files."""
    images = {entry.entry_id: (entry, taken) for entry, taken in nothing_drawn}

    def find(chosen: Sequence[Unannotated]) -> list[SourceSlide]:
        of_them = [images[slide.key] for slide in chosen]
        related = [entry for entry, _ in of_them if entry.unsupported_server is None]
        places = find_each_slide(project, related, slides_roots)
        return [_project_slide(entry, taken, places.get(entry.entry_id)) for entry, taken in of_them]

    return tuple(
        Unannotated(
            entry.slide_name,
            entry.slide_path or PurePath(entry.slide_name),
            entry.entry_id,
            find,
            entry.metadata,
            taken.review,
        )
        for entry, taken in nothing_drawn
    )


class _EntryReader:
    """Reads the objects of a project's images by the reader that the rules ask for."""

    def __init__(self, project: QuPathProject, rules: ReadRules) -> None:
        self._project = project
        self._rules = rules
        self._qupath: PaquoProject | ProjectError | None = None
        self.notes: list[str] = []

    def read(self, entry: ProjectEntry) -> ReadResult:
        """All objects of an image.

        Raises:
            AnnotationFileError: They are damaged, missing or unsupported.
            ProjectError: QuPath is asked for and missing.
        """
        if not entry.data_path.is_file():  # QuPath would read it as an empty image
            raise AnnotationFileError(
                f'"{entry.data_path}" is missing, but objects were saved; {way_out_of_damage(entry.data_path)}'
            )
        if self._rules.reader == "paquo":
            return self._through_qupath(entry)
        try:
            return read_qpdata(entry.data_path)
        except UnsupportedAnnotationsError as error:
            if self._rules.reader == "qpdata":
                raise
            try:
                objects = self._through_qupath(entry)
            except (ProjectError, AnnotationFileError) as other:
                raise UnsupportedAnnotationsError(
                    f"{error}; or read it through QuPath itself: --reader paquo ({other})"
                ) from error
            self.notes.append(f'image "{shorten(entry.image_name)}" was read through QuPath: {error}')
            return objects

    def _through_qupath(self, entry: ProjectEntry) -> ReadResult:
        if self._qupath is None:
            try:
                self._qupath = PaquoProject(self._project.path, self._rules.qupath_dir)
            except ProjectError as error:
                self._qupath = error
        if isinstance(self._qupath, ProjectError):
            raise self._qupath
        return self._qupath.read(entry.entry_id)


def _project_slide(entry: ProjectEntry, taken: Taken, place: Path | SlideError | None) -> SourceSlide:
    """An image with its objects.

    Args:
        entry: The image.
        taken: Its objects.
        place: Its file, or why there is none; None where it cannot be related to a file.
    """
    view, problem = _view(entry, place)
    return SourceSlide(
        entry.slide_name,
        taken.objects,
        view,
        metadata=entry.metadata,
        other_kinds=taken.other_kinds,
        review=taken.review,
        models=taken.models,
        problem=problem,
    )


def _view(entry: ProjectEntry, place: Path | SlideError | None) -> tuple[SlideView, DmmnQpError | None]:
    """The image as QuPath shows it, and why it cannot be imported; what is known of its size stays in any case."""
    named = Path(entry.slide_name)
    problem: DmmnQpError | None = place if isinstance(place, SlideError) else None
    if place is None:
        problem = ProjectError(
            f'image "{shorten(entry.image_name)}" cannot be related to a file: {entry.unsupported_server}; '
            "export it from QuPath (File > Export images > OME TIFF) into the project and copy its annotations "
            "there, or remove it from the project"
        )
    try:
        return entry.view(place if isinstance(place, Path) else named), problem
    except PixelSizeError as error:
        return SlideView(named, size_px=entry.size_px), problem or error


def _project_colors(project: QuPathProject, results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """The project's list first, then classes that only occur in its annotations."""
    return with_project_order({c.name: c.color for c in project.classes}, class_colors_of(results))
