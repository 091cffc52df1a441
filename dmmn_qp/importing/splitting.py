"""Which split each slide of an import belongs to."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.prepared import Prepared
from dmmn_qp.labels.patches import class_pixels
from dmmn_qp.labels.splits import case_of, draw_splits, split_of_word
from dmmn_qp.specs import ClassMap


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
        said |= read_split_file(options.split_file, [item.record.slide_id for item in prepared])
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


def read_split_file(path: Path, slide_ids: Sequence[str]) -> dict[str, Split]:
    """Splits from a CSV with the columns slide and split; a slide may be named with its ending.

    Raises:
        DatasetError: The file is missing, has other columns, or names a slide that is not there.
    """
    way_out = 'it needs a first line "slide,split" and a line a slide'
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            named = {row["slide"]: row["split"] for row in csv.DictReader(file)}
    except KeyError as error:
        raise DatasetError(f'split file "{path}" has no column {error}; {way_out}') from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f'split file "{path}" cannot be read ({reason}); {way_out}') from error
    if not named:
        raise DatasetError(f'split file "{path}" names no slide; {way_out}')
    splits: dict[str, Split] = {}
    for name, word in named.items():
        slide_id = name if name in slide_ids else Path(name).stem
        if slide_id not in slide_ids:
            raise DatasetError(
                f'split file "{path}" names slide "{name}", which is not annotated; the slides are '
                f"{', '.join(slide_ids)}"
            )
        splits[slide_id] = split_of_word(word or "", name)
    return splits


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
