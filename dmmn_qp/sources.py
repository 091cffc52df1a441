"""Where annotations come from. `ANNOTATION_SOURCES` names the kinds; each lists slides with their annotations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dmmn_qp.annotations import Color
from dmmn_qp.errors import AnnotationFileError, PixelSizeError, ProjectError, SlideError
from dmmn_qp.qupath.geojson import read_geojson
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, find_slides, read_project
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.qupath.reading import ReadResult
from dmmn_qp.slides import SLIDE_SUFFIXES, list_slides
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.pixel_sizes import pixel_size_of, read_pixel_sizes
from dmmn_qp.slides.transformed import Change

GEOJSON_SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz", ".zip")


@dataclass(frozen=True, slots=True)
class SourceSlide:
    """A slide as its source knows it, before the file is opened.

    Attributes:
        name: What the user calls it.
        objects: Its objects.
        path: The file.
        mpp: um/px that the source stores, if any.
        listed_mpp: um/px that ``--mpp-csv`` gives, if any.
        size_px: (width, height) in level-0 px that the source stores, if any.
        crop_to_bounds: Whether the source's frame starts at the scanned bounds.
        frame: Crops and turns that the source puts around the file, the one next to the file first.
        metadata: Key-value pairs of the image.
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


@dataclass(frozen=True, slots=True)
class Source:
    """The annotated slides of a source.

    Attributes:
        slides: The slides that hold at least one object.
        class_colors: Classes in the source's order with their colours.
        without_annotations: Number of slides left out because nothing is drawn on them.
    """

    slides: tuple[SourceSlide, ...]
    class_colors: Mapping[str, Color | None]
    without_annotations: int


def read_qupath_project(path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot]) -> Source:
    """Annotations of a QuPath project, read without Java; slides without any are not searched for.

    Args:
        path: ``project.qpproj`` or its folder.
        annotations: Must be None: a project brings its own.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        ProjectError: The project is missing or damaged, or the frame of an image cannot be resolved.
        AnnotationFileError: A ``data.qpdata`` is damaged.
        SlideError: Slides cannot be found.
    """
    if annotations is not None:
        raise ProjectError(
            f'--annotations goes with a folder of slides, but "{path}" is a QuPath project; leave it out'
        )
    project = read_project(path)
    drawn: list[tuple[ProjectEntry, ReadResult]] = []
    for entry in project.entries:
        if not entry.data_path.is_file() or (entry.annotation_counts is not None and not entry.annotation_counts):
            continue
        objects = read_qpdata(entry.data_path)
        if objects.annotations:
            drawn.append((entry, objects))
    for entry, _ in drawn:
        if entry.unsupported_server is not None:
            raise ProjectError(f'image "{entry.image_name}": {entry.unsupported_server}')
    paths = find_slides(project, [entry for entry, _ in drawn], slides_roots)
    return Source(
        slides=tuple(_project_slide(entry, objects, paths[entry.entry_id]) for entry, objects in drawn),
        class_colors=_project_colors(project, [objects for _, objects in drawn]),
        without_annotations=len(project.entries) - len(drawn),
    )


def _project_slide(entry: ProjectEntry, objects: ReadResult, path: Path) -> SourceSlide:
    size = (entry.width, entry.height) if entry.width and entry.height else None
    return SourceSlide(
        entry.slide_name,
        objects,
        path,
        mpp=entry.mpp,
        size_px=size,
        crop_to_bounds=entry.crop_to_bounds,
        frame=entry.frame,
        metadata=entry.metadata,
    )


def _project_colors(project: QuPathProject, results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """The project's list first, then classes that only occur in its annotations."""
    colors: dict[str, Color | None] = {c.name: c.color for c in project.classes}
    for name, color in _colors_of(results).items():
        colors[name] = colors.get(name) or color
    return colors


def read_geojson_folder(path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot]) -> Source:
    """A folder of slides (or one slide) and a folder of GeoJSON files (or one file) with the slides' names.

    Args:
        path: The slide or slides.
        annotations: ``<slide name>.geojson`` files, with or without the slide's own ending in the name.
        slides_roots: Not needed here.

    Raises:
        AnnotationFileError: There are no annotations, or a file of them belongs to no slide or is damaged.
        SlideError: There is no slide.
    """
    del slides_roots
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
    read = {slide: read_geojson(file) for slide, file in matched.items()}
    drawn = {slide: result for slide, result in read.items() if result.annotations}
    return Source(
        slides=tuple(SourceSlide(slide.name, result, slide) for slide, result in drawn.items()),
        class_colors=_colors_of(list(drawn.values())),
        without_annotations=len(slides) - len(drawn),
    )


def _geojson_files(annotations: Path) -> dict[str, Path]:
    """GeoJSON files by their name without the ending."""
    candidates = sorted(annotations.iterdir()) if annotations.is_dir() else [annotations]
    files: dict[str, Path] = {}
    for path in candidates:
        suffix = next((s for s in GEOJSON_SUFFIXES if path.name.lower().endswith(s)), None)
        if suffix is None or not path.is_file():
            continue
        name = path.name[: -len(suffix)]
        if name in files:
            raise AnnotationFileError(
                f'annotations "{files[name]}" and "{path}" are for the same slide; keep one of them in the folder'
            )
        files[name] = path
    return files


def _colors_of(results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """Classes in order of appearance; the first colour given to a name counts, as in QuPath."""
    colors: dict[str, Color | None] = {}
    for result in results:
        for annotation in result.annotations:
            if annotation.class_name is not None:
                colors[annotation.class_name] = colors.get(annotation.class_name) or annotation.class_color
    return colors


ANNOTATION_SOURCES: dict[
    str, tuple[Callable[[Path], bool], Callable[[Path, Path | None, Sequence[SlidesRoot]], Source]]
] = {
    "qupath-project": (
        lambda path: path.suffix.lower() == ".qpproj" or (path.is_dir() and any(path.glob("*.qpproj"))),
        read_qupath_project,
    ),
    "geojson": (lambda path: True, read_geojson_folder),
}
"""Name -> (whether a path is of this kind, how to read it), in the order in which they are tried."""


def read_source(
    path: Path, annotations: Path | None, slides_roots: Sequence[SlidesRoot], mpp_csv: Path | None = None
) -> Source:
    """Reads annotations from wherever the user points.

    Args:
        path: See `ANNOTATION_SOURCES`.
        annotations: See `ANNOTATION_SOURCES`.
        slides_roots: Where to look for slides that have been moved.
        mpp_csv: Table of pixel sizes for slides that do not say theirs.

    Raises:
        ProjectError: There is nothing at ``path``.
        PixelSizeError: The table is damaged or lists none of the slides.
    """
    if not path.exists():
        raise ProjectError(f'"{path}" does not exist; give a project.qpproj, or a folder of slides with --annotations')
    for wants, read in ANNOTATION_SOURCES.values():
        if wants(path):
            source = read(path, annotations, slides_roots)
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
