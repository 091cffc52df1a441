"""The status in words: at most ten lines, and one command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmmn_qp.folders.round_figures import checked_rounds
from dmmn_qp.folders.rounds import LOOP_PAGE, loop_folder
from dmmn_qp.reports.loop_words import curve_word
from dmmn_qp.text import count_of, printable, shorten
from dmmn_qp.workflows.places import command

if TYPE_CHECKING:
    from dmmn_qp.workflows.status import WorkStatus

MOST_LINES: Final = 10
_MOST_NAMES: Final = 3
_PROJECT_TO_NAME: Final = "project.qpproj"


def lines_of(status: WorkStatus) -> list[str]:
    """The status for people; the last line has the next command."""
    parts = [
        ("annotated", _annotated(status)),
        ("trained", _trained(status)),
        ("predicted", _predicted(status)),
        ("reviewed", _reviewed(status)),
        ("curve", _curve(status)),
    ]
    problems = [("damaged", problem) for problem in status.problems]
    room = MOST_LINES - len(parts) - 1 - 1  # the source and the next command
    if len(problems) > room:
        problems = [*problems[: room - 1], ("damaged", f"and {len(problems) - room + 1} more")]
    source = ", ".join(map(str, status.sources)) or "none named"
    parts = [("source", source), *parts, *problems, ("next", next_command(status))]
    return [printable(f"{name:<9}  {text}") for name, text in parts]


def next_command(status: WorkStatus) -> str:
    """The one command to type next."""
    places, sources = status.places, status.sources or (Path(_PROJECT_TO_NAME),)
    if any(model.is_running for model in status.models):
        return command("status", *status.sources, dataset=places.given_dataset, predictions=places.given_predictions)
    if status.annotated.slides is None:
        again = status.annotated.problem is not None
        told = {"annotations": status.annotations, "out": places.given_dataset}
        return command("import", *sources, **told, overwrite=again)
    is_new = not status.annotated.changed and status.annotated.problem is None
    unfinished = [model for model in status.models if model.is_unfinished]
    if is_new and status.is_trained is not True and unfinished:
        return command("train", resume=True, out=unfinished[-1].folder)
    if is_new and status.model is None:
        return command("train", dataset=places.given_dataset)
    if is_new and status.is_trained is not False and not status.predicted.current and not status.predicted.stale:
        return command("predict", dataset=places.given_dataset, out=places.given_predictions)
    return command("round", *sources, dataset=places.given_dataset, predictions=places.given_predictions)


def _annotated(status: WorkStatus) -> str:
    found = status.annotated
    if found.slides is None:
        return found.problem or "no dataset yet"
    parts = [count_of(found.slides, "slide"), count_of(found.classes, "class", "classes")]
    if found.mm2 is not None:
        parts.append(f"{found.mm2:.2f} mm2")
    text = ", ".join(parts) + (f"; imported {_moment(found.imported)}" if found.imported else "")
    if found.problem is not None:
        return f"{text}; {found.problem}"
    if found.changed is None:
        return f"{text}; whether it changed since is not known"
    if not found.changed:
        return f"{text}; nothing changed since"
    return f"{text}; {count_of(len(found.changed), 'file')} changed since"


def _trained(status: WorkStatus) -> str:
    running = [m.name for m in status.models if m.is_running]
    unfinished = [m.name for m in status.models if m.is_unfinished and not m.is_running]
    rejected = [m.name for m in status.models if not m.accepted]
    lists = {"now in training": running, "unfinished": unfinished, "not accepted": rejected}
    extra = "".join(f"; {what}: {_names(names)}" for what, names in lists.items() if names)
    if status.model is None:
        return "no model yet" + extra
    model = status.model
    miou = "" if model.mean_iou is None else f", validation mIoU {model.mean_iou:.3f}"
    miou += f" (constant {model.constant_mean_iou:.3f})" if miou and model.constant_mean_iou is not None else ""
    news = {True: "", False: "; the dataset is newer", None: "; whether the dataset is newer is not known"}
    newer = news[status.is_trained] if status.annotated.slides is not None else ""
    return f"{shorten(model.name)} of {_moment(model.created)}{miou}{newer}{extra}"


def _predicted(status: WorkStatus) -> str:
    found = status.predicted
    if not found.current and not found.stale:
        return "nothing yet"
    parts = []
    if found.current:
        assert status.model is not None
        parts.append(f"{count_of(len(found.current), 'slide')} by {shorten(status.model.name)}")
    parts += [
        f"{count_of(len(slides), 'slide')} still by {shorten(name)}: {_names(slides)}"
        for name, slides in found.stale.items()
    ]
    if found.missing:
        parts.append(f"not predicted: {_names(found.missing)}")
    return "; ".join(parts)


def _reviewed(status: WorkStatus) -> str:
    found = status.reviewed
    if found is None or not found.confirmed + found.corrected + found.unchecked:
        return "no prediction in the project yet, or none saved and imported"
    return (
        f"{found.confirmed} confirmed, {found.corrected} corrected, {found.unchecked} left to check at the last import"
    )


def _curve(status: WorkStatus) -> str:
    points = checked_rounds(status.rounds)
    if not points:
        return "nothing checked yet"
    page = loop_folder(status.places.dataset) / LOOP_PAGE
    return f"{100 * (points[-1].share or 0):.1f} % right in {points[-1].name}, {curve_word(status.rounds)}: {page}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(shorten(name, 30) for name in names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _moment(iso: str) -> str:
    """A moment in UTC for people, to the minute."""
    return shorten(iso[:16].replace("T", " "), 16) + " UTC" if iso else "unknown date"
