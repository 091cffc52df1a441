"""Annotations in GeoJSON beside slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dmmn_qp.errors import AnnotationFileError, ProjectError, SlideError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.predictions import OTHERS_SUFFIX
from dmmn_qp.importing.export_tables import exported_colors, exported_views
from dmmn_qp.importing.reviewed import Reviewer
from dmmn_qp.importing.source import (
    Source,
    SourceSlide,
    Taken,
    class_colors_of,
    first_of,
    take_reviewed,
    with_project_order,
)
from dmmn_qp.outputs.writers import is_output
from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES, read_geojson
from dmmn_qp.qupath.image_names import KindCounts, slide_ids
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.packed_json import is_roi_set
from dmmn_qp.qupath.review_counts import ReviewCounts
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.folders import list_slides, without_pictures_of_slides
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.slides.readers import slide_suffixes

_NO_ANNOTATIONS = (RUN_FILE, "evaluation.json")
"""JSON that lies beside predictions, whose folder may be that of the annotations when it was corrected."""


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
        AnnotationFileError: There are no annotations, or a file of them belongs to no slide, or all are damaged.
        SlideError: There is no slide.
    """
    del slides_roots
    if rules.reader == "paquo":
        raise ProjectError(f'--reader paquo goes with a QuPath project, and "{path}" is none; leave it out')
    if annotations is None:
        raise AnnotationFileError(
            f'"{path}" holds slides but no annotations; pass their folder of GeoJSON files as --annotations'
        )
    if not annotations.exists():
        raise AnnotationFileError(f'annotations "{annotations}" do not exist; check --annotations')
    found = list_slides(path, recursive=rules.recursive) if path.is_dir() else [path]
    slides, beside = without_pictures_of_slides([slide for slide in found if not is_output(slide.name)])
    if not slides:
        way_out = "" if rules.recursive else "; pass --recursive to search the folders in it"
        raise SlideError(f'no slide in "{path}"; known endings are {" ".join(sorted(slide_suffixes()))}{way_out}')
    files, notes = _geojson_files(annotations)
    is_one = annotations.is_file() and len(slides) == 1
    matched = {slides[0]: annotations} if is_one else _matched(slides, files)
    orphans = sorted(str(f) for f in files.values() if f not in matched.values())
    if orphans:
        raise AnnotationFileError(
            f'annotations "{orphans[0]}"{f" and {len(orphans) - 1} more" if len(orphans) > 1 else ""} belong to no '
            f'slide in "{path}"; name each file after its slide, as slide-1.geojson for slide-1.svs'
        )
    reviewer = Reviewer(rules)
    annotated: dict[Path, Taken] = {}
    only_predicted: list[ReviewCounts] = []
    other_kinds = KindCounts()
    problems: list[str] = []
    for slide, file in matched.items():
        try:
            objects = read_geojson(file)
        except AnnotationFileError as error:
            problems.append(str(error))
            continue
        taken = take_reviewed(objects, sorted({slide_ids([slide.name])[0], slide.stem}), reviewer)
        if taken.objects.annotations:
            annotated[slide] = taken
            continue
        other_kinds += taken.other_kinds
        notes += [f'annotations "{file}": {note}' for note in taken.objects.warnings]
        if taken.review.left_out:
            only_predicted.append(taken.review)
    if problems and not annotated:
        raise AnnotationFileError(first_of(problems))
    tables = annotations if annotations.is_dir() else annotations.parent
    views = dict(zip(slides, exported_views(tables, [_named(slide) for slide in slides]), strict=True))
    colors = class_colors_of([taken.objects for taken in annotated.values()])
    return Source(
        slides=tuple(
            SourceSlide(
                slide.name,
                taken.objects,
                views[slide],
                other_kinds=taken.other_kinds,
                review=taken.review,
                corrections=taken.corrections,
            )
            for slide, taken in annotated.items()
        ),
        class_colors=with_project_order(exported_colors(tables), colors),
        without_annotations=len(slides) - len(annotated) - len(problems),
        problems=tuple(problems),
        warnings=(*(picture.line() for picture in beside), *notes, *reviewer.problems),
        only_predicted=tuple(only_predicted),
        other_kinds=other_kinds,
    )


def _matched(slides: Sequence[Path], files: Mapping[str, Path]) -> dict[Path, Path]:
    """The file of each slide that has one, in the order of the slides.

    Args:
        slides: The slides.
        files: GeoJSON files by their names without the ending.

    Raises:
        AnnotationFileError: Two files are of one slide, or one may be of several.
    """
    names = SlideNames(map(_named, slides))
    matched: dict[int, Path] = {}
    for name, file in files.items():
        for i in names.called(name, f'annotations "{file}"', AnnotationFileError):
            if matched.setdefault(i, file) != file:
                raise AnnotationFileError(
                    f'annotations "{matched[i]}" and "{file}" are both of slide "{slides[i]}"; keep one of them in the '
                    "folder"
                )
    return {slides[i]: matched[i] for i in sorted(matched)}


def _named(slide: Path) -> NamedSlide:
    return NamedSlide(slide, (slide_ids([slide.name])[0],))


def _geojson_files(annotations: Path) -> tuple[dict[str, Path], list[str]]:
    """GeoJSON files by their name without the ending, and what else is there that somebody may have meant.

    Raises:
        AnnotationFileError: Two files have the same name.
    """
    candidates = [annotations]
    if annotations.is_dir():
        found = sorted(annotations.iterdir())
        candidates = [path for path in found if path.name not in _NO_ANNOTATIONS and not path.name.startswith(".")]
    files: dict[str, Path] = {}
    others: list[Path] = []
    of_imagej: list[Path] = []
    for path in candidates:
        suffix = next((s for s in GEOJSON_SUFFIXES if path.name.lower().endswith(s)), None)
        if not path.is_file():
            continue
        if path.suffix.lower() == ".roi" or is_roi_set(path):
            of_imagej.append(path)
            continue
        if suffix is None:
            others.append(path)
            continue
        name = path.name[: -len(suffix)]
        if name.endswith(OTHERS_SUFFIX) and any(
            p.name.startswith(name.removesuffix(OTHERS_SUFFIX)) for p in candidates
        ):
            continue
        if name in files:
            raise AnnotationFileError(
                f'annotations "{files[name]}" and "{path}" are for the same slide; keep one of them in the folder'
            )
        files[name] = path
    notes: list[str] = []
    if of_imagej:
        more = f" and {len(of_imagej) - 1} more" if len(of_imagej) > 1 else ""
        notes.append(
            f'outlines of ImageJ are not read ("{of_imagej[0]}"{more}): drop them onto their images in QuPath (0.4 or '
            "later), give them classes, and export them as GeoJSON"
        )
    if not files and others:
        endings = ", ".join(sorted({path.suffix.lower() or path.name for path in others})[:5])
        notes.append(
            f'no GeoJSON in "{annotations}", but files that end in {endings}: export the annotations from QuPath '
            "(File > Export objects as GeoJSON)"
        )
    return files, notes
