"""`areas.csv`: how much of each class there is."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from dmmn_qp.errors import DatasetError
from dmmn_qp.files.tables import write_table
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.outputs.levels import TILE
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.regions import Region
from dmmn_qp.specs import MM2_OF_UM2, UNLABELLED, ClassMap, TissueClass
from dmmn_qp.text import text_of_cell

AREAS = "areas.csv"

_AREA_COLUMNS = ("slide", "class", "pixels", "area_mm2", "percent_of_tissue", "tissue_mm2", "tissue_classes")
"""The last two say what a percentage is of: the area of the slide's tissue, and the classes that make it up."""

AREAS_COLUMNS = (*_AREA_COLUMNS, "distance_from_training", "distance_threshold")
"""The last two are the same in all rows of a slide: how far it is from the model's training slides, and from where on
it is unlike them."""

UNLABELLED_ROW = "(unlabelled)"

_EARLIER_COLUMNS = (_AREA_COLUMNS, _AREA_COLUMNS[:5])
"""Of versions that did not tell the distance, nor what a percentage is of."""

_EXACT_FLOAT32 = 2**24


@dataclass(frozen=True, slots=True)
class SlideAreas:
    """Pixels of each label of a slide.

    Attributes:
        slide_id: The slide.
        class_map: The classes.
        pixel_mm2: Area of a pixel.
        pixels: Number of pixels by label, ``pixels[0]`` those without one.
        distance: How far the slide is from the training slides of the model; None where that is not known.
        threshold: Distance from which on a slide is unlike them; None where the model knows none.
    """

    slide_id: str
    class_map: ClassMap
    pixel_mm2: float
    pixels: tuple[int, ...]
    distance: float | None = None
    threshold: float | None = None

    def rows(self) -> list[list[str]]:
        """The slide's rows of ``areas.csv``: classes in their order, then what has no label."""
        tissue = [c for c in self.class_map.classes if is_tissue(c)]
        return [
            *(self._row(c.name, c.label, tissue if c in tissue else ()) for c in self.class_map.classes),
            self._row(UNLABELLED_ROW, UNLABELLED, ()),
        ]

    def _row(self, name: str, label: int, tissue: Sequence[TissueClass]) -> list[str]:
        """A row; its percentage is of the pixels of the classes in ``tissue``, without which it has none."""
        pixels, of = self.pixels[label], sum(self.pixels[c.label] for c in tissue)
        percent = f"{100 * pixels / of:.4f}" if of else ""
        denominator = [f"{of * self.pixel_mm2:.6f}", "; ".join(c.name for c in tissue)] if tissue else ["", ""]
        domain = ["" if value is None else f"{value:.3f}" for value in (self.distance, self.threshold)]
        return [self.slide_id, name, str(pixels), f"{pixels * self.pixel_mm2:.6f}", percent, *denominator, *domain]


def count_areas(predicted: PredictedSlide) -> SlideAreas:
    """Counts the pixels of each label in a label raster, one row of tiles at a time.

    Raises:
        DatasetError: The raster is damaged, or has labels that are no classes.
    """
    counts = np.zeros(256, np.int64)
    with LabelRaster(predicted.labels) as raster:
        rows, columns = raster.shape
        at_once = max(1, _EXACT_FLOAT32 // columns)  # OpenCV gives the counts as float32
        for y in range(0, rows, TILE):
            strip = raster.read(Region(0, y, columns, min(TILE, rows - y)))
            for start in range(0, strip.shape[0], at_once):
                found = cv2.calcHist([strip[start : start + at_once]], [0], None, [256], [0, 256])
                counts += found.ravel().astype(np.int64)
    n = len(predicted.class_map) + 1
    if counts[n:].any():
        raise DatasetError(
            f'label raster "{predicted.labels}" has labels above {n - 1} and so is not of this model; predict again'
        )
    pixel_mm2 = predicted.mpp * predicted.mpp * MM2_OF_UM2
    return SlideAreas(predicted.slide_id, predicted.class_map, pixel_mm2, tuple(int(count) for count in counts[:n]))


def write_areas(out: Path, slides: Iterable[SlideAreas]) -> Path:
    """Writes ``areas.csv``: a row for each slide and class, with pixels, mm2 and % of the slide's tissue.

    Rows of other slides that are in it already are kept, those of these slides are replaced, and all are sorted by
    slide. Only classes of tissue (`is_tissue`) have a percentage; rows of earlier versions lack what those did not
    tell. A file of that name that is not ours is left alone, and ours gets another name.

    Args:
        out: The folder of the predictions.
        slides: What was counted.

    Returns:
        The file.
    """
    path = our_name(out / AREAS, lambda path: read_areas(path) is not None)
    rows = (read_areas(path) or {}) if path.exists() else {}
    rows.update({areas.slide_id: areas.rows() for areas in slides})
    write_table(path, AREAS_COLUMNS, chain.from_iterable(rows[slide_id] for slide_id in sorted(rows)))
    return path


def our_name(path: Path, is_ours: Callable[[Path], bool]) -> Path:
    """The path, or with ``.dmmn-qp`` before its ending where a file is there that we did not write."""
    if not path.exists() or is_ours(path):
        return path
    return path.with_name(f"{path.stem}.dmmn-qp{path.suffix}")


def read_areas(path: Path) -> dict[str, list[list[str]]] | None:
    """Rows by slide of an ``areas.csv`` of this or an earlier version; None for a file that we did not write."""
    found: dict[str, list[list[str]]] = {}
    try:
        reader = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        header = tuple(next(reader, ()))
        if header not in (AREAS_COLUMNS, *_EARLIER_COLUMNS):
            return None
        for row in reader:
            if len(row) != len(header):
                return None
            texts = [text_of_cell(cell) for cell in row]
            found.setdefault(texts[0], []).append(texts + [""] * (len(AREAS_COLUMNS) - len(texts)))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return found
