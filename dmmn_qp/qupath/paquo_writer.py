"""Writes into projects through QuPath itself, with paquo (GPL-3, the extra ``[paquo]``).

What is written, and what it replaces, is decided elsewhere; here are only the calls. Like reading, this starts Java in
the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmmn_qp.annotations import Color
from dmmn_qp.errors import ProjectError
from dmmn_qp.qupath.paquo_reader import check_data, quieten, reason_of, start_qupath
from dmmn_qp.text import shorten

Feature = Mapping[str, Any]
"""An object as GeoJSON."""

_OLDEST: Final = "0.4.0"
"""QuPath before it knows no ids, so that nothing could be found again."""


class PaquoWriter:
    """A project opened by QuPath, to be written into.

    Args:
        path: The ``.qpproj`` file.
        qupath_dir: QuPath's folder, as for ``PaquoProject``.

    Raises:
        ProjectError: paquo or QuPath is missing or too old, or QuPath cannot open the project.
    """

    def __init__(self, path: Path, qupath_dir: Path | None = None) -> None:
        self._path = path
        start_to_write(qupath_dir)
        try:
            from paquo.projects import QuPathProject

            self._project: Any = QuPathProject(path, mode="r+")
            quieten()
            self._images: dict[str, Any] = {image.entry_id: image for image in self._project.images}
        except Exception as error:  # whatever Java throws
            raise ProjectError(f'QuPath cannot open the project "{path}" ({reason_of(error)})') from error

    def check_writable(self, entry_id: str) -> None:
        """Makes sure that QuPath can save an image, for which it must find the slide.

        Raises:
            ProjectError: It cannot.
        """
        image = self._images.get(entry_id)
        if image is None:
            raise ProjectError(f'QuPath finds no image {entry_id} in "{self._path}"; save the project in QuPath')
        try:
            is_there = image.is_readable()
        except Exception as error:  # an address that is no file's
            raise ProjectError(
                f'QuPath cannot tell where the slide of image "{shorten(image.image_name)}" is ({reason_of(error)})'
            ) from error
        if not is_there:
            raise ProjectError(
                f'the slide of image "{shorten(image.image_name)}" is not where the project says '
                f"({shorten(image.uri, 200)}); open the project in QuPath, let it find the slides, and save"
            )

    def replace(
        self, entry_id: str, features: Sequence[Feature], drops: Callable[[Feature], bool], *, resolve: bool = False
    ) -> None:
        """Removes some objects of an image, adds others, and saves it.

        Args:
            entry_id: The image.
            features: Annotations and detections to add, as GeoJSON.
            drops: Whether an object, as QuPath's own GeoJSON, is to be removed. What lies in it stays.
            resolve: Whether objects then become children of those they lie in.

        Raises:
            AnnotationFileError: What is there is damaged.
            ProjectError: QuPath cannot do it.
        """
        check_data(self._path, entry_id)
        try:
            image = self._images[entry_id]
            hierarchy = image.hierarchy
            for objects in (hierarchy.annotations, hierarchy.detections):
                _remove(objects, [item for item in objects if drops(item.to_geojson())])
            _add(hierarchy, features)
            if resolve:
                hierarchy.java_object.resolveHierarchy()
            image.save()
        except Exception as error:  # whatever Java throws
            raise ProjectError(
                f'QuPath cannot write into image {entry_id} of "{self._path}" ({reason_of(error)})'
            ) from error


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image of a project that is to be made.

    Attributes:
        path: Its slide.
        size_px: (width, height) in level-0 px that QuPath must find in it; None where it is not known.
        features: Its objects, as GeoJSON; called when they are needed.
    """

    path: Path
    size_px: tuple[int, int] | None
    features: Callable[[], Sequence[Feature]]


def create_project(
    folder: Path,
    images: Iterable[NewImage],
    class_colors: Mapping[str, Color],
    qupath_dir: Path | None = None,
    after_each: Callable[[NewImage], object] = lambda image: None,
) -> Path:
    """Makes a project.

    Args:
        folder: An empty folder, or none yet.
        images: Its images.
        class_colors: Its classes, by full name, in their order.
        qupath_dir: QuPath's folder, as for ``PaquoProject``.
        after_each: Called with each image that is done.

    Returns:
        The ``.qpproj`` file.

    Raises:
        ProjectError: paquo or QuPath is missing or too old, or QuPath cannot read a slide or write the project.
    """
    start_to_write(qupath_dir)
    try:
        from paquo.classes import QuPathPathClass
        from paquo.projects import QuPathProject

        path = folder / "project.qpproj"
        quieten()
        project: Any = QuPathProject(path, mode="x")
        project.path_classes = [_path_class(QuPathPathClass, name, color) for name, color in class_colors.items()]
        for image in images:
            entry = project.add_image(str(image.path), allow_duplicates=True, return_list=True)[0]
            size = (entry.width, entry.height)
            if image.size_px is not None and size != image.size_px:
                raise ProjectError(
                    f'QuPath sees slide "{image.path}" as {size[0]} x {size[1]} px, but it was predicted as '
                    f"{image.size_px[0]} x {image.size_px[1]} px; push into a project that shows it so"
                )
            _add(entry.hierarchy, image.features())
            entry.save()
            after_each(image)
        project.save()
    except ProjectError:
        raise
    except Exception as error:  # whatever Java throws
        raise ProjectError(f'QuPath cannot make a project in "{folder}" ({reason_of(error)})') from error
    return path


def start_to_write(qupath_dir: Path | None = None) -> None:
    """Starts QuPath, unless it runs, and makes sure that it can write what we need.

    Raises:
        ProjectError: paquo or QuPath is missing or too old.
    """
    start_qupath(qupath_dir)
    from paquo import java

    version = java.qupath_version
    if version is not None and version < type(version)(_OLDEST):
        raise ProjectError(f"QuPath {version} gives its objects no ids; use 0.4 or later, as --qupath-dir")
    with suppress(Exception):  # QuPath 0.4 has no such class, and needs none
        # Without its window QuPath loads OpenSlide too late, and opens slides by readers that know them less well.
        from jpype import JClass

        JClass("qupath.lib.images.servers.openslide.jna.OpenSlideLoader").tryToLoad()


def _remove(objects: Any, dropped: Sequence[Any]) -> None:
    """Removes objects from one of a hierarchy's sets; their children move up."""
    if dropped:
        objects -= dropped


def _add(hierarchy: Any, features: Sequence[Feature]) -> None:
    """Adds objects below the root, whatever lies around them."""
    from paquo.pathobjects import QuPathPathAnnotationObject, QuPathPathDetectionObject

    kinds = {
        "annotation": (hierarchy.annotations, QuPathPathAnnotationObject),
        "detection": (hierarchy.detections, QuPathPathDetectionObject),
    }
    for kind, (objects, made_as) in kinds.items():
        new = [made_as.from_geojson(dict(f)) for f in features if f["properties"]["objectType"] == kind]
        if new:
            objects.update(new)


def _path_class(made_as: Any, name: str, color: Color) -> Any:
    """QuPath's class of a full name, such as ``Tumor: Positive``; only the last part has the colour."""
    *above, last = name.split(": ")
    parent = None
    for part in above:
        parent = made_as(part, parent=parent)
    made = made_as(last, color=color, parent=parent)
    made.color = color  # of a class that it knows already, QuPath keeps the colour that it had
    return made
