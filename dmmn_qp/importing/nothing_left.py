"""What to say to somebody of whose annotations nothing is left to train on: all that was found, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from dmmn_qp.annotations import Annotation, ObjectKind
from dmmn_qp.importing.source import Source
from dmmn_qp.labels.class_rules import STAR
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.reports.review import review_findings
from dmmn_qp.text import count_of, names_text, shorten

_LISTED: Final = 3
"""Most names, and most notes of the readers, that are said."""

_NOTHING: Final = "no annotated area with a class to train on"


def nothing_left(source: Source, targets: Mapping[str, str | None], reading: ReadRules) -> str:
    """The message, in one line.

    Args:
        source: What was read; no object of it is trained.
        targets: Name in the source -> name to train, or None for a class that is not trained.
        reading: What was read of it.
    """
    found = [*_not_trained(source, targets), *_of_other_kinds(source, reading)]
    found += [f"{f.message}: {f.way_out}" for f in review_findings(source.all_counts(), reading)]
    found += _notes(source)
    found += source.problems
    if not found:
        return f"{_NOTHING}; draw areas in QuPath, give them classes, and save (Ctrl+S)"
    return f"{_NOTHING}; found: {'; '.join(found)}"


def _not_trained(source: Source, targets: Mapping[str, str | None]) -> Iterator[str]:
    """Objects of the kinds asked for, by the first reason for which they label nothing."""
    unclassified: list[Annotation] = []
    shapeless = 0
    ignored, left_out, points, elsewhere = (Counter[str]() for _ in range(4))
    for slide in source.slides:
        for annotation in slide.objects.annotations:
            name = annotation.class_name
            if name is None and annotation.is_area:
                unclassified.append(annotation)
            elif name is None:
                shapeless += 1
            elif targets.get(name) is None:
                (ignored if name.endswith(STAR) else left_out)[name] += 1
            elif not slide.is_on_plane(annotation):
                elsewhere[name] += 1
            else:
                points[name] += 1
    if unclassified:
        names = Counter(a.name for a in unclassified if a.name)
        called = f" (named {_listed(names)}, but a name is no class)" if names else ""
        yield f"{count_of(len(unclassified), 'annotation')} without a class{called}: set it in QuPath, and save"
    if shapeless:
        yield f"{count_of(shapeless, 'line or point', 'lines or points')} without a class: draw areas"
    for counts, what, way_out in (
        (ignored, "of classes that QuPath ignores", "give them classes without *"),
        (left_out, "of classes left out on your word", "leave out fewer with --drop, --region-class or --split-areas"),
        (elsewhere, "on another plane", "choose it with --plane"),
        (points, "without an area", "draw areas"),
    ):
        if counts:
            yield f"{count_of(counts.total(), 'annotation')} {what} ({_listed(counts)}): {way_out}"


def _of_other_kinds(source: Source, reading: ReadRules) -> Iterator[str]:
    """Objects that were left out because of their kind."""
    others = sum((Counter(slide.other_kinds) for slide in source.slides), Counter(source.other_kinds))
    by_kind: dict[ObjectKind, Counter[str]] = {}
    for (kind, name), n in others.items():
        if name is not None:
            by_kind.setdefault(kind, Counter())[name] += n
    for kind, classes in by_kind.items():
        kinds = ",".join((*reading.kinds, kind))
        yield f"{count_of(classes.total(), 'object')} of kind {kind} with a class ({_listed(classes)}): --kinds {kinds}"
    unclassified = sum(n for (_, name), n in others.items() if name is None)
    if unclassified:
        yield f"{count_of(unclassified, 'object')} of other kinds without a class"
    if source.unread_objects:
        yield (
            f"{count_of(source.unread_objects, 'object')} of other kinds on images without annotations: name their "
            "kinds with --kinds"
        )


def _notes(source: Source) -> list[str]:
    """The first notes of the readers, and how many others there are."""
    notes = [
        *source.warnings,
        *(f"{shorten(slide.name)}: {note}" for slide in source.slides for note in slide.objects.warnings),
    ]
    more = [f"{len(notes) - _LISTED} more notes of the reader"] if len(notes) > _LISTED else []
    return notes[:_LISTED] + more


def _listed(names: Iterable[str]) -> str:
    return names_text(list(dict.fromkeys(names)), _LISTED)
