"""Reads QuPath projects and finds their slides again, without Java."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import orjson

from dmmn_qp.annotations import Color
from dmmn_qp.errors import PixelSizeError, ProjectError, SlideError
from dmmn_qp.qupath.classes import argb_to_rgb
from dmmn_qp.qupath.image_server import ImageServer, path_of_uri, plain_text, text_of
from dmmn_qp.qupath.notes import full_class_name
from dmmn_qp.slides.finding import SlideFinder, SlidesRoot, Wanted, relative_to_moved
from dmmn_qp.slides.pixel_sizes import StatedMpp, is_square
from dmmn_qp.slides.transformed import Change
from dmmn_qp.slides.view import SlideView
from dmmn_qp.text import shorten


@dataclass(frozen=True, slots=True)
class ProjectClass:
    """A class in the project's list.

    Attributes:
        name: Full name, such as ``"Tumor: Positive"``.
        color: Its colour, where the project gives one.
    """

    name: str
    color: Color | None = None


@dataclass(frozen=True, slots=True)
class ProjectEntry:
    """One image of a project.

    Attributes:
        entry_id: QuPath's number of the entry, as text.
        image_name: The name shown in QuPath; need not be the file's.
        data_path: Where the entry's ``data.qpdata`` is; missing for an image that was never opened and saved.
        uri: The stored address of the slide.
        slide_path: The slide's path on the machine that stored it; None where the address is no local file.
        provider: Class name of the server builder that QuPath reads the slide with.
        server_args: Options given to that server, such as ``--no-crop``.
        width: Width in level-0 px.
        height: Height in level-0 px.
        mpp_x: Pixel width in um at level 0; None where the slide is not calibrated.
        mpp_y: Pixel height in um at level 0.
        metadata: The entry's own key-value pairs.
        description: The entry's description.
        annotation_counts: Number of annotations per class when last saved, ``"Unclassified"`` for those
            without one; None where unknown.
        object_count: Number of objects of all kinds when last saved; None where unknown.
        frame: The crops, turns and flips that QuPath puts around the file, the one next to the file first; width,
            height and pixel size are those of the outermost image.
        unsupported_server: Why coordinates of this entry cannot be related to those of its file, or why it has no
            file; None for an ordinary entry.
    """

    entry_id: str
    image_name: str
    data_path: Path
    uri: str | None = None
    slide_path: PurePath | None = None
    provider: str | None = None
    server_args: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    mpp_x: float | None = None
    mpp_y: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None
    annotation_counts: Mapping[str, int] | None = None
    object_count: int | None = None
    frame: tuple[Change, ...] = ()
    unsupported_server: str | None = None

    @property
    def crop_to_bounds(self) -> bool:
        """Whether QuPath's frame starts at OpenSlide's bounds of the slide, where it has any."""
        return "--no-crop" not in self.server_args

    @property
    def mpp(self) -> float | None:
        """Pixel size in um/px at level 0; None where the slide is not calibrated.

        Raises:
            PixelSizeError: Width and height of a pixel differ by more than `ANISOTROPY`.
        """
        if self.mpp_x is None or self.mpp_y is None:
            return None
        if not is_square(self.mpp_x, self.mpp_y):
            raise PixelSizeError(
                f'image "{shorten(self.image_name)}" has pixels of {self.mpp_x:g} x {self.mpp_y:g} um, '
                "but they must be square; correct them in QuPath (Image > Set pixel size), or pass a table slide,mpp "
                "or --mpp with --force-mpp"
            )
        return (self.mpp_x + self.mpp_y) / 2

    def view(self, path: Path) -> SlideView:
        """The image as QuPath shows it.

        Args:
            path: Where its file is.
        """
        try:
            said = StatedMpp(stored=self.mpp)
        except PixelSizeError as error:  # told when the slide is opened, where nobody else says it
            said = StatedMpp(refused=str(error))
        return SlideView(
            path,
            self.crop_to_bounds,
            self.frame,
            said,
            self.size_px,
        )

    @property
    def size_px(self) -> tuple[int, int] | None:
        """(width, height) in level-0 px; None where it is not known."""
        return (self.width, self.height) if self.width and self.height else None

    @property
    def slide_name(self) -> str:
        """File name of the slide; the entry's own name where no file is known."""
        return (self.slide_path.name if self.slide_path is not None else "") or self.image_name


@dataclass(frozen=True, slots=True)
class QuPathProject:
    """A project.

    Attributes:
        path: Its ``.qpproj`` file.
        version: The version of QuPath that wrote it; empty where not given.
        stored_path: Where the file lay when it was written; differs from ``path`` after a move.
        classes: The project's list of classes, in QuPath's order, without "Unclassified".
        entries: Its images, in QuPath's order.
    """

    path: Path
    version: str
    stored_path: PurePath | None
    classes: tuple[ProjectClass, ...]
    entries: tuple[ProjectEntry, ...]

    @property
    def folder(self) -> Path:
        """The project's folder."""
        return self.path.parent


def data_path_of(project_file: Path, entry_id: str) -> Path:
    """Where QuPath keeps the objects of an image of a project."""
    return project_file.parent / "data" / entry_id / "data.qpdata"


def read_project(path: Path) -> QuPathProject:
    """Reads a project.

    Args:
        path: The project's folder, or its ``.qpproj`` file of any name.

    Returns:
        The project with all its images; slides are not looked for, see :func:`find_slides`.

    Raises:
        ProjectError: There is no project, or the file is damaged or of an unsupported kind.
    """
    path = _project_file(path)
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ProjectError(f'"{path}" is no QuPath project: it has no list of images')
    entries = tuple(_entry(item, number, path) for number, item in enumerate(content["images"], start=1))
    seen: set[str] = set()
    for entry in entries:
        if entry.entry_id in seen:
            raise ProjectError(f'project "{path}" has two images with entryID {entry.entry_id}; it is damaged')
        seen.add(entry.entry_id)
    return QuPathProject(
        path=path,
        version=text_of(content.get("version")) or "",
        stored_path=path_of_uri(text_of(content.get("uri"))),
        classes=_classes(path.parent / "classifiers" / "classes.json"),
        entries=entries,
    )


def find_slides(
    project: QuPathProject, entries: Iterable[ProjectEntry], slides_roots: Sequence[SlidesRoot] = ()
) -> dict[str, Path]:
    """Finds the slides of images: as stored, relative to the project, under the roots, in the project, near it.

    Args:
        project: The project.
        entries: Some of its images.
        slides_roots: What the user gave as ``--slides-root``.

    Returns:
        The path of each slide by ``entry_id``.

    Raises:
        SlideError: Names every slide that is missing or that has several candidates; see :class:`SlideFinder`.
    """
    return _finder(project, slides_roots).find({entry.entry_id: _wanted(project, entry) for entry in entries})


def find_each_slide(
    project: QuPathProject, entries: Iterable[ProjectEntry], slides_roots: Sequence[SlidesRoot] = ()
) -> dict[str, Path | SlideError]:
    """Finds the slides of images as :func:`find_slides` does, and the error of each that is not found.

    Raises:
        SlideError: A folder of the user's does not exist.
    """
    finder = _finder(project, slides_roots)
    found: dict[str, Path | SlideError] = {}
    for entry in entries:
        try:
            found |= finder.find({entry.entry_id: _wanted(project, entry)})
        except SlideError as error:
            found[entry.entry_id] = error
    return found


def outside_finds(
    project: QuPathProject, places: Mapping[str, Path | SlideError], slides_roots: Sequence[SlidesRoot] = ()
) -> list[str]:
    """One line for each folder outside of the project in which slides were found by nothing but their names.

    Args:
        project: The project.
        places: Where slides were found, by ``entry_id``; see `find_each_slide`.
        slides_roots: What the user gave as ``--slides-root``.
    """
    roots = [project.folder, *(root for root in slides_roots if isinstance(root, Path))]
    expected = [folder for root in roots for folder in (root.absolute(), root.resolve())]
    renamed = any(not isinstance(root, Path) for root in slides_roots)
    names: dict[Path, list[str]] = {}
    for entry in project.entries:
        place = places.get(entry.entry_id)
        if not isinstance(place, Path) or renamed:
            continue
        wanted = _wanted(project, entry)
        known = [Path(path) for path in (wanted.stored, wanted.moved) if path is not None]
        shown = (place.absolute(), place.resolve())  # links may lead out of the folder, or into it
        if place in known or any(path.is_relative_to(folder) for path in shown for folder in expected):
            continue
        names.setdefault(place.parent, []).append(place.name)
    return [
        f'{", ".join(shorten(name) for name in found)} found in "{folder}", outside of the project, by name alone; if '
        f'that is right, say so with --slides-root "{folder}"'
        for folder, found in names.items()
    ]


def _finder(project: QuPathProject, slides_roots: Sequence[SlidesRoot]) -> SlideFinder:
    return SlideFinder(slides_roots, near=(project.folder, project.folder.resolve().parent))


def _wanted(project: QuPathProject, entry: ProjectEntry) -> Wanted:
    moved = relative_to_moved(project.stored_path, project.folder, entry.slide_path)
    return Wanted(entry.slide_name, entry.slide_path, moved)


def projects_in(folder: Path) -> list[Path]:
    """The projects that a folder may stand for: that of the name that QuPath gives to all, else all that it holds."""
    usual = folder / "project.qpproj"
    if usual.is_file():
        return [usual]
    return sorted(file for file in folder.glob("*.qpproj") if not file.name.startswith("."))


def _project_file(path: Path) -> Path:
    try:
        if path.is_file():
            if path.suffix.lower() != ".qpproj":
                raise ProjectError(f'"{path}" is no QuPath project; pass a .qpproj file or the folder that holds one')
            return path
        if not path.is_dir():
            raise ProjectError(f'no QuPath project at "{path}"; pass a .qpproj file or the folder that holds one')
        files = projects_in(path)
    except (OSError, ValueError) as error:
        raise ProjectError(f'QuPath project "{path}" cannot be read ({error})') from error
    if not files:
        raise ProjectError(f'folder "{path}" holds no QuPath project (no .qpproj file)')
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ProjectError(f'folder "{path}" holds several QuPath projects; pass one of {names}')
    return files[0]


def _read_json(path: Path) -> Any:
    """The content of a JSON file of the project.

    Raises:
        ProjectError: The file cannot be read or is no JSON.
    """
    try:
        return orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise ProjectError(f'"{path}" cannot be read ({error.strerror or error})') from error
    except orjson.JSONDecodeError as error:
        raise ProjectError(
            f'"{path}" is damaged: no JSON ({error}); restore a copy (QuPath keeps "{path.name}.backup")'
        ) from error


def _entry(item: object, number: int, project_file: Path) -> ProjectEntry:
    """One image from the project's list; ``number`` counts from 1, for messages."""
    if not isinstance(item, dict):
        raise ProjectError(f'project "{project_file}" is damaged: image {number} of its list is no image')
    builder = item.get("serverBuilder")
    if not isinstance(builder, dict):
        raise ProjectError(
            f'project "{project_file}": image {number} has no server builder, as in QuPath 0.1; '
            "open and save the project in a newer QuPath"
        )
    entry_id = _entry_id(item.get("entryID"))
    if entry_id is None:
        raise ProjectError(
            f'project "{project_file}" is damaged: image {number} has entryID '
            f'"{shorten(plain_text(item.get("entryID")))}", which is no number'
        )
    server = ImageServer.unwrap(builder)
    folder = data_path_of(project_file, entry_id).parent
    object_count, annotation_counts = _counts(folder / "summary.json")
    metadata = item.get("metadata")
    slide_path = path_of_uri(server.uri)
    unsupported = server.unsupported
    if unsupported is None and slide_path is None:
        unsupported = "image without a local file" + (f" ({shorten(server.uri)})" if server.uri else "")
    return ProjectEntry(
        entry_id=entry_id,
        image_name=text_of(item.get("imageName")) or (slide_path.name if slide_path else f"image {entry_id}"),
        data_path=data_path_of(project_file, entry_id),
        uri=server.uri,
        slide_path=slide_path,
        provider=server.provider,
        server_args=server.args,
        width=server.width,
        height=server.height,
        mpp_x=server.mpp_x,
        mpp_y=server.mpp_y,
        metadata={key: plain_text(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {},
        description=text_of(item.get("description")),
        annotation_counts=annotation_counts,
        object_count=object_count,
        frame=server.frame,
        unsupported_server=unsupported,
    )


def _entry_id(value: object) -> str | None:
    """An entry's number as text. It names a folder, so that nothing but digits will do."""
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    return text if re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) else None


def _counts(path: Path) -> tuple[int | None, dict[str, int] | None]:
    """Number of objects, and of annotations per class, from an entry's summary; None where unknown."""
    try:
        summary = _read_json(path)
    except ProjectError:
        return None, None
    hierarchy = summary.get("hierarchy") if isinstance(summary, dict) else None
    if not isinstance(hierarchy, dict):
        return None, None
    objects, types = hierarchy.get("nObjects"), hierarchy.get("objectTypeCounts")
    roots = types.get("Root objects") if isinstance(types, dict) else None
    total = objects - (roots if type(roots) is int else 0) if type(objects) is int else None
    counts = hierarchy.get("annotationClassificationCounts")
    if not isinstance(counts, dict):
        return total, None
    return total, {name: count for name, count in counts.items() if type(count) is int}


def _classes(path: Path) -> tuple[ProjectClass, ...]:
    """The project's classes; none where it has no list.

    Raises:
        ProjectError: The list is there and cannot be read.
    """
    if not path.is_file():
        return ()
    content = _read_json(path)
    items = content.get("pathClasses") if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise ProjectError(f'"{path}" is damaged: it has no list of classes; save the class list in QuPath again')
    classes: dict[str, ProjectClass] = {}
    for item in items:
        name = text_of(item.get("name")) if isinstance(item, dict) else None
        full_name = full_class_name([name]) if name else None
        if full_name is None or full_name == "Unclassified":
            continue
        argb = item.get("color", item.get("colorRGB"))
        color = argb_to_rgb(argb) if type(argb) is int else None
        classes.setdefault(full_name, ProjectClass(full_name, color))
    return tuple(classes.values())
