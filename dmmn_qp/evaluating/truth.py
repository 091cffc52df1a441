"""What is known of the slides: annotations, and maps of the full truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dmmn_qp.errors import DatasetError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.files.tables import TableForm, read_table
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.reports.evaluation_tables import numbered_classes
from dmmn_qp.slides.finding import path_of_text
from dmmn_qp.slides.names import NamedSlide, SlideNames, files_by_name
from dmmn_qp.specs import UNLABELLED
from dmmn_qp.text import shorten

VALUES_FILE = "classes.csv"
"""Table ``value,class`` beside maps of the full truth."""

TRUTH_SUFFIXES = (".png", ".tif", ".tiff")

_HIGHEST_VALUE = 255

_FORM = TableForm(("value", "class"), ("value", "class"), DatasetError)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the slides: a raster of each, the classes of its values, and how people call it."""

    name: str
    paths: Mapping[str, Path]
    classes: Mapping[int, str]
    classes_from: str
    origins: Mapping[str, Path]


def annotated_truth(dataset: Dataset, records: Sequence[SlideRecord]) -> Truth:
    """Takes the masks of a dataset."""
    masks = {r.slide_id: dataset.mask_path(r.slide_id) for r in records}
    origins = {r.slide_id: path for r in records if (path := dataset.origin_path(r.slide_id)) is not None}
    return Truth("the dataset", masks, dict(enumerate(dataset.class_map.names, start=1)), "dataset", origins)


def full_truth(truth: Path, records: Sequence[SlideRecord], dataset: Dataset, warn: Callable[[str], None]) -> Truth:
    """Finds the maps of the full truth, and the classes of their values.

    Raises:
        DatasetError: One is missing, or the table of their values cannot be understood.
    """
    maps = _truth_maps(truth, records, dataset)
    table = (truth.parent if truth.is_file() else truth) / VALUES_FILE
    if table.is_file():
        return Truth("the full truth", maps, read_values(table), str(table), {})
    warn(
        f'no {VALUES_FILE} beside the maps of "{truth}" names their values; those of the dataset are assumed: '
        f"{numbered_classes(dataset.class_map)}"
    )
    return Truth("the full truth", maps, dict(enumerate(dataset.class_map.names, start=1)), "dataset", {})


def _truth_maps(truth: Path, records: Sequence[SlideRecord], dataset: Dataset) -> dict[str, Path]:
    """Finds the map of each slide, by the slide's name in file names.

    Raises:
        DatasetError: One is missing, or its name stands for several slides of the dataset.
    """
    if truth.is_file() and len(records) == 1:
        return {records[0].slide_id: truth}
    if why := why_not_there(truth):
        raise DatasetError(f'truth "{truth}" {why}; check --truth')
    maps = files_of_slides(dataset, records, truth, TRUTH_SUFFIXES)
    missing = next((r.slide_id for r in records if r.slide_id not in maps), None)
    if missing is not None:
        raise DatasetError(f'no truth map of slide "{missing}" in "{truth}"; it must be named {missing}.png')
    return maps


def files_of_slides(
    dataset: Dataset, records: Sequence[SlideRecord], folder: Path, suffixes: tuple[str, ...]
) -> dict[str, Path]:
    """Files of slides in a folder, by the slides' names in file names; those that have one.

    Raises:
        DatasetError: A name stands for several slides of the dataset.
    """
    numbers = {r.slide_id: number for number, r in enumerate(dataset.slides())}
    names = SlideNames(NamedSlide(path_of_text(r.path) or PurePath(r.path), (r.slide_id,)) for r in dataset.slides())
    files = files_by_name(folder) if folder.is_dir() else {}
    found = {r.slide_id: names.file_of(numbers[r.slide_id], files, suffixes, DatasetError) for r in records}
    return {slide_id: path for slide_id, path in found.items() if path is not None}


def read_values(path: Path) -> dict[int, str]:
    """Reads a table of the columns ``value`` (1 .. 255) and ``class``, see `read_table`.

    Returns:
        The class of each value; several values may be of one class.

    Raises:
        DatasetError: It cannot be read, is not of this form, or contradicts itself.
    """
    values: dict[int, str] = {}
    for row in read_table(path, _FORM):
        text, name = row.cells["value"], row.cells["class"]
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
        if not UNLABELLED < value <= _HIGHEST_VALUE:
            raise DatasetError(
                f'{row.where}: value "{shorten(text, 40)}" is no whole number from 1 to {_HIGHEST_VALUE} (0 does not '
                "count and needs no row)"
            )
        if values.setdefault(value, name) != name:
            raise DatasetError(f'{row.where}: value {value} is "{shorten(values[value])}" further up; keep one of them')
    return values
