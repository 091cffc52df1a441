"""Puts predictions, or regions to look at, into a QuPath project. QuPath itself writes; `plan` decides what.

Of a project only objects of our own earlier runs are ever removed, and of these only what nobody has vouched for.
Before an image is written, its ``data.qpdata`` is copied; afterwards it is read again and its objects are counted and
compared. One that cannot be written to the end is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from dmmn_qp.console import Reporter
from dmmn_qp.engines import ENGINES, Failed
from dmmn_qp.errors import DmmnQpError, ProjectError, WorkerLostError
from dmmn_qp.files.failures import is_full_disk
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.pushing.backup import back_up, put_back
from dmmn_qp.pushing.features import read_features
from dmmn_qp.pushing.matching import match
from dmmn_qp.pushing.plan import Plan, difference, plan_of, plan_of_suggestions
from dmmn_qp.pushing.pushable import Pushable
from dmmn_qp.qupath.marks import is_locked
from dmmn_qp.qupath.paquo_reader import PaquoProject
from dmmn_qp.qupath.paquo_writer import PaquoWriter
from dmmn_qp.qupath.project import ProjectEntry, QuPathProject, read_project
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import count_of, shorten

WITHOUT_QUPATH: Final = (
    "; without QuPath here, copy the scripts into the project (dmmn-qp scripts install PROJECT) and run "
    "import_predictions.groovy in QuPath"
)


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
        doubtful: How many of ``corrected`` stay only because nobody can tell whether they were changed.
    """

    slide_id: str
    image_name: str
    removed: int
    locked: int
    untouched: int
    added: int
    corrected: int = 0
    cut: int = 0
    doubtful: int = 0


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
        predictions: Folder made by `predict`, `suggest` or `evaluate`; regions of the latter two replace regions alone.
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
        InUseError: Another push writes into the project.
        OSError: There is no room for the backup.
        ProjectError: No image or several images fit a prediction, QuPath is missing or fails, or what it has written
            is not what it should be; the image is then put back, or the message names the backup.
    """
    pushed = Pushable.of(predictions)
    files = {slide_id: file for slide_id, file in pushed.files.items() if slides is None or slide_id in slides}
    opened = read_project(project)
    matched = match(opened, files, pushed.inputs, reporter.warn, slides_roots)
    for slide_id in matched:  # every file is looked at before the first image is written
        read_features(files[slide_id])
    with pointing_to_scripts():
        writer = PaquoWriter(opened.path, qupath_dir)
    for entry in matched.values():
        writer.check_writable(entry.entry_id)
    del writer  # each image is written by a new one: it would keep the objects of all
    reporter.heading(f'Writing {pushed.what} of {count_of(len(matched), "slide")} into "{opened.path}"')
    with locked(opened.path, "a push", "wait until it has ended"):
        backup = back_up(opened, matched.values(), datetime.now())
        done: list[Pushed] = []
        with _saying(done, backup, reporter), reporter.task("images", len(matched)) as task:
            for slide_id, entry in matched.items():
                with _or_as_before(opened, entry, backup):
                    earlier = None if pushed.is_regions else pushed.originals.get(slide_id, ())
                    plan = _push_one(opened, entry, files[slide_id], earlier, qupath_dir, resolve=resolve)
                done.append(_pushed(plan, slide_id, entry))
                for problem in plan.problems:
                    reporter.warn_of(slide_id, problem)
                task.advance(note=slide_id)
    return done


@contextmanager
def _saying(done: Sequence[Pushed], backup: Path, reporter: Reporter) -> Iterator[None]:
    """Says at the end which images were written and what of each, also where an error at a later one ends the work."""
    try:
        with reporter.counting_warnings():
            try:
                yield
            finally:
                for pushed in done:
                    _say(pushed, reporter)
    finally:
        if done:
            reporter.say(f"  what the images were before is in {backup}")


def _say(pushed: Pushed, reporter: Reporter) -> None:
    reporter.say(
        f"  {pushed.slide_id}: {pushed.added} added, {pushed.removed} of earlier runs removed, {pushed.locked} locked "
        f"and {pushed.corrected} corrected ones kept, {pushed.untouched} others untouched"
        + (f"; {pushed.cut} of the new ones are cut by those that were kept" if pushed.cut else "")
    )
    if pushed.doubtful:
        reporter.warn_of(
            pushed.slide_id,
            f"{count_of(pushed.doubtful, 'prediction')} of earlier runs without measurements, so that nobody can tell "
            "which were changed; they are kept. Remove what you do not need with clear_predictions.groovy",
        )


@contextmanager
def _or_as_before(project: QuPathProject, entry: ProjectEntry, backup: Path) -> Iterator[None]:
    """Puts an image back where it is not written to the end.

    Raises:
        ProjectError: It is not, and the message says what it is now.
    """
    try:
        yield
    except BaseException as error:
        try:
            put_back(project, entry, backup)
            state = "the image is as it was before"
        except OSError:
            state = f'what the image was before is in "{backup}": copy it back into "{project.folder}"'
        if is_full_disk(error):
            raise ProjectError(
                f'image "{shorten(entry.image_name)}" of "{project.path}" cannot be written, no space is left on the '
                f"disk; {state}; free some space, and repeat the command"
            ) from error
        if isinstance(error, DmmnQpError):
            raise ProjectError(f"{error}; {state}") from error
        raise


def _push_one(
    project: QuPathProject,
    entry: ProjectEntry,
    file: Path,
    earlier: Sequence[Path] | None,
    qupath_dir: Path | None,
    *,
    resolve: bool,
) -> Plan:
    """Writes one image and compares what is there then with what was planned; of regions, ``earlier`` is None."""
    before, new = PaquoProject(project.path, qupath_dir).features(entry.entry_id), read_features(file)
    plan = plan_of_suggestions(before, new) if earlier is None else plan_of(before, new, earlier)
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
        doubtful=plan.doubtful,
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
    with pointing_to_scripts():
        in_own_process(_try_qupath, opened.path, [entry.entry_id for entry in matched.values()], qupath_dir)


def _try_qupath(project: Path, entry_ids: Sequence[str], qupath_dir: Path | None) -> None:
    writer = PaquoWriter(project, qupath_dir)
    for entry_id in entry_ids:
        writer.check_writable(entry_id)


def in_own_process(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function in a process that ends with it; its error is raised here.

    Raises:
        ProjectError: QuPath ended that process.
    """
    (outcome,) = ENGINES["processes"](partial(_called, function), [arguments], 1, lambda *_: None)
    if isinstance(outcome, Failed) and isinstance(outcome.error, WorkerLostError):
        raise ProjectError(f"QuPath ended the process in which it was tried ({outcome.error.how})")
    if isinstance(outcome, Failed):
        raise outcome.error


def _called(function: Callable[..., None], arguments: Sequence[Any], _: Callable[[int], None]) -> None:
    function(*arguments)


@contextmanager
def pointing_to_scripts() -> Iterator[None]:
    """Adds the way that needs no QuPath here to what is said when it is missing."""
    try:
        yield
    except ProjectError as error:
        raise ProjectError(f"{error}{WITHOUT_QUPATH}") from error
