"""Puts predictions into a QuPath project, or makes one of them. QuPath itself writes; `push_plan` decides what.

Of a project only objects of our own earlier runs are ever removed, and of these only what nobody has vouched for.
Before an image is written, its ``data.qpdata`` is copied; afterwards it is read again and its objects are counted and
compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePath
from typing import Any, Final
from uuid import UUID

from dmmn_qp.annotations import Color
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, OutputExistsError, ProjectError
from dmmn_qp.folders.predictions import PredictedInput, polygon_files, predicted_polygons, read_inputs
from dmmn_qp.importing.sources import project_slide_ids, slide_ids
from dmmn_qp.pushing.plan import KINDS, Plan, difference, kind_of, plan_of
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.marks import METADATA_KEY, is_locked, is_ours
from dmmn_qp.qupath.notes import open_bytes, parse_uuid, shorten
from dmmn_qp.qupath.packed_json import FileContentError, NotStreamableError, open_text, stream_features
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.paquo_writer import NewImage, PaquoWriter, create_project, start_to_write
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, find_each_slide, read_project
from dmmn_qp.slides import fingerprint, is_slide_folder
from dmmn_qp.slides.finding import SlideFinder, SlidesRoot, Wanted, path_of_text

BACKUP_FOLDER: Final = "dmmn_qp_backup"
"""In the project's folder: ``<time>/data/<entry>/`` with what an image was before it was written."""

WITHOUT_QUPATH: Final = (
    "; without QuPath here, copy the scripts into the project (dmmn-qp scripts install PROJECT) and run "
    "import_predictions.groovy in QuPath"
)

_SAVED_FILES: Final = ("data.qpdata", "summary.json")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was done to one image.

    Attributes:
        slide_id: The prediction's slide.
        image_name: The image's name in QuPath.
        removed: Number of objects of our earlier runs that were removed.
        locked: Number of such objects that are locked and stay.
        untouched: Number of objects that are not ours.
        added: Number of objects added.
        corrected: Number of objects of earlier runs that are not locked, but were changed and so stay.
        cut: How many of ``added`` were cut by such as stay.
    """

    slide_id: str
    image_name: str
    removed: int
    locked: int
    untouched: int
    added: int
    corrected: int = 0
    cut: int = 0


def push(
    predictions: Path,
    project: Path,
    reporter: Reporter,
    *,
    slides: Sequence[str] | None = None,
    slides_roots: Sequence[SlidesRoot] = (),
    qupath_dir: Path | None = None,
    resolve: bool = False,
) -> list[Pushed]:
    """Puts the predictions of a folder into the images of a project that they belong to.

    Args:
        predictions: Folder made by `predict`.
        project: ``project.qpproj`` or its folder.
        reporter: Where to report.
        slides: Ids of the slides to push; None for all of the folder.
        slides_roots: Folders to search for slides that have been moved.
        qupath_dir: QuPath's folder; see ``PaquoProject``.
        resolve: Whether objects become children of those they lie in.

    Returns:
        What was done, in the order of the slides.

    Raises:
        AnnotationFileError: There are no predictions, or a file of them is damaged or not ours.
        ProjectError: No image or several images fit a prediction, QuPath is missing or fails, or what it has written
            is not what it should be; the message then names the backup.
    """
    files = predicted_polygons(predictions)
    files = {slide_id: file for slide_id, file in files.items() if slides is None or slide_id in slides}
    opened = read_project(project)
    matched = match(opened, files, read_inputs(predictions), reporter.warn, slides_roots)
    for slide_id in matched:  # every file is looked at before the first image is written
        read_features(files[slide_id])
    with _pointing_to_scripts():
        writer = PaquoWriter(opened.path, qupath_dir)
    for entry in matched.values():
        writer.check_writable(entry.entry_id)
    del writer  # each image is written by a new one: it would keep the objects of all
    reporter.heading(f'Writing predictions of {len(matched)} slides into "{opened.path}"')
    backup, originals = back_up(opened, matched.values(), datetime.now()), polygon_files(predictions)
    done: list[Pushed] = []
    with reporter.task("images", len(matched)) as task:
        for slide_id, entry in matched.items():
            try:
                plan = _push_one(opened, entry, files[slide_id], originals[slide_id], qupath_dir, resolve=resolve)
            except ProjectError as error:
                raise ProjectError(
                    f'{error}; what it was before is in "{backup}": copy it back into "{opened.folder}"'
                ) from error
            done.append(_pushed(plan, slide_id, entry))
            task.advance(note=slide_id)
    for p in done:
        reporter.say(
            f"  {p.slide_id}: {p.added} added, {p.removed} of earlier runs removed, {p.locked} locked and "
            f"{p.corrected} corrected ones kept, {p.untouched} others untouched"
            + (f"; {p.cut} of the new ones are cut by those that were kept" if p.cut else "")
        )
    reporter.say(f"  what the images were before is in {backup}")
    return done


def _push_one(
    project: QuPathProject,
    entry: ProjectEntry,
    file: Path,
    earlier: Sequence[Path],
    qupath_dir: Path | None,
    *,
    resolve: bool,
) -> Plan:
    """Writes one image and compares what is there then with what was planned."""
    plan = plan_of(PaquoProject(project.path, qupath_dir).features(entry.entry_id), read_features(file), earlier)
    PaquoWriter(project.path, qupath_dir).replace(entry.entry_id, plan.added, plan.drops, resolve=resolve)
    problem = difference(plan, PaquoProject(project.path, qupath_dir).features(entry.entry_id))
    if problem is not None:
        raise ProjectError(f'image "{shorten(entry.image_name)}" is not as it should be after writing: {problem}')
    return plan


def _pushed(plan: Plan, slide_id: str, entry: ProjectEntry) -> Pushed:
    """The plan in numbers, when it is done."""
    locked = sum(map(is_locked, plan.reviewed))
    return Pushed(
        slide_id=slide_id,
        image_name=entry.image_name,
        removed=len(plan.before) - len(plan.kept),
        locked=locked,
        untouched=len(plan.kept) - len(plan.reviewed),
        added=len(plan.added),
        corrected=len(plan.reviewed) - locked,
        cut=plan.cut,
    )


def check_push(
    project: Path,
    inputs: Mapping[str, PredictedInput],
    slides_roots: Sequence[SlidesRoot] = (),
    qupath_dir: Path | None = None,
) -> None:
    """Makes sure, before slides are predicted, that their predictions can be pushed.

    QuPath is tried in a process of its own, because its Java would take over signals and memory.

    Args:
        project: ``project.qpproj`` or its folder.
        inputs: The slides, by id.
        slides_roots: Folders to search for slides that have been moved.
        qupath_dir: QuPath's folder; see ``PaquoProject``.

    Raises:
        ProjectError: One of the slides has no image in the project, or QuPath cannot write it.
    """
    opened = read_project(project)
    unmatched: list[str] = []
    matched = match(opened, list(inputs), inputs, unmatched.append, slides_roots)
    if unmatched:
        raise ProjectError(f"{unmatched[0]}; predict it without --into, or add it to the project")
    with _pointing_to_scripts():
        in_own_process(_try_qupath, opened.path, [entry.entry_id for entry in matched.values()], qupath_dir)


def _try_qupath(project: Path, entry_ids: Sequence[str], qupath_dir: Path | None) -> None:
    writer = PaquoWriter(project, qupath_dir)
    for entry_id in entry_ids:
        writer.check_writable(entry_id)


def in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process that ends with it; its error is raised here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(function, *arguments).result()


@contextmanager
def _pointing_to_scripts() -> Iterator[None]:
    """Adds the way that needs no QuPath here to what is said when it is missing."""
    try:
        yield
    except ProjectError as error:
        raise ProjectError(f"{error}{WITHOUT_QUPATH}") from error


# ---- which image


def match(
    project: QuPathProject,
    slides: Iterable[str],
    inputs: Mapping[str, PredictedInput],
    warn: Callable[[str], object],
    slides_roots: Sequence[SlidesRoot] = (),
) -> dict[str, ProjectEntry]:
    """Finds the image of each prediction.

    Names decide, as `import` gives them to a project's images. Where it is known what was predicted, the file and its
    frame must agree too, and tell images of one name apart.

    Args:
        project: The project.
        slides: Ids of the predicted slides.
        inputs: What each was made from, as far as it is known.
        warn: Called with a line for each slide that has no image.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        ProjectError: No slide has an image, an image is another one than was predicted, or several fit.
    """
    places = find_each_slide(project, project.entries, slides_roots)
    paths = {entry_id: place for entry_id, place in places.items() if isinstance(place, Path)}
    names = project_slide_ids(project.entries, paths)
    matched: dict[str, ProjectEntry] = {}
    missing: list[str] = []
    for slide_id in slides:
        known = inputs.get(slide_id)
        named = [e for e in project.entries if _is_named(e, slide_id, known, names[e.entry_id])]
        reasons = {e.entry_id: _not_the_same(e, known, paths.get(e.entry_id)) for e in named}
        fitting = [e for e in named if reasons[e.entry_id] is None]
        exact = [e for e in fitting if names[e.entry_id] == slide_id]
        chosen = exact if len(fitting) > 1 and len(exact) == 1 and known is None else fitting
        if not named:
            missing.append(f'no image of "{project.path}" is slide "{slide_id}"')
        elif not chosen:
            raise ProjectError(
                f'image "{shorten(named[0].image_name)}" has the name of the predicted slide "{slide_id}", but '
                f"{reasons[named[0].entry_id]}; predict the image itself: import the project and predict its slides"
            )
        elif len(chosen) > 1:
            shown = " and ".join(f'"{shorten(e.image_name)}" (entry {e.entry_id})' for e in chosen[:2])
            raise ProjectError(
                f'prediction "{slide_id}" fits several images of "{project.path}": {shown}; remove one of them from '
                "the project, or import its predictions with import_predictions.groovy"
            )
        elif chosen[0] in matched.values():
            other = next(name for name, entry in matched.items() if entry == chosen[0])
            raise ProjectError(
                f'predictions "{other}" and "{slide_id}" are both of image "{shorten(chosen[0].image_name)}"; keep one '
                "of them in the folder"
            )
        else:
            matched[slide_id] = chosen[0]
    if not matched:
        raise ProjectError(
            f"{missing[0]}{f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''}; "
            f"its slides are {', '.join(shorten(name) for name in names.values()) or 'none'}"
        )
    for line in missing:
        warn(line)
    return matched


def _is_named(entry: ProjectEntry, slide_id: str, known: PredictedInput | None, name: str) -> bool:
    """Whether an image's name is that of a slide: as imported, or of a file that was predicted by its path."""
    stem = PurePath(entry.slide_name).stem
    if slide_id in (name, stem, slide_ids([entry.slide_name])[0]):
        return True
    folder = entry.slide_path.parent.name if entry.slide_path is not None else ""
    return known is not None and _file_name(known) in (entry.slide_name, folder)


def _file_name(known: PredictedInput) -> str:
    return (path_of_text(known.path) or PurePath(known.path)).name


def _not_the_same(entry: ProjectEntry, known: PredictedInput | None, path: Path | None) -> str | None:
    """Why an image is not the one that was predicted; None where it is, or nothing speaks against it."""
    if entry.unsupported_server is not None:
        return f"it cannot be related to a file: {entry.unsupported_server}"
    if known is None:
        return None
    if path is not None and not _is_file_of(path, known):
        return "its file is another one (the content differs)"
    if entry.frame != known.frame:
        return "it is turned or cropped in another way than what was predicted"
    size = (entry.width, entry.height)
    if None not in (*size, known.width, known.height) and size != (known.width, known.height):
        return f"it has {size[0]} x {size[1]} px, and what was predicted {known.width} x {known.height} px"
    if None in (known.width, *size) and entry.crop_to_bounds != known.crop_to_bounds:
        return "only one of them is cropped to the scanned bounds"
    return None


def _is_file_of(path: Path, known: PredictedInput) -> bool:
    """Whether a file is what was predicted, or one of the files of a predicted folder."""
    if fingerprint(path) == known.fingerprint:
        return True
    return is_slide_folder(path.parent) and fingerprint(path.parent) == known.fingerprint


# ---- files


def read_features(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of predictions, as GeoJSON.

    Raises:
        AnnotationFileError: It is damaged, or holds objects that are not ours, which no later push could replace.
    """
    what = "file of predictions"
    try:
        with open_bytes(path, what, "predict again") as file:
            features = list(stream_features(open_text(file, path.stat().st_size)))
    except (FileContentError, NotStreamableError) as error:
        raise AnnotationFileError(f'{what} "{path}" is damaged or no FeatureCollection; predict again') from error
    ids: set[UUID] = set()
    for number, feature in enumerate(features, start=1):
        object_id = parse_uuid(feature.get("id")) if isinstance(feature, dict) else None
        if not isinstance(feature, dict) or object_id is None or object_id in ids or not is_ours(feature):
            raise AnnotationFileError(
                f'"{path}" is no prediction of ours: feature {number} has no id of its own, or not the mark '
                f'"{METADATA_KEY}"; push only what dmmn-qp predict wrote'
            )
        if kind_of(feature) not in KINDS:
            raise AnnotationFileError(
                f'"{path}": feature {number} is neither an annotation nor a detection; predict again'
            )
        feature.setdefault("properties", {}).setdefault("objectType", "annotation")
        ids.add(object_id)
    return [feature for feature in features if isinstance(feature, dict)]


def back_up(project: QuPathProject, entries: Iterable[ProjectEntry], moment: datetime) -> Path:
    """Copies the data of images; nothing of an earlier backup is touched.

    Args:
        project: The project.
        entries: Its images that are to be written.
        moment: Names the backup.

    Returns:
        A new folder, laid out as the project's: to go back, copy its content there.
    """
    name, n = moment.strftime("%Y-%m-%d_%H-%M-%S"), 1
    folder = project.folder / BACKUP_FOLDER / name
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            n += 1
            folder = project.folder / BACKUP_FOLDER / f"{name}-{n}"
    for entry in entries:
        for file in _SAVED_FILES:
            source = entry.data_path.with_name(file)
            if source.is_file():
                target = folder / source.relative_to(project.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    return folder


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
    colors = colors_of(files.values())
    with _pointing_to_scripts():
        start_to_write(qupath_dir)
    reporter.heading(f'Making a QuPath project of {len(images)} slides in "{folder}"')
    try:
        with reporter.task("images", len(images)) as task:
            return create_project(folder, images, colors, qupath_dir, lambda image: task.advance(note=image.path.name))
    except BaseException:
        for path in folder.iterdir() if existed else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _find_inputs(inputs: Mapping[str, PredictedInput], slides_roots: Sequence[SlidesRoot]) -> dict[str, Path]:
    def is_it(known: PredictedInput, path: Path) -> bool:
        try:
            return fingerprint(path) == known.fingerprint
        except OSError:
            return False

    return SlideFinder(slides_roots).find(
        {
            slide_id: Wanted(_file_name(known), path_of_text(known.path), accept=partial(is_it, known))
            for slide_id, known in inputs.items()
        }
    )


def _size(known: PredictedInput) -> tuple[int, int] | None:
    return (known.width, known.height) if known.width and known.height else None


def colors_of(files: Iterable[Path]) -> dict[str, Color]:
    """Colours of the classes in some files of predictions, in order of appearance."""
    colors: dict[str, Color] = {}
    for path in files:
        for feature in read_features(path):
            for annotation in objects_of(feature, path.name).annotations:
                if annotation.class_name is not None and annotation.class_color is not None:
                    colors.setdefault(annotation.class_name, annotation.class_color)
    return colors
