"""Slides for test that nothing is drawn on: maps of the full truth judge predictions of them (`evaluate --truth`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.importing.rules import SplitRules
from dmmn_qp.importing.source import FindSlides, Source, SourceSlide, Unannotated
from dmmn_qp.importing.splitting import split_rows
from dmmn_qp.labels.class_rules import folded
from dmmn_qp.labels.splits import split_of_word
from dmmn_qp.slides.names import SlideNames
from dmmn_qp.text import shorten

WHAT_FOR: Final[Split] = "test"
"""What slides without annotations may be for: nothing is learned from them, and nothing chosen by them."""


def with_test_slides(source: Source, rules: SplitRules) -> Source:
    """Adds to a source's slides those that are said to be for test although nothing is drawn on them.

    The image metadata say it, or the table of splits, whose word counts more. A name in the table that stands for an
    annotated slide is that slide's alone.

    Args:
        source: A source, with the slides that it leaves out for want of annotations.
        rules: Where the splits are said.

    Raises:
        DatasetError: The table cannot be read, or gives another split to such a slide.
    """
    if not source.unannotated:
        return source
    said = {i: split for i, slide in enumerate(source.unannotated) if (split := _in_metadata(slide.metadata, rules))}
    said |= _in_table(source, rules)
    chosen = [slide for i, slide in enumerate(source.unannotated) if said.get(i) == WHAT_FOR]
    predicted = list(source.only_predicted)
    for slide in chosen:
        if slide.review.left_out:
            predicted.remove(slide.review)
    return replace(
        source,
        slides=(*source.slides, *_found(chosen)),
        without_annotations=source.without_annotations - len(chosen),
        only_predicted=tuple(predicted),
        unannotated=tuple(slide for i, slide in enumerate(source.unannotated) if said.get(i) != WHAT_FOR),
    )


def _found(chosen: Iterable[Unannotated]) -> Iterable[SourceSlide]:
    """The slides with their files; those of one source are looked for together."""
    by_source: dict[FindSlides, list[Unannotated]] = {}
    for slide in chosen:
        by_source.setdefault(slide.find, []).append(slide)
    return [found for find, slides in by_source.items() for found in find(slides)]


def _in_metadata(metadata: Mapping[str, str], rules: SplitRules) -> Split | None:
    """The split that an image's metadata say; None where they say none, or none that can be read."""
    with suppress(DatasetError):
        found = {split_of_word(v, "") for key, v in metadata.items() if folded(key) == folded(rules.metadata_key)}
        return found.pop() if len(found) == 1 else None
    return None


def _in_table(source: Source, rules: SplitRules) -> dict[int, Split]:
    """The splits that the table gives to slides without annotations, by their number."""
    if rules.table is None:
        return {}
    annotated = SlideNames(slide.named() for slide in source.slides)
    others = SlideNames(slide.named() for slide in source.unannotated)
    rows = [row for row in split_rows(rules.table) if not annotated.called(row[1], row[0], DatasetError)]
    known = [row for row in rows if others.called(row[1], row[0], DatasetError)]
    for where, name, split in known:
        if split != WHAT_FOR:
            raise DatasetError(
                f'{where} gives slide "{shorten(name)}" to {split}, but nothing is drawn on it; annotate it, take '
                f"the row out, or give it to {WHAT_FOR}, where maps of the full truth do (dmmn-qp evaluate --truth)"
            )
    return others.values_by_slide(known, DatasetError)[0]
