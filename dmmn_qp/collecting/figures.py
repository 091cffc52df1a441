"""The figures of one predicted slide, and of several of one case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from dmmn_qp.collecting.distances import FromOutline, Outline, distances_from_outline
from dmmn_qp.collecting.options import CohortOptions, Ratio
from dmmn_qp.collecting.quality import SlideQuality
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.label_raster import LabelRaster, read_class_names, read_mpp
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PROBABILITIES_SUFFIX, PredictedInput, Prediction
from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.outputs.predicted import LabelConfidence
from dmmn_qp.regions import Region
from dmmn_qp.specs import MM2_OF_UM2, TissueClass

_ROWS: Final = 64  # of labels that are counted at once: NumPy counts them as numbers of 64 bits


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class on a slide, or on all slides of a case.

    Attributes:
        name: The class.
        mm2: Its area.
        is_tissue: Whether it counts as tissue.
        probability: Mean probability of its pixels, 0 to 1; None where probabilities were not written.
        distance: How far it is from the tissue's outline; None where that cannot be said.
    """

    name: str
    mm2: float
    is_tissue: bool
    probability: float | None = None
    distance: FromOutline | None = None


@dataclass(frozen=True, slots=True)
class SlideFigures:
    """A predicted slide.

    Attributes:
        slide_id: The slide.
        folder: The folder of its prediction.
        case: The case that it is of; empty without cases.
        classes: Its classes, in the order of the model.
        unlabelled_mm2: Area without a label.
        record: What is recorded of its prediction; None where nothing is.
        image: The file that it is of; None likewise.
        note: What to know of its figures; empty for nothing.
        quality: Whether it is in focus and clean; None where that was not looked at.
    """

    slide_id: str
    folder: Path
    case: str
    classes: tuple[ClassFigures, ...]
    unlabelled_mm2: float = 0.0
    record: Prediction | None = None
    image: PredictedInput | None = None
    note: str = field(default="")
    quality: SlideQuality | None = None

    @property
    def mpp(self) -> float | None:
        """um/px of level 0 as it was predicted; None where that is not recorded."""
        return None if self.record is None else self.record.mpp

    @property
    def tissue_mm2(self) -> float:
        """Area of its tissue."""
        return tissue_of(self.classes)


def tissue_of(classes: Iterable[ClassFigures]) -> float:
    """Area of the classes that count as tissue."""
    return sum((c.mm2 for c in classes if c.is_tissue), start=0.0)


def percent_of_tissue(one: ClassFigures, tissue_mm2: float) -> float | None:
    """Part of the tissue that a class has; None where it is none or there is none."""
    return 100 * one.mm2 / tissue_mm2 if one.is_tissue and tissue_mm2 > 0 else None


def ratio_of(ratio: Ratio, classes: Sequence[ClassFigures]) -> float | None:
    """A ratio of areas; None where the model does not know a class, or it would be divided by 0."""
    mm2 = {c.name: c.mm2 for c in classes}
    if not {*ratio.above, *ratio.below} <= mm2.keys():
        return None
    above, below = (sum(mm2[name] for name in names) for names in (ratio.above, ratio.below))
    return above / below if below > 0 else None


def measure_slide(
    folder: Path,
    slide_id: str,
    case: str,
    options: CohortOptions,
    record: Prediction | None,
    image: PredictedInput | None,
) -> SlideFigures:
    """Measures a slide in its label raster, strip by strip.

    Raises:
        DatasetError: The raster is damaged, names no classes, or does not say how large its pixels are.
    """
    path = folder / f"{slide_id}.{LABELS_SUFFIX}"
    classes, mpp = classes_of(path, record), raster_mpp(path)
    probabilities = folder / f"{slide_id}.{PROBABILITIES_SUFFIX}"
    pixels, sums = np.zeros(256, np.int64), np.zeros(256)
    tissue = [c.label for c in classes if is_tissue(c)]
    restricted = (record.request or {}).get("regions") is not None if record is not None else False
    with ExitStack() as stack:
        raster = stack.enter_context(LabelRaster(path))
        known = probabilities.is_file()
        confidence = stack.enter_context(LabelConfidence(raster, probabilities, len(classes))) if known else None
        rows, columns = raster.shape
        for y in range(0, rows, _ROWS):
            window = Region(0, y, columns, min(_ROWS, rows - y))
            labels = raster.read(window).ravel()
            pixels += np.bincount(labels, minlength=256)
            if int(labels.max(initial=0)) > len(classes):
                raise DatasetError(f'label raster "{path}" has labels without a class; predict again with --overwrite')
            if confidence is not None:
                sums += np.bincount(labels, confidence.read(window).ravel(), minlength=256)
        outline = Outline(tissue, mpp, options.tissue_min_area_um2, options.tissue_min_hole_um2)
        distances = {} if restricted else distances_from_outline(raster, outline, options.within_um)
    figures = tuple(
        ClassFigures(
            c.name,
            float(pixels[c.label]) * mpp**2 * MM2_OF_UM2,
            c.label in tissue,
            float(sums[c.label] / pixels[c.label] / 255) if known and pixels[c.label] else None,
            distances.get(c.label),
        )
        for c in classes
    )
    note = "only regions of interest were predicted, so no distance from the outline is known" if restricted else ""
    return SlideFigures(slide_id, folder, case, figures, float(pixels[0]) * mpp**2 * MM2_OF_UM2, record, image, note)


def of_case(slides: Sequence[SlideFigures]) -> list[ClassFigures]:
    """The classes of all slides of a case, by name: areas added up, the least of the distances.

    The mean probability is that of all pixels; it is None where one of the slides does not tell it.
    """
    by_name: dict[str, list[ClassFigures]] = {}
    for slide in slides:
        for one in slide.classes:
            by_name.setdefault(one.name, []).append(one)
    return [_together(some) for some in by_name.values()]


def _together(some: Sequence[ClassFigures]) -> ClassFigures:
    there = [one for one in some if one.mm2 > 0]
    mm2 = sum((one.mm2 for one in there), start=0.0)
    told = bool(there) and all(one.probability is not None for one in there)
    probability = sum((one.probability or 0) * one.mm2 for one in there) / mm2 if told else None
    found = [one.distance for one in there if one.distance is not None]
    distance = None
    if found and len(found) == len(there):
        within = zip(*(d.within_mm2 for d in found), strict=True)
        distance = FromOutline(
            min(d.least_um for d in found), min(d.nearest_part_um for d in found), tuple(map(sum, within))
        )
    return ClassFigures(some[0].name, mm2, some[0].is_tissue, probability, distance)


def classes_of(path: Path, record: Prediction | None) -> Sequence[TissueClass]:
    """The classes of a label raster, as its record has them, else by their names in the file.

    Raises:
        DatasetError: Neither tells them, or the file is damaged.
    """
    if record is not None and record.class_map is not None:
        return record.class_map.classes
    names = read_class_names(path)
    if names is None:
        raise DatasetError(f'label raster "{path}" names no classes, and run.json does not either; predict again')
    return [TissueClass(label=label, name=name, color=(0, 0, 0)) for label, name in enumerate(names, start=1)]


def raster_mpp(path: Path) -> float:
    """um/px of a label raster.

    Raises:
        DatasetError: It does not tell, or is damaged.
    """
    mpp = read_mpp(path)
    if mpp is None:
        raise DatasetError(f'label raster "{path}" does not say how large its pixels are; predict again')
    return mpp


def colors_of(slides: Iterable[SlideFigures]) -> Mapping[str, tuple[int, int, int]]:
    """The colour of each class, by name; the first slide's where slides differ."""
    found: dict[str, tuple[int, int, int]] = {}
    for slide in slides:
        known = slide.record.class_map.classes if slide.record is not None and slide.record.class_map else ()
        for one in known:
            found.setdefault(one.name, one.color)
    return found
