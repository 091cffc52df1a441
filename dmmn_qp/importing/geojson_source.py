"""Annotations in GeoJSON beside slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmn_qp.errors import AnnotationFileError, DmmnQpError, ProjectError, SlideError
from dmmn_qp.importing.export_tables import exported_colors, exported_views
from dmmn_qp.importing.geojson_files import geojson_files
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
from dmmn_qp.outputs.writers import is_output
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.image_names import KindCounts, slide_ids
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.folders import list_slides, without_pictures_of_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.slides.readers import slide_suffixes
from dmmn_qp.slides.view import SlideView


def read_geojson_folder(
    path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot], rules: ReadRules
) -> Source:
    """A folder of slides (or one slide) and a folder of GeoJSON files (or one file) with the slides' names.

    Args:
        path: The slide or slides.
        annotations: ``<slide name>.geojson`` files, named as `SlideNames` says; tables may lie beside them (see
            `dmmn_qp.importing.export_tables`).
        slides_roots: Not needed here.
        rules: Which kinds of objects are read.

    Raises:
        AnnotationFileError: There are no annotations, or all are damaged.
        SlideError: There are neither slides nor annotations.
    """
    del slides_roots
    if rules.reader == "paquo":
        raise ProjectError(f'--reader paquo goes with a QuPath project, and "{path}" is none; leave it out')
    if annotations is None:
        raise AnnotationFileError(
            f'"{path}" holds slides but no annotations; pass their folder of GeoJSON files as --annotations'
        )
    found = list_slides(path, recursive=rules.recursive) if path.is_dir() else [path]
    slides, beside = without_pictures_of_slides([slide for slide in found if not is_output(slide.name)])
    files, notes, problems = geojson_files(annotations)
    if not slides:
        way_out = "" if rules.recursive else "; pass --recursive to search the folders in it"
        known = " ".join(sorted(slide_suffixes()))
        problems.append(f'no slide in "{path}"; known endings are {known}{way_out}')
        if not files:
            raise SlideError(problems[-1])
    matched, missing, doubtful, twice = _matched(slides, files, path)  # the second: of slides that are not there
    if annotations.is_file() and len(slides) == 1:
        matched, missing, doubtful, twice = {slides[0]: annotations}, {}, [], set()
    problems += doubtful
    if path.is_file() and not matched and (problems or missing):  # of the one slide that is asked for
        raise AnnotationFileError(all_of([*problems, *(str(error) for _, error in missing.values())]))
    reviewer = Reviewer(rules)
    annotated: dict[Path, Taken] = {}
    nothing_drawn = {slide: NOTHING_TAKEN for slide in slides if slide not in matched}
    other_kinds = KindCounts()
    for slide, file in (matched | {slide: file for slide, (file, _) in missing.items()}).items():
        try:
            objects = read_geojson(file)
        except AnnotationFileError as error:
            problems.append(str(error))
            continue
        taken = take_reviewed(objects, sorted({slide_ids([slide.name])[0], slide.stem}), reviewer)
        if taken.objects.annotations:
            annotated[slide] = taken
            continue
        nothing_drawn[slide] = taken
        if slide in missing:
            problems.append(str(missing[slide][1]))
        other_kinds += taken.other_kinds
        notes += [f'annotations "{file}": {note}' for note in taken.objects.warnings]
    if problems and not annotated:
        raise AnnotationFileError(all_of(problems))
    undrawn = {slide: taken for slide, taken in nothing_drawn.items() if slide not in missing | dict.fromkeys(twice)}
    tables = annotations if annotations.is_dir() else annotations.parent
    views = dict(zip(slides, exported_views(tables, [_named(slide) for slide in slides], set(files)), strict=True))
    colors = class_colors_of([taken.objects for taken in annotated.values()])
    return Source(
        slides=tuple(
            SourceSlide(
                slide.name,
                taken.objects,
                views[slide] if slide in views else SlideView(slide),
                other_kinds=taken.other_kinds,
                review=taken.review,
                models=taken.models,
                problem=missing[slide][1] if slide in missing else None,
            )
            for slide, taken in annotated.items()
        ),
        class_colors=with_project_order(exported_colors(tables), colors),
        without_annotations=len(undrawn) + len(twice),
        problems=tuple(problems),
        warnings=(*(picture.line() for picture in beside), *notes, *reviewer.problems),
        only_predicted=tuple(taken.review for taken in nothing_drawn.values() if taken.review.left_out),
        other_kinds=other_kinds,
        unannotated=_unannotated(undrawn, views),
    )


def _unannotated(undrawn: Mapping[Path, Taken], views: Mapping[Path, SlideView]) -> tuple[Unannotated, ...]:
    """The slides that nothing is drawn on; their files are there."""
    paths = {str(slide): slide for slide in undrawn}

    def find(chosen: Sequence[Unannotated]) -> list[SourceSlide]:
        found = [(paths[slide.key], undrawn[paths[slide.key]]) for slide in chosen]
        return [
            SourceSlide(
                path.name,
                taken.objects,
                views[path],
                other_kinds=taken.other_kinds,
                review=taken.review,
                models=taken.models,
            )
            for path, taken in found
        ]

    return tuple(
        Unannotated(slide.name, slide, str(slide), find, review=taken.review) for slide, taken in undrawn.items()
    )


def _matched(
    slides: Sequence[Path], files: Mapping[str, Path], place: Path
) -> tuple[dict[Path, Path], dict[Path, tuple[Path, DmmnQpError]], list[str], set[Path]]:
    """The file of each slide that has one, in the order of the slides.

    Args:
        slides: The slides.
        files: GeoJSON files by their names without the ending.
        place: Where the slides are.

    Returns:
        The files by slide; files whose slides are not there, by these slides' names, each with what is to be said;
        what is to be said of files that are two of one slide, or may be of several; and the slides that have two.
    """
    names = SlideNames(map(_named, slides))
    matched: dict[int, list[Path]] = {}
    missing: dict[Path, tuple[Path, DmmnQpError]] = {}
    problems: list[str] = []
    for name, file in files.items():
        try:
            found = names.called(name, f'annotations "{file}"', AnnotationFileError)
        except AnnotationFileError as error:
            problems.append(str(error))
            continue
        if not found:
            missing[Path(name)] = (
                file,
                SlideError(
                    f'annotations "{file}" belong to no slide in "{place}"; name each file after its slide, as '
                    "slide-1.geojson for slide-1.svs"
                ),
            )
        for i in found:
            matched.setdefault(i, []).append(file)
    problems += [
        f'annotations "{files[0]}" and "{files[1]}" are both of slide "{slides[i]}"; keep one of them in the folder'
        for i, files in sorted(matched.items())
        if len(files) > 1
    ]
    clear = {slides[i]: matched[i][0] for i in sorted(matched) if len(matched[i]) == 1}
    return clear, missing, problems, {slides[i] for i in matched} - clear.keys()


def _named(slide: Path) -> NamedSlide:
    return NamedSlide(slide, (slide_ids([slide.name])[0],))
