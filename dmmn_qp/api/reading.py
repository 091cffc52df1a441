"""Reading projects, annotations and slides, and making a dataset of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from dmmn_qp.annotations import Annotation
from dmmn_qp.api.arguments import (
    AnyPath,
    DmmnQpWarning,
    QuietReporter,
    optional_path,
    parsed_slides_roots,
    paths_as_texts,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.paths import typed_place, user_path
from dmmn_qp.text import printable

if TYPE_CHECKING:
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.qupath.notes import ReadResult
    from dmmn_qp.qupath.project import ProjectEntry, QuPathProject
    from dmmn_qp.slides.base import Slide


def read_project(path: AnyPath) -> QuPathProject:
    """Reads a QuPath project: its images in ``entries`` and its list of classes, without Java.

    Args:
        path: The project's folder, or its ``.qpproj`` file.

    Raises:
        ProjectError: There is none, or it is damaged.
    """
    from dmmn_qp.qupath.project import read_project

    return read_project(user_path(path))


def read_annotations(image: ProjectEntry) -> list[Annotation]:
    """Reads every object of one image of a project, as it is in the file; a prediction is one like others.

    Args:
        image: One of the ``entries`` of `read_project`.

    Returns:
        All objects, parents before their children; outlines are shapely geometries in level-0 px, y down. Empty for
        an image of which nothing was ever saved.

    Raises:
        AnnotationFileError: The image's data are damaged, of an unsupported kind, or missing though objects were saved.
    """
    from dmmn_qp.qupath.qpdata import read_qpdata

    if not image.object_count and not image.data_path.is_file():
        return []
    return _with_warnings(read_qpdata(image.data_path), image.image_name)


def read_geojson(path: AnyPath) -> list[Annotation]:
    """Reads the objects of a GeoJSON file of QuPath or of `predict_slide`.

    Args:
        path: ``.geojson`` or ``.json``, the same with ``.gz``, or ``.zip`` of such files.

    Returns:
        All objects, parents before their children; outlines are shapely geometries in level-0 px, y down. What cannot
        be read is left out with a warning.

    Raises:
        AnnotationFileError: The file is missing or damaged as a whole.
    """
    from dmmn_qp.qupath.geojson_reader import read_geojson

    return _with_warnings(read_geojson(user_path(path)), user_path(path).name)


def open_slide(slide: AnyPath | ArrayLike, *, mpp: float | None = None) -> Slide:
    """Opens a slide, of a file or of pixels in memory; a context manager.

    Args:
        slide: The file, or (rows, columns, 3) uint8 RGB.
        mpp: um/px of the array, or of the file, whatever it says itself.

    Returns:
        The slide: ``info`` has its size and um/px, ``read_level(level, Region(x, y, width, height))`` its pixels.

    Raises:
        SlideError: It cannot be found or read, or the array is none of RGB bytes.
        PixelSizeError: The pixel size is unknown or implausible.
        ConfigError: An array comes without ``mpp``.
    """
    if isinstance(slide, str | PathLike):
        from dmmn_qp.slides import open_slide

        return open_slide(typed_place(slide), mpp=mpp)
    from dmmn_qp.slides.array_slide import ArraySlide

    if mpp is None:
        raise ConfigError("an array does not say the size of its pixels; pass mpp with its um/px, such as mpp=0.5")
    return ArraySlide(slide, mpp)


def import_annotations(
    source: AnyPath | Sequence[AnyPath],
    out: AnyPath = "dataset",
    *,
    annotations: AnyPath | None = None,
    slides_roots: AnyPath | Sequence[AnyPath] = (),
    overwrite: bool = False,
    reporter: Reporter | None = None,
    **options: Any,
) -> Dataset:
    """Makes a dataset of everything that is annotated, as ``dmmn-qp import`` does.

    Args:
        source: A QuPath project, or several for one dataset; or a slide, or a folder of slides.
        out: The dataset folder to write; ``report.html`` in it says what to mend, as a warning tells.
        annotations: Folder of GeoJSON files, for slides without a project.
        slides_roots: Where to look for slides that have been moved: folders, or ``OLD=NEW``.
        overwrite: Whether an existing dataset may be replaced.
        reporter: Where to report.
        options: Those of ``[import]`` in the configuration file, such as ``mpp=0.25`` or ``drop=("Artefact",)``.

    Returns:
        The dataset.

    Raises:
        DmmnQpError: Anything that can be mended; nothing is written then.
    """
    from dmmn_qp.cli.config import Arguments, ConfigFile, import_options
    from dmmn_qp.folders.dataset import Dataset
    from dmmn_qp.importing.stage import import_annotations

    import_annotations(
        [typed_place(path) for path in paths_as_texts(source)],
        user_path(out),
        import_options(ConfigFile(), Arguments("import_annotations", options)),
        reporter or QuietReporter(),
        annotations=optional_path(annotations),
        slides_roots=parsed_slides_roots(slides_roots),
        overwrite=overwrite,
    )
    return Dataset(user_path(out))


def _with_warnings(found: ReadResult, name: str) -> list[Annotation]:
    for line in found.warnings:
        warnings.warn(printable(f"{name}: {line}"), DmmnQpWarning, stacklevel=3)
    return list(found.annotations)
