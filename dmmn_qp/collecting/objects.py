"""Areas of the classes in what is drawn in a QuPath project: annotations, and cores of tissue microarrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import Annotation
from dmmn_qp.collecting.figures import ClassFigures, SlideFigures, raster_mpp
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, DatasetError
from dmmn_qp.files.failures import line_of
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import LABELS_SUFFIX
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.qupath.marks import METADATA_KEY, is_marked
from dmmn_qp.qupath.project import ProjectEntry
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.regions import Region
from dmmn_qp.specs import MM2_OF_UM2
from dmmn_qp.vectors.sources import LabelSource

_TILE: Final = 2048
"""Side of the windows in which areas are counted, in px of the raster."""

KINDS: Final = {"annotation": "annotation", "tma_core": "TMA core"}
"""Kinds of objects that are looked at -> what the table calls them."""

_CASE_KEYS: Final = ("Case ID", "Unique ID")
"""Under what QuPath keeps whose a core is."""


@dataclass(frozen=True, slots=True)
class ObjectFigures:
    """What a model predicted inside one object.

    Attributes:
        slide: The slide.
        drawn: The object.
        classes: Its classes, in the order of the model; without distances and probabilities.
        unlabelled_mm2: Area without a label; what of the object lies outside of the slide is in none.
    """

    slide: SlideFigures
    drawn: Annotation
    classes: tuple[ClassFigures, ...]
    unlabelled_mm2: float

    @property
    def case_id(self) -> str:
        """Whose it is, as QuPath has it; empty where it says nothing."""
        return next((self.drawn.metadata[key] for key in _CASE_KEYS if key in self.drawn.metadata), "")


def measure_objects(
    slides: Sequence[SlideFigures], images: Mapping[str, ProjectEntry], reporter: Reporter
) -> list[ObjectFigures]:
    """Measures the areas of the classes in all areas that people drew in a project, and in cores.

    Predictions that were pushed into the project, and other outlines of ours, are none of these. An image whose data
    cannot be read is left out with a warning.

    Args:
        slides: The slides.
        images: The image of each slide in the project, of those that have one.
        reporter: Where to warn.
    """
    found: list[ObjectFigures] = []
    with reporter.counting_warnings():
        for slide in slides:
            try:
                found += _of_slide(slide, images[slide.slide_id]) if slide.slide_id in images else ()
            except (AnnotationFileError, DatasetError) as error:
                reporter.warn_of(slide.slide_id, f"its objects are left out ({line_of(error)})")
    return found


def _of_slide(slide: SlideFigures, entry: ProjectEntry) -> Iterator[ObjectFigures]:
    """The figures of each object of an image, in QuPath's order."""
    drawn = _wanted(entry)
    if not drawn:
        return
    path = slide.folder / f"{slide.slide_id}.{LABELS_SUFFIX}"
    mpp = raster_mpp(path)
    with LabelRaster(path) as raster:
        scale = mpp / slide.mpp if slide.mpp is not None else _downsample_by_size(entry, raster)
        for one in drawn:
            mm2 = count_in(raster, one, scale) * mpp**2 * MM2_OF_UM2
            classes = tuple(
                ClassFigures(c.name, float(mm2[label]), c.is_tissue) for label, c in enumerate(slide.classes, start=1)
            )
            yield ObjectFigures(slide, one, classes, float(mm2[0]))


def _wanted(entry: ProjectEntry) -> list[Annotation]:
    """The areas of an image that are no predictions; none of an image that was never opened."""
    if not entry.data_path.is_file():
        return []
    return [
        one
        for one in read_qpdata(entry.data_path).annotations
        if one.kind in KINDS and one.is_area and METADATA_KEY not in one.metadata and not is_marked(one.annotation_id)
    ]


def _downsample_by_size(entry: ProjectEntry, raster: LabelSource) -> float:
    """Level-0 px for each pixel of a raster, as far as the sizes of both tell it.

    Raises:
        DatasetError: The project does not know how large the image is.
    """
    if entry.size_px is None:
        raise DatasetError("neither run.json nor the project says how its raster lies on the image; predict again")
    return max(full / side for full, side in zip(entry.size_px, raster.shape[::-1], strict=True))


def count_in(raster: LabelSource, drawn: Annotation, scale: float) -> NDArray[np.float64]:
    """Pixels of each label whose centres lie in an area, window by window: (256,).

    Args:
        raster: The labels.
        drawn: The area, in level-0 px.
        scale: Level-0 px for each pixel of the raster.
    """
    left, top, right, bottom = (value / scale for value in drawn.geometry.bounds)
    rows, columns = raster.shape
    x, y = max(0, floor(left)), max(0, floor(top))
    width, height = min(columns, ceil(right)) - x, min(rows, ceil(bottom)) - y
    counts = np.zeros(256)
    if width <= 0 or height <= 0:
        return counts
    layer = AreaLayer([PaintedArea(drawn.geometry, 1)])
    for window in Region(x, y, width, height).tiles(_TILE):
        inside = layer.burn(window, scale) > 0
        if inside.any():
            counts += np.bincount(raster.read(window)[inside], minlength=256)
    return counts
