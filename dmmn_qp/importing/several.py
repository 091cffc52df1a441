"""What is worth knowing of a dataset of several projects, and of slides that nothing is drawn on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.importing.joining import place_of, source_labels
from dmmn_qp.importing.opening import OpenedSlide
from dmmn_qp.importing.unannotated import WHAT_FOR
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.reports.review import NOTHING_TO_DO
from dmmn_qp.text import count_of, names_text, shorten

_LISTED: Final = 5


def with_earlier_names(opened: Sequence[OpenedSlide], records: Iterable[SlideRecord]) -> list[OpenedSlide]:
    """Slides of several projects with the names that they had before, where these are told apart by numbers alone.

    So predictions and the ledger stay those of their slides, whatever the order of the projects, and whatever else is
    annotated by now.

    Args:
        opened: The slides with the names that their order gives them.
        records: Slides of the dataset that is being replaced.
    """
    before = {(r.fingerprint, r.frame, _place(r.project)): r.slide_id for r in records}
    named = {id(slide): slide.slide_id for slide in opened}
    for group in _grouped((_stem_of(slide), slide) for slide in opened):
        free = [slide.slide_id for slide in group]
        known: dict[int, str] = {}
        for slide in group:
            project = slide.source.project
            key = (slide.fingerprint, slide.source.view.frame, _place(None if project is None else str(project)))
            name = before.get(key, before.get((*key[:2], None)))
            if name in free:
                known[id(slide)] = name
                free.remove(name)
        named |= {id(slide): known.get(id(slide)) or free.pop(0) for slide in group}
    return [replace(slide, slide_id=named[id(slide)]) for slide in opened]


def _place(project: str | None) -> Path | None:
    return None if project is None else place_of(Path(project))


def _stem_of(slide: OpenedSlide) -> str:
    """The name that a slide would have alone, however it is written."""
    return slide_ids([Path(slide.path).name])[0].casefold()


def findings_of_several(opened: Sequence[OpenedSlide]) -> Iterator[Finding]:
    """Says which slides of several projects have one name or show one file, and which have no annotations.

    Args:
        opened: The slides, in the order of their projects.
    """
    projects = list(dict.fromkeys(slide.source.project for slide in opened if slide.source.project is not None))
    labels = dict(zip(projects, source_labels(projects), strict=True))
    by_file = _grouped((slide.fingerprint, slide) for slide in opened)
    by_name = _grouped((_stem_of(slide), slide) for slide in opened)
    if by_name:
        yield Finding(
            severity="note",
            message=f"slides of one name in several projects are told apart: {_told_apart(by_name, labels)}",
            way_out=NOTHING_TO_DO,
        )
    if by_file:
        yield Finding(
            severity="warning",
            message=f"several projects annotate the same file: {_told_apart(by_file, labels)}; what they disagree on "
            "counts in both ways",
            way_out="see where with dmmn-qp compare, and leave the slide out of one project, unless that is meant",
        )
    bare = [slide.slide_id for slide in opened if not slide.source.objects.annotations]
    if bare:
        yield Finding(
            severity="note",
            message=f"{count_of(len(bare), 'slide')} for {WHAT_FOR} without annotations: {names_text(bare, _LISTED)}",
            way_out="nothing to do; only maps of the full truth judge them (dmmn-qp evaluate --truth)",
        )


def _grouped(keyed: Iterable[tuple[str, OpenedSlide]]) -> list[list[OpenedSlide]]:
    """The slides that have a key in common with one of another project."""
    groups: dict[str, list[OpenedSlide]] = {}
    for key, slide in keyed:
        groups.setdefault(key, []).append(slide)
    return [group for group in groups.values() if len({slide.source.project for slide in group}) > 1]


def _told_apart(groups: Sequence[Sequence[OpenedSlide]], labels: dict[Path, str]) -> str:
    names = [
        " and ".join(f"{shorten(s.slide_id)} ({labels[s.source.project]})" for s in group if s.source.project)
        for group in groups
    ]
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "; ".join(names[:_LISTED]) + more
