"""What is known of the slides: annotations, and maps of the full truth."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.reports.evaluation_tables import numbered_classes, printable
from dmmn_qp.specs import UNLABELLED

VALUES_FILE = "classes.csv"
"""Table ``value,class`` beside maps of the full truth."""

TRUTH_SUFFIXES = (".png", ".tif", ".tiff")

MAX_TABLE_BYTES = 2**20

_HIGHEST_VALUE = 255


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the slides: a raster of each, the classes of its values, and how people call it."""

    name: str
    paths: Mapping[str, Path]
    classes: Mapping[int, str]
    classes_from: str
    origins: Mapping[str, Path]


def annotated_truth(dataset: Dataset, records: Sequence[SlideRecord]) -> Truth:
    """The masks of a dataset."""
    masks = {r.slide_id: dataset.mask_path(r.slide_id) for r in records}
    origins = {r.slide_id: path for r in records if (path := dataset.origin_path(r.slide_id)) is not None}
    return Truth("the dataset", masks, dict(enumerate(dataset.class_map.names, start=1)), "dataset", origins)


def full_truth(truth: Path, records: Sequence[SlideRecord], dataset: Dataset, warn: Callable[[str], None]) -> Truth:
    """The maps of the full truth, and the classes of their values.

    Raises:
        DatasetError: One is missing, or the table of their values cannot be understood.
    """
    maps = {r.slide_id: _truth_map(truth, r, len(records)) for r in records}
    table = (truth.parent if truth.is_file() else truth) / VALUES_FILE
    if table.is_file():
        return Truth("the full truth", maps, read_values(table), str(table), {})
    warn(
        f'no {VALUES_FILE} beside the maps of "{truth}" names their values; those of the dataset are assumed: '
        f"{numbered_classes(dataset.class_map)}"
    )
    return Truth("the full truth", maps, dict(enumerate(dataset.class_map.names, start=1)), "dataset", {})


def _truth_map(truth: Path, record: SlideRecord, n_slides: int) -> Path:
    if truth.is_file() and n_slides == 1:
        return truth
    for suffix in TRUTH_SUFFIXES:
        path = truth / f"{record.slide_id}{suffix}"
        if path.is_file():
            return path
    raise DatasetError(
        f'no truth map of slide "{record.slide_id}" in "{truth}"; it must be named {record.slide_id}.png'
    )


def read_values(path: Path) -> dict[int, str]:
    """Reads a table of the columns ``value`` (1 .. 255) and ``class``, with commas or semicolons, in UTF-8.

    Returns:
        The class of each value; several values may be of one class.

    Raises:
        DatasetError: It cannot be read, is not of this form, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TABLE_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise DatasetError(f'table "{path}" cannot be read ({reason}); save it as CSV in UTF-8') from error
    if len(data) > MAX_TABLE_BYTES:
        raise DatasetError(f'table "{path}" is longer than {MAX_TABLE_BYTES} bytes; keep the columns value and class')
    first = text.partition("\n")[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    values: dict[int, str] = {}
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        if header.count("value") != 1 or header.count("class") != 1:
            raise DatasetError(
                f'table "{path}" must begin with the line "value,class"; it begins "{printable(first[:60])}"'
            )
        for number, cells in enumerate(reader, start=2):
            if any(cell.strip() for cell in cells):
                _add_value(values, header, cells, f'table "{path}" row {number}')
    except csv.Error as error:
        raise DatasetError(f'table "{path}" is no CSV ({error}); save it again as CSV in UTF-8') from error
    if not values:
        raise DatasetError(f'table "{path}" names no value; write a row for each under the line "value,class"')
    return values


def _add_value(values: dict[int, str], header: Sequence[str], cells: Sequence[str], where: str) -> None:
    if len(cells) != len(header):
        raise DatasetError(
            f"{where} has {len(cells)} cells, but there are {len(header)} columns; put a name with separators into "
            "quotes"
        )
    text, name = (cells[header.index(column)].strip() for column in ("value", "class"))
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not UNLABELLED < value <= _HIGHEST_VALUE:
        raise DatasetError(
            f'{where}: value "{printable(text[:40])}" is no whole number from 1 to {_HIGHEST_VALUE} (0 does not count '
            "and needs no row)"
        )
    if not name:
        raise DatasetError(f"{where}: value {value} has no class; write its name, or leave the row out")
    if value in values:
        raise DatasetError(f'{where}: value {value} is "{printable(values[value])}" further up; keep one of them')
    values[value] = name
