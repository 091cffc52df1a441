"""Where annotations come from. `ANNOTATION_SOURCES` names the kinds; each lists slides with their annotations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, ObjectKind, Plane
from dmmn_qp.errors import AnnotationFileError, PixelSizeError, ProjectError, SlideError, UnsupportedAnnotationsError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.folders.predictions import OTHERS_SUFFIX
from dmmn_qp.importing.reviewed import Corrections, ReviewCounts, Reviewer
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.notes import ReadResult, ReadRules, shorten
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, find_slides, read_project
from dmmn_qp.qupath.qpdata import read_qpdata, way_out_of_damage
from dmmn_qp.slides import SLIDE_SUFFIXES, list_slides
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.pixel_sizes import pixel_size_of, read_pixel_sizes
from dmmn_qp.slides.transformed import Change

MAX_NAME_BYTES = 150
"""Longest name of a slide's files, without their endings; file systems take 255 with them."""

_NO_ANNOTATIONS = (RUN_FILE, "evaluation.json")
"""JSON that lies beside predictions, whose folder may be that of the annotations when it was corrected."""

GEOJSON_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz", ".zip")


@dataclass(frozen=True, slots=True)
class SourceSlide:
    """A slide as its source knows it, before the file is opened.

    Attributes:
        name: What the user calls it.
        objects: Its objects of the kinds asked for.
        path: The file.
        mpp: um/px that the source stores, if any.
        listed_mpp: um/px that ``--mpp-csv`` gives, if any.
        size_px: (width, height) in level-0 px that the source stores, if any.
        crop_to_bounds: Whether the source's frame starts at the scanned bounds.
        frame: Crops and turns that the source puts around the file, the one next to the file first.
        metadata: Key-value pairs of the image.
        plane: The plane whose objects count.
        other_kinds: Number of objects left out because of their kind.
        review: Whose word its objects are.
        corrections: Areas in px2 of what was corrected or confirmed, against what the model had said before.
    """

    name: str
    objects: ReadResult
    path: Path
    mpp: float | None = None
    listed_mpp: float | None = None
    size_px: tuple[int, int] | None = None
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    plane: Plane = DEFAULT_PLANE
    other_kinds: int = 0
    review: ReviewCounts = field(default_factory=ReviewCounts)
    corrections: Corrections = field(default_factory=dict)

    def is_on_plane(self, annotation: Annotation) -> bool:
        """Whether an object lies on the plane that counts."""
        return (annotation.plane.z, annotation.plane.t) == (self.plane.z, self.plane.t)


@dataclass(frozen=True, slots=True)
class Source:
    """The annotated slides of a source.

    Attributes:
        slides: The slides that hold at least one object.
        class_colors: Classes in the source's order with their colours.
        without_annotations: Number of slides left out because nothing is drawn on them.
        problems: Images, or files of annotations, that cannot be read, each with the way out.
        warnings: What else is worth knowing of the source as a whole.
        only_predicted: Whose word the objects are of slides that are left out because nobody vouched for any.
    """

    slides: tuple[SourceSlide, ...]
    class_colors: Mapping[str, Color | None]
    without_annotations: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    only_predicted: tuple[ReviewCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is taken of an image: its objects of the kinds asked for, and how many others there are."""

    objects: ReadResult
    other_kinds: int
    review: ReviewCounts
    corrections: Corrections


def _taken(objects: ReadResult, names: Iterable[str], kinds: Sequence[ObjectKind], reviewer: Reviewer) -> _Taken:
    reviewed = reviewer.of(objects, names)
    wanted, n_others = _of_kinds(reviewed.objects, kinds)
    return _Taken(wanted, n_others, reviewed.counts, reviewed.corrections)


def read_qupath_project(
    path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot], rules: ReadRules
) -> Source:
    """Annotations of a QuPath project; slides without any are not searched for.

    Args:
        path: ``project.qpproj`` or its folder.
        annotations: Must be None: a project brings its own.
        slides_roots: Folders to search for slides that have been moved.
        rules: What is read, and how.

    Raises:
        ProjectError: The project is missing or damaged, the frame of an image cannot be resolved, or QuPath is
            asked for and missing.
        AnnotationFileError: Every ``data.qpdata`` of an annotated image is damaged or missing.
        SlideError: Slides cannot be found.
    """
    if annotations is not None:
        raise ProjectError(
            f'--annotations goes with a folder of slides, but "{path}" is a QuPath project; leave it out'
        )
    project = read_project(path)
    reader, reviewer = _EntryReader(project, rules), Reviewer(rules.take_predictions, rules.predicted_in, rules.kinds)
    drawn: list[tuple[ProjectEntry, _Taken]] = []
    only_predicted: list[ReviewCounts] = []
    problems: list[str] = []
    for entry in project.entries:
        announced = _announced(entry, rules.kinds)
        if announced == 0 or (announced is None and not entry.data_path.is_file()):
            continue
        try:
            objects = reader.read(entry)
        except AnnotationFileError as error:
            problems.append(f'image "{shorten(entry.image_name)}": {error}')
            continue
        names = {slide_ids([entry.slide_name])[0], PurePath(entry.slide_name).stem, PurePath(entry.image_name).stem}
        taken = _taken(objects, sorted(names), rules.kinds, reviewer)
        if taken.objects.annotations:
            drawn.append((entry, taken))
        elif taken.review.left_out:
            only_predicted.append(taken.review)
        elif announced and not objects.annotations:
            problems.append(
                f'image "{shorten(entry.image_name)}": its summary.json tells of {announced} objects, but '
                f'"{entry.data_path}" holds none; {way_out_of_damage(entry.data_path)}'
            )
    if problems and not drawn:
        raise AnnotationFileError(first_of(problems))
    for entry, _ in drawn:
        if entry.unsupported_server is not None:
            raise ProjectError(
                f'image "{shorten(entry.image_name)}" cannot be related to a file: {entry.unsupported_server}; '
                "export it from QuPath (File > Export images > OME TIFF) into the project and copy its annotations "
                "there, or remove it from the project"
            )
    paths = find_slides(project, [entry for entry, _ in drawn], slides_roots)
    return Source(
        slides=tuple(_project_slide(entry, taken, paths[entry.entry_id]) for entry, taken in drawn),
        class_colors=_project_colors(project, [taken.objects for _, taken in drawn]),
        without_annotations=len(project.entries) - len(drawn) - len(problems),
        problems=tuple(problems),
        warnings=(*reader.notes, *reviewer.problems),
        only_predicted=tuple(only_predicted),
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


def _announced(entry: ProjectEntry, kinds: Sequence[ObjectKind]) -> int | None:
    """How many objects an image had when it was saved; None where unknown."""
    if set(kinds) == {"annotation"}:
        return None if entry.annotation_counts is None else sum(entry.annotation_counts.values())
    return entry.object_count


def _of_kinds(objects: ReadResult, kinds: Sequence[ObjectKind]) -> tuple[ReadResult, int]:
    """The objects of some kinds, and how many others there are."""
    wanted = tuple(a for a in objects.annotations if a.kind in kinds)
    return ReadResult(wanted, objects.warnings), len(objects.annotations) - len(wanted)


def _project_slide(entry: ProjectEntry, taken: _Taken, path: Path) -> SourceSlide:
    size = (entry.width, entry.height) if entry.width and entry.height else None
    return SourceSlide(
        entry.slide_name,
        taken.objects,
        path,
        mpp=entry.mpp,
        size_px=size,
        crop_to_bounds=entry.crop_to_bounds,
        frame=entry.frame,
        metadata=entry.metadata,
        other_kinds=taken.other_kinds,
        review=taken.review,
        corrections=taken.corrections,
    )


def _project_colors(project: QuPathProject, results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """The project's list first, then classes that only occur in its annotations."""
    colors: dict[str, Color | None] = {c.name: c.color for c in project.classes}
    for name, color in _colors_of(results).items():
        colors[name] = colors.get(name) or color
    return colors


def read_geojson_folder(
    path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot], rules: ReadRules
) -> Source:
    """A folder of slides (or one slide) and a folder of GeoJSON files (or one file) with the slides' names.

    Args:
        path: The slide or slides.
        annotations: ``<slide name>.geojson`` files, with or without the slide's own ending in the name.
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
    slides = list_slides(path) if path.is_dir() else [path]
    if not slides:
        raise SlideError(f'no slide in "{path}"; known endings are {" ".join(sorted(SLIDE_SUFFIXES))}')
    files = _geojson_files(annotations)
    if annotations.is_file() and len(slides) == 1:
        matched = {slides[0]: annotations}
    else:
        matched = {slide: files[name] for slide in slides for name in (slide.name, slide.stem) if name in files}
    orphans = sorted(str(f) for f in files.values() if f not in matched.values())
    if orphans:
        raise AnnotationFileError(
            f'annotations "{orphans[0]}"{f" and {len(orphans) - 1} more" if len(orphans) > 1 else ""} belong to no '
            f'slide in "{path}"; name each file after its slide, as slide-1.geojson for slide-1.svs'
        )
    reviewer = Reviewer(rules.take_predictions, rules.predicted_in, rules.kinds)
    drawn: dict[Path, _Taken] = {}
    only_predicted: list[ReviewCounts] = []
    problems: list[str] = []
    for slide, file in matched.items():
        try:
            objects = read_geojson(file)
        except AnnotationFileError as error:
            problems.append(str(error))
            continue
        taken = _taken(objects, sorted({slide_ids([slide.name])[0], slide.stem}), rules.kinds, reviewer)
        if taken.objects.annotations:
            drawn[slide] = taken
        elif taken.review.left_out:
            only_predicted.append(taken.review)
    if problems and not drawn:
        raise AnnotationFileError(first_of(problems))
    return Source(
        slides=tuple(
            SourceSlide(
                slide.name,
                taken.objects,
                slide,
                other_kinds=taken.other_kinds,
                review=taken.review,
                corrections=taken.corrections,
            )
            for slide, taken in drawn.items()
        ),
        class_colors=_colors_of([taken.objects for taken in drawn.values()]),
        without_annotations=len(slides) - len(drawn) - len(problems),
        problems=tuple(problems),
        warnings=tuple(reviewer.problems),
        only_predicted=tuple(only_predicted),
    )


def slide_ids(names: Sequence[str]) -> list[str]:
    """Unique names fit for files: file names of slides without their endings, numbered where they repeat."""
    ids: list[str] = []
    for file_name in names:
        stem = re.sub(r"[^\w.()+ -]", "_", Path(file_name).stem)
        stem = stem.encode("utf-8", "replace")[:MAX_NAME_BYTES].decode("utf-8", "ignore").strip(" .") or "slide"
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
    drawn = {entry.entry_id for entry in entries if _is_drawn_on(entry)}
    return numbered(sorted(entries, key=lambda entry: entry.entry_id not in drawn))


def _is_drawn_on(entry: ProjectEntry) -> bool:
    announced = _announced(entry, ReadRules().kinds)
    if announced == 0 or not entry.data_path.is_file():
        return False
    try:
        objects = Reviewer(ReadRules().take_predictions).of(read_qpdata(entry.data_path), ()).objects
        return bool(_of_kinds(objects, ReadRules().kinds)[0].annotations)
    except UnsupportedAnnotationsError:  # which QuPath itself may read
        return True
    except AnnotationFileError:
        return False


def first_of(problems: Sequence[str]) -> str:
    """The first of some problems, and how many others there are."""
    return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")


def _geojson_files(annotations: Path) -> dict[str, Path]:
    """GeoJSON files by their name without the ending."""
    candidates = sorted(annotations.iterdir()) if annotations.is_dir() else [annotations]
    candidates = [path for path in candidates if path.name not in _NO_ANNOTATIONS]
    files: dict[str, Path] = {}
    for path in candidates:
        suffix = next((s for s in GEOJSON_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None or not path.is_file():
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
    return files


def _colors_of(results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """Classes in order of appearance, those of drawn objects first, so that reviewing does not change their order.

    The first colour given to a name counts, as in QuPath.
    """
    annotations = [annotation for result in results for annotation in result.annotations]
    colors: dict[str, Color | None] = {}
    for annotation in sorted(annotations, key=lambda a: a.origin != "drawn"):
        if annotation.class_name is not None:
            colors[annotation.class_name] = colors.get(annotation.class_name) or annotation.class_color
    return colors


SourceReader = Callable[[Path, Path | None, Sequence[SlidesRoot], ReadRules], Source]

ANNOTATION_SOURCES: dict[str, tuple[Callable[[Path], bool], SourceReader]] = {
    "qupath-project": (
        lambda path: path.suffix.lower() == ".qpproj" or (path.is_dir() and any(path.glob("*.qpproj"))),
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
    mpp_csv: Path | None = None,
) -> Source:
    """Reads annotations from wherever the user points.

    Args:
        path: See `ANNOTATION_SOURCES`.
        annotations: See `ANNOTATION_SOURCES`.
        slides_roots: Where to look for slides that have been moved.
        rules: What is read, and how.
        mpp_csv: Table of pixel sizes for slides that do not say theirs.

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
            return source if mpp_csv is None else _with_listed_mpp(source, mpp_csv)
    raise ProjectError(f'"{path}" is none of {", ".join(ANNOTATION_SOURCES)}')


def _with_listed_mpp(source: Source, mpp_csv: Path) -> Source:
    sizes = read_pixel_sizes(mpp_csv)
    slides = tuple(replace(slide, listed_mpp=pixel_size_of(slide.path, sizes)) for slide in source.slides)
    if slides and all(slide.listed_mpp is None for slide in slides):
        raise PixelSizeError(
            f'table "{mpp_csv}" lists none of the slides; its column slide must hold file names, '
            f"such as {slides[0].path.name}"
        )
    return replace(source, slides=slides)


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
