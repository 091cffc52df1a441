"""The tables of a cohort: slides x classes, cases x classes, and the catalogue of slides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from dmmn_qp.collecting.figures import (
    ClassFigures,
    SlideFigures,
    of_case,
    percent_of_tissue,
    ratio_of,
    tissue_of,
)
from dmmn_qp.collecting.objects import KINDS, ObjectFigures
from dmmn_qp.collecting.options import CohortOptions, Ratio, column_part
from dmmn_qp.collecting.quality import SlideQuality
from dmmn_qp.files import new_file
from dmmn_qp.files.tables import write_table
from dmmn_qp.folders.predictions import Prediction

Cell = str | float | int | None
Row = dict[str, Cell]

COHORT, CASES, CATALOGUE, OBJECTS = "cohort.csv", "cases.csv", "slides.csv", "objects.csv"

PARQUET: Final = ".parquet"

_YES: Final = {True: "yes", False: "no"}


def slide_rows(slides: Iterable[SlideFigures], ratios: Sequence[Ratio], options: CohortOptions) -> list[Row]:
    """A row for each slide and class; what concerns the slide as a whole is the same in all of its rows."""
    return [
        {"slide": slide.slide_id, **({"case": slide.case} if options.case_pattern else {}), **row}
        for slide in slides
        for row in _class_rows(slide.classes, ratios, options)
    ]


def case_rows(slides: Iterable[SlideFigures], ratios: Sequence[Ratio], options: CohortOptions) -> list[Row]:
    """A row for each case and class."""
    by_case: dict[str, list[SlideFigures]] = {}
    for slide in slides:
        by_case.setdefault(slide.case, []).append(slide)
    return [
        {"case": case, "slides": len(some), **row}
        for case, some in sorted(by_case.items())
        for row in _class_rows(of_case(some), ratios, options)
    ]


def object_rows(objects: Iterable[ObjectFigures], ratios: Sequence[Ratio]) -> list[Row]:
    """A row for each annotation or core of a project, and class."""
    return [{**_object(one), **row} for one in objects for row in _area_rows(one.classes, ratios)]


def _object(one: ObjectFigures) -> Row:
    drawn = one.drawn
    return {
        "slide": one.slide.slide_id,
        "case": one.slide.case,
        "object": None if drawn.annotation_id is None else str(drawn.annotation_id),
        "kind": KINDS[drawn.kind],
        "name": drawn.name,
        "object_class": drawn.class_name,
        "object_case": one.case_id,
        "missing": _YES[drawn.is_missing] if drawn.kind == "tma_core" else "",
        "unlabelled_mm2": round(one.unlabelled_mm2, 6),
    }


def _area_rows(classes: Sequence[ClassFigures], ratios: Sequence[Ratio]) -> list[Row]:
    tissue, of_all = _of_all(classes, ratios)
    return [{**_area(one, tissue), **of_all} for one in classes]


def _class_rows(classes: Sequence[ClassFigures], ratios: Sequence[Ratio], options: CohortOptions) -> list[Row]:
    tissue, of_all = _of_all(classes, ratios)
    return [{**_class_row(one, tissue, options), **of_all} for one in classes]


def _of_all(classes: Sequence[ClassFigures], ratios: Sequence[Ratio]) -> tuple[float, Row]:
    """Area of the tissue, and what is the same in the rows of all classes."""
    tissue = tissue_of(classes)
    return tissue, {"tissue_mm2": round(tissue, 6), **{r.name: _rounded(ratio_of(r, classes), 6) for r in ratios}}


def _area(one: ClassFigures, tissue_mm2: float) -> Row:
    return {
        "class": one.name,
        "area_mm2": round(one.mm2, 6),
        "percent_of_tissue": _rounded(percent_of_tissue(one, tissue_mm2), 4),
    }


def _class_row(one: ClassFigures, tissue_mm2: float, options: CohortOptions) -> Row:
    away = one.distance
    within = away.within_mm2 if away is not None else (None,) * len(options.within_um)
    return {
        **_area(one, tissue_mm2),
        "mean_probability": _rounded(one.probability, 4),
        "least_distance_um": None if away is None else round(away.least_um, 1),
        "nearest_5_percent_um": None if away is None else round(away.nearest_part_um, 1),
        **{
            f"within_{column_part(um)}_um_mm2": _rounded(mm2, 6)
            for um, mm2 in zip(options.within_um, within, strict=True)
        },
    }


def catalogue_rows(slides: Iterable[SlideFigures], options: CohortOptions) -> list[Row]:
    """A row for each slide: what made its prediction, and of what."""
    return [
        {**_catalogue_row(slide), **(_quality(slide.quality) if options.quality else {}), "note": slide.note}
        for slide in slides
    ]


def _quality(found: SlideQuality | None) -> Row:
    return {
        "blur": _rounded(None if found is None else found.blur, 3),
        "out_of_focus": None if found is None or found.blur is None else _YES[found.is_blurred],
        "pen_mm2": _rounded(None if found is None else found.pen_mm2, 3),
        "written_on": None if found is None else _YES[found.has_pen],
    }


def _catalogue_row(slide: SlideFigures) -> Row:
    record, image = slide.record, slide.image
    distance = None if record is None else record.distance_from_training
    return {
        "slide": slide.slide_id,
        "case": slide.case,
        "predictions": str(slide.folder),
        "file": None if image is None else image.path,
        "fingerprint": None if image is None else image.fingerprint,
        "model": None if record is None else record.model,
        "model_run": None if record is None else record.model_run,
        "weights": None if record is None else record.weights,
        "run": None if record is None else record.run_id,
        "options": None if record is None else _options(record.request, record.polygons),
        "tissue_mm2": round(slide.tissue_mm2, 6),
        "unlabelled_mm2": round(slide.unlabelled_mm2, 6),
        "distance_from_training": _rounded(distance, 3),
        "distance_threshold": _rounded(None if record is None else record.distance_threshold, 3),
        "unlike_training": _unlike(record),
    }


def _unlike(record: Prediction | None) -> str | None:
    """Whether a slide is unlike those of the training; None where nobody knows from which distance on one is."""
    if record is None or record.distance_from_training is None or record.distance_threshold is None:
        return None
    return _YES[record.is_unlike]


def _options(*parts: Mapping[str, Any] | None) -> str:
    """Options that are set, as JSON."""
    told = {key: value for part in parts for key, value in (part or {}).items() if value not in (None, False)}
    return json.dumps(told, sort_keys=True, ensure_ascii=False)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes a table of commas; what is not known is empty."""
    columns = [*rows[0]]
    write_table(path, columns, (["" if row[c] is None else row[c] for c in columns] for row in rows))


def has_parquet() -> bool:
    """Whether Parquet can be written."""
    return find_spec("pyarrow") is not None


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Writes the same as Parquet; texts are as they are, what is not known is null."""
    import pyarrow
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = [pyarrow.array(v, _type_of(v, pyarrow)) for v in columns.values()]
    with new_file(path) as temporary:
        parquet.write_table(pyarrow.table(arrays, names=[*columns]), temporary)


def _type_of(values: Sequence[Cell], pyarrow: Any) -> Any:
    """The type of a column; numbers, where nothing is known."""
    if any(isinstance(value, str) for value in values):
        return pyarrow.string()
    return pyarrow.int64() if values and all(isinstance(value, int) for value in values) else pyarrow.float64()
