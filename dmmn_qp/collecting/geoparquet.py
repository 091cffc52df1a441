"""`polygons.parquet`: the polygons of all slides as GeoParquet, some thousands at a time; pyarrow is an extra."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.collecting.figures import SlideFigures
from dmmn_qp.collecting.options import PolygonUnit
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.files import new_file
from dmmn_qp.files.failures import line_of
from dmmn_qp.folders.predictions import polygons_of
from dmmn_qp.qupath.geojson_reader import stream_geojson
from dmmn_qp.qupath.marks import AREA_UM2, MEAN_PROBABILITY
from dmmn_qp.version import __version__

POLYGONS: Final = "polygons.parquet"

_AT_ONCE: Final = 5000
"""Polygons in memory, and in a group of rows."""

_FRAMES: Final = {
    "px": "level-0 pixels of the slide as QuPath shows it, y down",
    "um": "um from the slide's upper left corner as QuPath shows it, y down",
}

_SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


def write_polygons(path: Path, slides: Sequence[SlideFigures], unit: PolygonUnit, reporter: Reporter) -> int:
    """Writes the polygons of all slides, as they lie in the folders of predictions.

    A slide whose polygons cannot be read, or of which no um/px are known where um are wanted, is left out with a
    warning; of what was written of it before the damage, nothing is taken back.

    Args:
        path: The file.
        slides: The slides.
        unit: Of coordinates.
        reporter: Where to warn.

    Returns:
        How many were written.
    """
    from pyarrow import Table, parquet

    schema, count, rows = _schema(unit), 0, _rows(slides, unit, reporter)
    with (
        reporter.counting_warnings(),
        new_file(path) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        while some := list(islice(rows, _AT_ONCE)):
            writer.write_table(Table.from_pylist(some, schema))
            count += len(some)
    return count


def _rows(slides: Iterable[SlideFigures], unit: PolygonUnit, reporter: Reporter) -> Iterator[dict[str, Any]]:
    """A row for each polygon, slide by slide."""
    for slide in slides:
        polygons = polygons_of(slide.folder, slide.slide_id)
        if polygons is None:
            reporter.warn_of(slide.slide_id, f"it has no polygons, so none in {POLYGONS}")
        elif slide.mpp is None and unit == "um":
            reporter.warn_of(slide.slide_id, f"its um/px are not recorded, so it is not in {POLYGONS}; predict again")
        else:
            try:
                yield from (_row(slide, one, unit) for one in stream_geojson(polygons) if one.is_area)
            except DmmnQpError as error:
                reporter.warn_of(slide.slide_id, f"not all of it is in {POLYGONS} ({line_of(error)})")


def _row(slide: SlideFigures, one: Annotation, unit: PolygonUnit) -> dict[str, Any]:
    factor = slide.mpp if unit == "um" and slide.mpp is not None else 1.0
    geometry = one.geometry if factor == 1 else shapely.transform(one.geometry, lambda xy: xy * factor)
    sides = np.asarray(geometry.bounds, np.float64)
    return {
        "slide": slide.slide_id,
        "case": slide.case,
        "class": one.class_name,
        "id": None if one.annotation_id is None else str(one.annotation_id),
        "area_um2": one.measurements.get(AREA_UM2),
        "mean_probability": one.measurements.get(MEAN_PROBABILITY),
        "um_per_px": slide.mpp,
        "bbox": dict(zip(_SIDES, sides.tolist(), strict=True)),
        "geometry": shapely.to_wkb(geometry),
    }


def _schema(unit: PolygonUnit) -> Any:
    """Columns, and what GeoParquet 1.1 wants said of them."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.float64()
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"],
        "crs": None,
        "edges": "planar",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    about = {"unit": unit, "frame": _FRAMES[unit], "made_by": f"dmmn-qp {__version__}"}
    return pyarrow.schema(
        [
            ("slide", text),
            ("case", text),
            ("class", text),
            ("id", text),
            ("area_um2", number),
            ("mean_probability", number),
            ("um_per_px", number),
            ("bbox", pyarrow.struct([(side, number) for side in _SIDES])),
            ("geometry", pyarrow.binary()),
        ],
        metadata={"geo": json.dumps(geo), "dmmn_qp": json.dumps(about)},
    )
