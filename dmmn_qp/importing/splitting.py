"""Which split each slide of an import belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.choices import SPLITS, Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.files.tables import TableForm, TableRow, read_table
from dmmn_qp.importing.earlier import Earlier, moved_findings
from dmmn_qp.importing.opening import LeftOutSlide
from dmmn_qp.importing.prepared import Prepared
from dmmn_qp.importing.rules import SplitRules
from dmmn_qp.importing.source import SourceSlide
from dmmn_qp.labels.class_rules import folded
from dmmn_qp.labels.patches import class_pixels
from dmmn_qp.labels.random_splits import choose_splits
from dmmn_qp.labels.splits import case_of, split_of_word
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import count_of, names_text, shorten

_LISTED: Final = 5
"""Most slides that a message names."""

_SPLIT_FORM: Final = TableForm(("slide", "split"), ("slide", "split"), DatasetError, paths=("slide",))


def with_splits(
    prepared: Sequence[Prepared],
    class_map: ClassMap,
    rules: SplitRules,
    earlier: Earlier,
    left_out: Sequence[LeftOutSlide] = (),
) -> tuple[list[Prepared], list[Finding]]:
    """Settles the split of every slide.

    From the split file, else the image metadata; where neither knows any slide, it is chosen at random, and slides of
    an earlier import of the same dataset keep theirs. So does a slide without a split among slides that have one; a new
    one is for training. What a person says wins, but a slide that was held back and is for training now is warned of.

    Args:
        prepared: The slides.
        class_map: The classes.
        rules: Where the splits are said, and how they are drawn where nobody says any.
        earlier: The dataset that is being replaced.
        left_out: Slides that tables may name although they are not imported.

    Returns:
        The slides with their splits, and what is worth knowing of where these come from.

    Raises:
        DatasetError: A split is misspelt or contradicts itself, or two slides of one case or file are in different
            splits.
    """
    if not prepared:
        return [], []
    known, notes = _splits_in_metadata([item.source for item in prepared], rules.metadata_key)
    splits = {prepared[i].record.slide_id: split for i, split in known.items()}
    splits |= {item.record.slide_id: "train" for item in prepared if any(p.fixed for p in item.patches)}
    if rules.table is not None:
        sources = [(item.record.slide_id, item.source) for item in prepared]
        sources += [(slide.slide_id, slide.source) for slide in left_out]
        names = {slide_id: NamedSlide(source.path, (slide_id, source.name)) for slide_id, source in sources}
        known_ids = {item.record.slide_id for item in prepared}
        splits |= {i: split for i, split in read_split_file(rules.table, names).items() if i in known_ids}
    first_of_file: dict[str, str] = {}  # a project may show one file several times: its pixels stay in one split
    for item in prepared:
        first_of_file.setdefault(item.record.fingerprint, item.record.slide_id)
    cases = {
        item.record.slide_id: case_of(first_of_file[item.record.fingerprint], rules.case_pattern) for item in prepared
    }
    before = {item.record.slide_id: split for item in prepared if (split := earlier.split_of(item.record)) is not None}
    if rules.all_for is not None:
        splits, notes = dict.fromkeys(cases, rules.all_for), []
    drawn_on = {item.record.slide_id for item in prepared if item.source.objects.annotations}
    if not splits.keys() & drawn_on:
        pixels = {item.record.slide_id: class_pixels(item.patches, class_map) for item in prepared}
        chosen = choose_splits(pixels, rules.seed, cases, {**before, **splits})
        kept = {i: split for i, split in before.items() if i not in splits}
        notes += _drawn_by_lot({i: split for i, split in chosen.items() if i not in splits}, kept, rules)
        splits = chosen
    elif len(splits) < len(prepared):
        said = {cases[slide_id] for slide_id in splits}
        kept = {i: split for i, split in before.items() if i not in splits and cases[i] not in said}
        notes += _without_split([slide_id for slide_id in cases if slide_id not in splits], kept)
        splits |= kept
    splits = {slide_id: splits.get(slide_id, "train") for slide_id in cases}
    check_cases(splits, cases)
    settled = [_settled(item, splits[item.record.slide_id], cases[item.record.slide_id]) for item in prepared]
    return settled, [*notes, *moved_findings(settled, earlier)]


def _settled(item: Prepared, split: Split, case: str) -> Prepared:
    return replace(
        item,
        record=item.record.model_copy(update={"split": split, "case": case}),
        patches=tuple(p if p.fixed else replace(p, split=split) for p in item.patches),
    )


def _splits_in_metadata(slides: Sequence[SourceSlide], key: str) -> tuple[dict[int, Split], list[Finding]]:
    """The split that the metadata of each image say, by the number of the slide, and which keys were read as meant.

    Raises:
        DatasetError: A split is misspelt, or keys that differ only in case or blanks contradict each other.
    """
    splits: dict[int, Split] = {}
    near: dict[str, int] = {}
    for number, slide in enumerate(slides):
        found = {k: split_of_word(v, slide.name) for k, v in slide.metadata.items() if folded(k) == folded(key)}
        if len(set(found.values())) > 1:
            raise DatasetError(
                f'slide "{slide.name}" has contradicting image metadata: '
                f"{', '.join(f'{shorten(k)} = {split}' for k, split in found.items())}; keep one of them in QuPath"
            )
        if found:
            splits[number] = next(iter(found.values()))
        if found and key not in found:
            near[next(iter(found))] = near.get(next(iter(found)), 0) + 1
    notes = [
        Finding(
            severity="note",
            concerns="training",
            message=f'image metadata "{shorten(other.strip())}" of {count_of(n, "slide")} are read as "{key}"',
            way_out="nothing to do, if that is meant; else pass another --split-key",
        )
        for other, n in near.items()
    ]
    return splits, notes


def _drawn_by_lot(splits: Mapping[str, Split], kept: Mapping[str, Split], rules: SplitRules) -> Iterator[Finding]:
    """Says which slides are for what because of a lot, and which because of an earlier one."""
    by_lot = [slide_id for slide_id in splits if slide_id not in kept]
    if len(splits) < 2:
        return
    way_out = (
        f"where that is not meant, give images the metadata {rules.metadata_key} = train, val or test in QuPath, or "
        "pass --split-file"
    )
    if by_lot:
        lists = [f"{split}: {_listed([i for i in by_lot if splits[i] == split])}" for split in SPLITS]
        yield Finding(
            severity="note",
            concerns="training",
            message="nobody says which slides are for what, so it was chosen at random, with regard to the area of "
            f"each class (seed {rules.seed}); {'; '.join(lists)}",
            way_out=way_out,
        )
    if kept:
        keep = "keeps its" if len(kept) == 1 else "keep their"
        yield Finding(
            severity="note",
            concerns="training",
            message=f"{count_of(len(kept), 'slide')} of the earlier dataset {keep} split",
            way_out=f"nothing to do, or remove that dataset to choose again; {way_out}",
        )


def _without_split(slide_ids: Sequence[str], kept: Mapping[str, Split]) -> Iterator[Finding]:
    """Says what becomes of slides of which nobody says it, among others of which somebody does."""
    new = [slide_id for slide_id in slide_ids if slide_id not in kept]
    for names, what in ((new, "for training"), (list(kept), "with the split of the earlier dataset")):
        if names:
            yield Finding(
                severity="note",
                concerns="training",
                message=f"{count_of(len(names), 'slide')} without a split among slides that have one, {what}: "
                f"{_listed(names)}",
                way_out="nothing to do, if that is meant",
            )


def _listed(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    return names_text(names, _LISTED) or "none"


def read_split_file(path: Path, slides: Mapping[str, NamedSlide]) -> dict[str, Split]:
    """Splits from a table with the columns ``slide`` (its name, see `SlideNames`) and ``split``.

    Args:
        path: The table.
        slides: The names of the slides by their ids.

    Raises:
        DatasetError: The table cannot be read, contradicts itself, or names a slide that is not there.
    """
    ids = list(slides)
    splits, unknown = SlideNames(slides.values()).values_by_slide(split_rows(path), DatasetError)
    for where, name in unknown:
        raise DatasetError(
            f'{where} names slide "{shorten(name)}", which is not annotated; the slides are {", ".join(ids)}'
        )
    return {ids[i]: split for i, split in splits.items()}


def split_rows(path: Path) -> list[tuple[str, str, Split]]:
    """Where each row of a table of splits stands, its slide and its split.

    Raises:
        DatasetError: The table cannot be read, or a split is misspelt.
    """
    return [(row.where, row.cells["slide"], _split_of(row)) for row in read_table(path, _SPLIT_FORM)]


def _split_of(row: TableRow) -> Split:
    try:
        return split_of_word(shorten(row.cells["split"]), shorten(row.cells["slide"]))
    except DatasetError as error:
        raise DatasetError(f"{row.where}: {error}") from None


def check_cases(splits: Mapping[str, Split], cases: Mapping[str, str]) -> None:
    """Refuses splits that divide a case.

    Raises:
        DatasetError: Two slides of one case are in different splits.
    """
    first: dict[str, str] = {}
    for slide_id, case in cases.items():
        other = first.setdefault(case, slide_id)
        if splits[other] != splits[slide_id]:
            raise DatasetError(
                f'slides "{other}" ({splits[other]}) and "{slide_id}" ({splits[slide_id]}) are both of case "{case}", '
                "or show one and the same file; give them the same split"
            )
