"""A QuPath project made of predicted slides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from dmmn_qp.annotations import Color
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, OutputExistsError, ProjectError
from dmmn_qp.files.failures import is_full_disk
from dmmn_qp.files.renaming import clear_away, remove, remove_tree
from dmmn_qp.folders.predictions import PredictedInput, predicted_polygons, read_inputs, read_predictions
from dmmn_qp.pushing.features import read_features
from dmmn_qp.pushing.matching import file_name_of
from dmmn_qp.pushing.stage import pointing_to_scripts
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.paquo_writer import NewImage, create_project, start_to_write
from dmmn_qp.slides.files import has_fingerprint
from dmmn_qp.slides.finding import SlideFinder, SlidesRoot, Wanted, path_of_text
from dmmn_qp.text import count_of

# ---- a new project


def new_project(
    predictions: Path,
    folder: Path,
    reporter: Reporter,
    *,
    slides_roots: Sequence[SlidesRoot] = (),
    qupath_dir: Path | None = None,
) -> Path:
    """Makes a QuPath project of the slides of a folder of predictions, with the predictions in it.

    Args:
        predictions: Folder made by `predict`.
        folder: The project's folder, which must be empty or not yet there.
        reporter: Where to report.
        slides_roots: Folders to search for slides that have been moved.
        qupath_dir: QuPath's folder; see ``PaquoProject``.

    Returns:
        The ``.qpproj`` file.

    Raises:
        AnnotationFileError: There are no predictions, or it is not known what they were made from.
        OutputExistsError: The folder holds something.
        SlideError: Slides cannot be found.
        ProjectError: A slide was predicted in a frame that a new project cannot show, or QuPath is missing or fails.
    """
    existed = folder.exists()
    if existed and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputExistsError(f'project folder "{folder}" exists and is not empty; choose another one with --out')
    files = predicted_polygons(predictions)
    inputs = read_inputs(predictions)
    for slide_id, path in files.items():
        if slide_id not in inputs:
            raise AnnotationFileError(f'it is not known which slide "{path}" was made from; predict it again')
        if inputs[slide_id].frame:
            raise ProjectError(
                f'slide "{slide_id}" was predicted turned or cropped, as its QuPath project shows it; push it there: '
                "dmmn-qp push --into PROJECT"
            )
    places = _find_inputs({slide_id: inputs[slide_id] for slide_id in files}, slides_roots)
    images = [
        NewImage(places[slide_id], _size(inputs[slide_id]), partial(read_features, path))
        for slide_id, path in files.items()
    ]
    colors = colors_of(predictions, files)
    with pointing_to_scripts():
        start_to_write(qupath_dir)
    reporter.heading(f'Making a QuPath project of {count_of(len(images), "slide")} in "{folder}"')
    try:
        with reporter.task("images", len(images)) as task:
            return create_project(folder, images, colors, qupath_dir, lambda image: task.advance(note=image.path.name))
    except BaseException as error:
        for path in folder.iterdir() if existed else ():
            (remove_tree if path.is_dir() else remove)(path)
        if not existed:
            clear_away(folder)
        if is_full_disk(error):
            raise ProjectError(
                f'project "{folder}" cannot be written, no space is left on the disk; free some space, or choose '
                "another one with --out, and repeat the command"
            ) from error
        raise


def _find_inputs(inputs: Mapping[str, PredictedInput], slides_roots: Sequence[SlidesRoot]) -> dict[str, Path]:
    return SlideFinder(slides_roots).find(
        {
            slide_id: Wanted(
                file_name_of(known), path_of_text(known.path), accept=partial(has_fingerprint, wanted=known.fingerprint)
            )
            for slide_id, known in inputs.items()
        }
    )


def _size(known: PredictedInput) -> tuple[int, int] | None:
    return (known.width, known.height) if known.width and known.height else None


def colors_of(predictions: Path, files: Mapping[str, Path]) -> dict[str, Color]:
    """Classes in the order of their models, with the colours that their objects have.

    Args:
        predictions: Folder of predictions.
        files: Its polygons by slide.
    """
    found: dict[str, Color] = {}
    for path in files.values():
        for feature in read_features(path):
            for annotation in objects_of(feature, path.name).annotations:
                if annotation.class_name is not None and annotation.class_color is not None:
                    found.setdefault(annotation.class_name, annotation.class_color)
    records = read_predictions(predictions)
    maps = [record.class_map for slide_id in files if (record := records.get(slide_id)) and record.class_map]
    order = dict.fromkeys([*(name for class_map in maps for name in class_map.names), *found])
    return {name: found[name] for name in order if name in found}
