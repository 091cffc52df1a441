"""A predicted label map -> objects for QuPath: cleaned, traced, simplified, split, measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import rasterize as burn

from dmmn_qp.errors import ConfigError
from dmmn_qp.outputs.made_objects import MadeObjects, OfClass
from dmmn_qp.outputs.options import PolygonOptions
from dmmn_qp.qupath.geojson_writer import shown_class_name
from dmmn_qp.qupath.marks import (
    AREA_MM2,
    AREA_UM2,
    CLASS_CODE,
    CLASS_KEY,
    MEAN_PROBABILITY,
    PERIMETER,
    class_code,
    marked_id,
)
from dmmn_qp.regions import Region
from dmmn_qp.specs import MM2_OF_UM2, UNLABELLED, ClassMap, LabelArray, TissueClass
from dmmn_qp.vectors.cleaning import Repainted, clean
from dmmn_qp.vectors.cracks import CELL_PX
from dmmn_qp.vectors.outlines import OutlineFeatures, Outlines, join, starts
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import LabelSource

_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a label map lies on its slide.

    Attributes:
        width: Level-0 columns of the slide in QuPath's frame.
        height: Level-0 rows.
        mpp: um/px at level 0.
        downsample: Level-0 px per pixel of the map.
    """

    width: int
    height: int
    mpp: float
    downsample: float

    def to_level0(self, xy: npt.NDArray[np.integer]) -> npt.NDArray[np.int32] | npt.NDArray[np.float64]:
        """Pixels of the map -> level-0 px, cut at the slide's right and bottom border and rounded to 0.01 px.

        The last column and row of a map may reach past the slide by part of a pixel.
        """
        limit = np.array([self.width, self.height])
        if self.downsample == int(self.downsample):
            whole: npt.NDArray[np.int32] = np.minimum(xy * int(self.downsample), limit).astype(np.int32)
            return whole
        rounded: npt.NDArray[np.float64] = np.minimum(np.round(xy * self.downsample, _DECIMALS), limit.astype(float))
        return rounded

    def visible(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of a map without a last row or column of which less than a hundredth px is on the slide."""

        def side(n: int, length: int) -> int:
            return n - 1 if n > 1 and round(length - (n - 1) * self.downsample, _DECIMALS) < 10**-_DECIMALS else n

        return side(shape[0], self.height), side(shape[1], self.width)


@dataclass(frozen=True, slots=True)
class _Cut:
    """The upper left part of a label map."""

    source: LabelSource
    shape: tuple[int, int]

    def read(self, window: Region) -> LabelArray:
        return self.source.read(window)


def outline_features(
    labels: LabelSource,
    frame: Frame,
    class_map: ClassMap,
    options: PolygonOptions,
    *,
    identity: str,
    metadata: dict[str, str],
    confidence: LabelSource | None = None,
    made: MadeObjects | None = None,
) -> Iterator[OutlineFeatures]:
    """Makes objects of the regions of a label map.

    Args:
        labels: The map.
        frame: Where it lies.
        class_map: The classes of its labels.
        options: How to clean, simplify, merge and split.
        identity: What distinguishes slide and model from others; the same identity, class and outline give the same id,
            and another outline never does.
        metadata: Texts that all objects get, beside what was done to their outlines.
        confidence: Of the same shape, 0 .. 255 for the probability of the label of each pixel.
        made: Where given, what becomes of the regions is noted in it.

    Yields:
        Objects as they become complete; all at once where they are merged by class or have probabilities.

    Raises:
        ConfigError: A label stands for no class.
    """
    grid_mpp = frame.mpp * frame.downsample
    shown = [c for c in class_map.classes if options.with_ignored or not c.ignored]
    made = MadeObjects() if made is None else made
    source = _cleaned(labels, frame, options)
    _note_regions(made, source, class_map, options, grid_mpp)
    found: Iterator[Outlines] = polygonize(
        source,
        skip=frozenset({UNLABELLED, *(c.label for c in class_map.classes)} - {c.label for c in shown}),
        simplify_px=options.simplify_um / grid_mpp,
        max_vertices=options.max_vertices if options.merge == "region" else None,
    )
    if options.merge == "class" or confidence is not None:
        found = iter([join(list(found))])
    for outlines in found:
        if len(outlines):
            check_labels(int(outlines.labels.max()), class_map)
            features = _objects(outlines, frame, shown, options, identity, metadata, confidence)
            for label, count in zip(
                *np.unique(outlines.labels[features.features[:-1]], return_counts=True), strict=True
            ):
                made.classes.setdefault(class_map.classes[label - 1].name, OfClass()).objects += int(count)
            yield features


def _cleaned(labels: LabelSource, frame: Frame, options: PolygonOptions) -> LabelSource:
    """What is visible of a map, without the regions and holes that are too small."""
    grid_mpp, visible = frame.mpp * frame.downsample, frame.visible(labels.shape)
    source: LabelSource = labels if visible == tuple(labels.shape) else _Cut(labels, visible)
    if options.min_area_um2 > 0 or options.min_hole_um2 > 0:
        areas_px = options.min_area_um2 / grid_mpp**2, options.min_hole_um2 / grid_mpp**2
        source = clean(source, *areas_px, fixed=frozenset({UNLABELLED}))  # which is no class that a pixel could have
    return source


def _note_regions(
    made: MadeObjects, source: LabelSource, class_map: ClassMap, options: PolygonOptions, grid_mpp: float
) -> None:
    """Notes how many regions a map has of each class, and how many are dissolved, where it was looked at for that."""
    for c in class_map.classes:
        if isinstance(source, Repainted) and c.label in source.found:
            found = source.found[c.label]
            made.classes[c.name] = OfClass(
                regions=found.regions,
                dissolved=found.dissolved,
                dissolved_um2=found.dissolved_px * grid_mpp**2,
                is_shown=options.with_ignored or not c.ignored,
            )


def _objects(
    outlines: Outlines,
    frame: Frame,
    classes: Sequence[TissueClass],
    options: PolygonOptions,
    identity: str,
    metadata: dict[str, str],
    confidence: LabelSource | None,
) -> OutlineFeatures:
    """Objects of outlines in pixels of the map, as `outline_features` gives them."""
    if options.merge == "class":
        outlines = outlines.take(np.lexsort((outlines.anchors, outlines.labels)))
    features = _features(outlines, options)
    first = features[:-1]
    moved = outlines.moved(frame.to_level0(outlines.xy))
    labels, names = outlines.labels[first], {c.label: shown_class_name(c.name) for c in classes}
    ids = [
        marked_id(f"{identity}/{outline}/{names[label]}")
        for label, outline in zip(labels.tolist(), moved.digests(first), strict=True)
    ]
    measurements = _measurements(moved, first, frame.mpp)
    codes = {label: float(class_code(name)) for label, name in names.items()}
    measurements[CLASS_CODE] = np.array([codes[label] for label in labels.tolist()])
    if confidence is not None:
        sums, pixels = (np.add.reduceat(values, first) for values in measure_sums(outlines, confidence))
        with np.errstate(invalid="ignore", divide="ignore"):  # no pixel has its centre in it: no probability
            measurements[MEAN_PROBABILITY] = np.round(sums / pixels / 255, 6)
    return OutlineFeatures(
        moved,
        features,
        ids,
        {c.label: (c.name, c.color) for c in classes},
        options.object_kind,
        measurements,
        {**metadata, **_treatment(options)},
        {label: {CLASS_KEY: name} for label, name in names.items()},
    )


def check_labels(highest: int, class_map: ClassMap) -> None:
    """Checks that labels are those of classes.

    Raises:
        ConfigError: The highest label stands for no class.
    """
    if highest > len(class_map):
        raise ConfigError(
            f"label {highest} stands for no class: there are {len(class_map)}, from 1 on, and 0 is unlabelled; pass "
            "the classes that the labels are of, or predict again with --overwrite"
        )


def _features(outlines: Outlines, options: PolygonOptions) -> npt.NDArray[np.int64]:
    """Where the polygons of each object start: one object for each polygon, or for each label of sorted ones."""
    if options.merge == "region":
        return np.arange(len(outlines) + 1)
    return starts(np.unique(outlines.labels, return_counts=True)[1])


def _measurements(outlines: Outlines, first: npt.NDArray[np.int64], mpp: float) -> dict[str, npt.NDArray[np.float64]]:
    """Sizes of objects.

    Args:
        outlines: Their polygons in level-0 px.
        first: The first polygon of each object.
        mpp: um/px at level 0.
    """
    area_um2 = np.add.reduceat(outlines.areas(), first) * mpp**2
    return {
        AREA_UM2: np.round(area_um2, 4),
        AREA_MM2: np.round(area_um2 * MM2_OF_UM2, 10),
        PERIMETER: np.round(np.add.reduceat(outlines.perimeters(), first) * mpp, 4),
    }


def _treatment(options: PolygonOptions) -> dict[str, str]:
    """What was done to the outlines, for their metadata."""
    return {
        "dmmn_qp_simplify_um": f"{options.simplify_um:g}",
        "dmmn_qp_min_area_um2": f"{options.min_area_um2:g}",
        "dmmn_qp_min_hole_um2": f"{options.min_hole_um2:g}",
    }


def measure_sums(
    outlines: Outlines, source: LabelSource, strip_px: int = CELL_PX
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sums a raster over the pixels whose centres lie in each polygon, strip by strip.

    Args:
        outlines: Polygons in pixels of the raster; no two cover the same pixel.
        source: The raster.
        strip_px: Rows that are read at a time.

    Returns:
        (polygons,) sum of the values and (polygons,) number of pixels.
    """
    n = len(outlines)
    sums, counts = np.zeros(n), np.zeros(n)
    if not n:
        return sums, counts
    rows, columns = source.shape
    geometries = outlines.geometries()
    bounds = shapely.bounds(geometries)
    for y in range(0, rows, strip_px):
        window = Region(0, y, columns, min(strip_px, rows - y))
        here = np.flatnonzero((bounds[:, 1] < window.bottom) & (bounds[:, 3] > window.y))
        if not len(here):
            continue
        inside = geometries[here]
        reaching = (bounds[here, 1] < window.y) | (bounds[here, 3] > window.bottom)
        inside[reaching] = shapely.clip_by_rect(inside[reaching], -1, window.y, columns + 1, window.bottom)
        present = ~shapely.is_empty(inside)
        index = burn(
            zip(inside[present], (here[present] + 1).tolist(), strict=True),
            (window.height, columns),
            fill=0,
            transform=Affine.translation(0, y),
            dtype=np.int32,
        ).ravel()
        sums += np.bincount(index, source.read(window).ravel(), n + 1)[1:]
        counts += np.bincount(index, minlength=n + 1)[1:]
    return sums, counts
