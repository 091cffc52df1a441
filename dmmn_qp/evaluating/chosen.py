"""Which slides of a dataset are compared, where on them, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Split
from dmmn_qp.errors import AnnotationFileError, ConfigError, DatasetError, SlideError
from dmmn_qp.evaluating.options import SCANNER, EvaluateOptions
from dmmn_qp.evaluating.truth import files_of_slides
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.evaluation import EvaluatedSlide
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.labels.class_rules import nearest_name
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.qupath.geojson_reader import GEOJSON_SUFFIXES, read_geojson
from dmmn_qp.regions import Region
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.scanner import scanner_of
from dmmn_qp.specs import LabelArray
from dmmn_qp.text import printable, shorten
from dmmn_qp.vectors.sources import LabelSource

_NOT_A_PATTERN: Final = 40


def chosen_slides(dataset: Dataset, split: Split, wanted: Sequence[str]) -> list[SlideRecord]:
    """The slides of a split that are compared.

    Args:
        dataset: The dataset.
        split: The split.
        wanted: Names, or patterns of them; empty for all.

    Raises:
        DatasetError: The split has no slide.
        ConfigError: A name is of no slide of the split.
    """
    records = dataset.slides(split)
    if not records:
        raise DatasetError(f'dataset "{dataset.folder}" has no slide for {split}; choose another with --split')
    if not wanted:
        return records
    kept: set[str] = set()
    for name in wanted:
        found = {r.slide_id for r in records if name == r.slide_id}
        found = found or {r.slide_id for r in records if fnmatchcase(r.slide_id, name)}
        if not found:
            raise ConfigError(_no_slide(name, dataset, split, records))
        kept |= found
    return [r for r in records if r.slide_id in kept]


def _no_slide(name: str, dataset: Dataset, split: Split, records: Sequence[SlideRecord]) -> str:
    said = f'--slides "{shorten(name)}" is no slide for {split}'
    elsewhere = next((r for r in dataset.slides() if r.slide_id == name), None)
    if elsewhere is not None:
        return f"{said} but for {elsewhere.split}; pass --split {elsewhere.split}"
    near = nearest_name(name, [r.slide_id for r in records])
    names = ", ".join(shorten(r.slide_id, _NOT_A_PATTERN) for r in records[:20])
    return f"{said}; " + (f'did you mean "{printable(near)}"?' if near else f"they are {names}")


def evaluated_slides(
    dataset: Dataset,
    records: Sequence[SlideRecord],
    options: EvaluateOptions,
    slides_roots: Sequence[SlidesRoot],
    warn: Callable[[str], None],
) -> list[EvaluatedSlide]:
    """What the dataset says of slides, and which scanner they are of where that is asked for."""
    slides = []
    for record in records:
        properties = dict(record.metadata)
        if SCANNER in options.by:
            properties[SCANNER] = _scanner(dataset, record, slides_roots, warn)
        slides.append(
            EvaluatedSlide(
                slide_id=record.slide_id,
                image=PredictedInput(
                    path=record.path,
                    fingerprint=record.fingerprint,
                    width=record.width,
                    height=record.height,
                    crop_to_bounds=record.crop_to_bounds,
                    frame=record.frame,
                ),
                mpp=record.mpp,
                grid_mpp=record.mpp * dataset.grid(record).downsample,
                case=record.case or record.slide_id,
                properties=properties,
            )
        )
    _check_keys(slides, options)
    return slides


def _scanner(
    dataset: Dataset, record: SlideRecord, slides_roots: Sequence[SlidesRoot], warn: Callable[[str], None]
) -> str:
    try:
        return scanner_of(dataset.locate(record, slides_roots)) or ""
    except SlideError as error:
        warn(f'the scanner of "{record.slide_id}" is not known: {error}')
        return ""


def _check_keys(slides: Sequence[EvaluatedSlide], options: EvaluateOptions) -> None:
    """Refuses a key that no slide has.

    Raises:
        ConfigError: There is one.
    """
    known = dict.fromkeys(key for slide in slides for key in slide.properties)
    for key in options.by:
        if key not in known:
            has = f"they have {', '.join(shorten(k) for k in [*known, SCANNER][:20])}"
            raise ConfigError(
                f'--by "{shorten(key)}": no slide has this key; {has} (import again with --overwrite if the dataset is '
                "older than its metadata)"
            )


@dataclass(frozen=True, slots=True)
class CountedAreas:
    """Areas of interest on a slide's grid: 1 inside, 0 outside.

    Attributes:
        layer: The areas, in level-0 px.
        downsample: Level-0 px per grid px.
        shape: (rows, columns) of the grid.
    """

    layer: AreaLayer
    downsample: float
    shape: tuple[int, int]

    def read(self, window: Region) -> LabelArray:
        """1 where a pixel's centre lies in an area: (height, width) uint8."""
        return self.layer.burn(window, self.downsample)


def counted_areas(dataset: Dataset, records: Sequence[SlideRecord], options: EvaluateOptions) -> dict[str, LabelSource]:
    """The areas of each slide outside of which nothing counts; empty where everything does.

    Raises:
        DatasetError: The areas of a slide are missing or damaged, or it has none.
    """
    if options.roi is None and options.roi_class is None:
        return {}
    files = _area_files(dataset, records, options.roi)
    return {record.slide_id: _areas_of(dataset, record, files[record.slide_id], options) for record in records}


def _areas_of(dataset: Dataset, record: SlideRecord, path: Path, options: EvaluateOptions) -> CountedAreas:
    try:
        objects = [a for a in read_geojson(path).annotations if a.is_area]
    except AnnotationFileError as error:
        raise DatasetError(f'areas of slide "{record.slide_id}": {error}') from error
    wanted = _of_class(objects, options.roi_class)
    if not wanted:
        of_class = f' of a class "{shorten(options.roi_class)}"' if options.roi_class else ""
        raise DatasetError(
            f'"{path}" has no area{of_class}, so nothing of slide "{record.slide_id}" would count; draw one, or leave '
            "the slide out with --slides"
        )
    grid = dataset.grid(record)
    parts = shapely.get_parts([a.geometry for a in wanted])
    layer = AreaLayer([PaintedArea(part, 1) for part in parts])
    return CountedAreas(layer, grid.downsample, grid.shape(record.width, record.height))


def _of_class(areas: Sequence[Annotation], pattern: str | None) -> list[Annotation]:
    """Areas of a class, or, where there is no class of just this name, of those that the pattern matches."""
    if pattern is None:
        return [*areas]
    names = {a.class_name for a in areas if a.class_name is not None}
    wanted = {pattern} & names or {name for name in names if fnmatchcase(name, pattern)}
    return [a for a in areas if a.class_name in wanted]


def _area_files(dataset: Dataset, records: Sequence[SlideRecord], roi: Path | None) -> dict[str, Path]:
    """The file of areas of each slide.

    Raises:
        DatasetError: They are not there, or one is missing.
    """
    if roi is None:
        return {r.slide_id: dataset.annotations_path(r.slide_id) for r in records}
    if roi.is_file() and len(records) == 1:
        return {records[0].slide_id: roi}
    if why := why_not_there(roi):
        raise DatasetError(f'--roi "{roi}" {why}; check the path')
    found = files_of_slides(dataset, records, roi, GEOJSON_SUFFIXES)
    missing = next((r.slide_id for r in records if r.slide_id not in found), None)
    if missing is not None:
        raise DatasetError(f'no areas of slide "{missing}" in "{roi}"; --roi must be a folder with {missing}.geojson')
    return found
