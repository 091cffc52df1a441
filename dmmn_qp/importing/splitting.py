"""Which split each slide of an import belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.files.tables import TableForm, TableRow, read_table, shown
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.prepared import Prepared
from dmmn_qp.labels.patches import class_pixels
from dmmn_qp.labels.splits import case_of, draw_splits, split_of_word
from dmmn_qp.slides.names import NamedSlide, SlideNames
from dmmn_qp.specs import ClassMap

_SPLIT_FORM: Final = TableForm(("slide", "split"), ("slide", "split"), DatasetError, paths=("slide",))


def with_splits(
    prepared: Sequence[Prepared], class_map: ClassMap, options: ImportOptions, earlier: Mapping[str, Split]
) -> list[Prepared]:
    """Settles the split of every slide.

    From the split file, else the image metadata; where neither knows any slide, it is drawn, and slides of an earlier
    import of the same dataset keep theirs. A slide without a split among slides that have one is for training.

    Args:
        prepared: The slides.
        class_map: The classes.
        options: Resolved options.
        earlier: Splits of the dataset that is being replaced, by slide.

    Raises:
        DatasetError: A split is misspelt, or two slides of one case or file are in different splits.
    """
    key = options.split_key
    said = {
        item.record.slide_id: split_of_word(item.source.metadata[key], item.source.name)
        for item in prepared
        if key in item.source.metadata
    }
    said |= {item.record.slide_id: "train" for item in prepared if any(p.fixed for p in item.patches)}
    if options.split_file is not None:
        names = {i.record.slide_id: NamedSlide(i.source.path, (i.record.slide_id, i.source.name)) for i in prepared}
        said |= read_split_file(options.split_file, names)
    ids = [item.record.slide_id for item in prepared]
    first_of_file: dict[str, str] = {}  # a project may show one file several times: its pixels stay in one split
    for item in prepared:
        first_of_file.setdefault(item.record.fingerprint, item.record.slide_id)
    cases = {
        item.record.slide_id: case_of(first_of_file[item.record.fingerprint], options.case_pattern) for item in prepared
    }
    splits: dict[str, Split] = {slide_id: said.get(slide_id, "train") for slide_id in ids}
    if not said:
        pixels = {item.record.slide_id: class_pixels(item.patches, class_map) for item in prepared}
        kept = {slide_id: split for slide_id, split in earlier.items() if slide_id in cases}
        splits = draw_splits(pixels, options.seed, cases, kept)
    check_cases(splits, cases)

    def settled(item: Prepared) -> Prepared:
        split = splits[item.record.slide_id]
        return replace(
            item,
            record=item.record.model_copy(update={"split": split}),
            patches=tuple(p if p.fixed else replace(p, split=split) for p in item.patches),
        )

    return [settled(item) for item in prepared]


def read_split_file(path: Path, slides: Mapping[str, NamedSlide]) -> dict[str, Split]:
    """Splits from a table with the columns ``slide`` (its name, see `SlideNames`) and ``split``.

    Args:
        path: The table.
        slides: The names of the slides by their ids.

    Raises:
        DatasetError: The table cannot be read, contradicts itself, or names a slide that is not there.
    """
    rows = [(row.where, row.cells["slide"], _split_of(row)) for row in read_table(path, _SPLIT_FORM)]
    ids = list(slides)
    splits, unknown = SlideNames(slides.values()).said(rows, DatasetError)
    for where, name in unknown:
        raise DatasetError(
            f'{where} names slide "{shown(name)}", which is not annotated; the slides are {", ".join(ids)}'
        )
    return {ids[i]: split for i, split in splits.items()}


def _split_of(row: TableRow) -> Split:
    try:
        return split_of_word(shown(row.cells["split"]), shown(row.cells["slide"]))
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


def earlier_splits(out: Path) -> dict[str, Split]:
    """Splits of the dataset in ``out``, empty where there is none that can be read."""
    try:
        return {record.slide_id: record.split for record in Dataset(out).slides()}
    except DatasetError:
        return {}
