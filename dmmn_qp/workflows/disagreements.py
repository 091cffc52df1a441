"""Connected areas to which two sides give different classes, as outlines to jump to."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray

from dmmn_qp.annotations import Annotation
from dmmn_qp.evaluating.labelled import SlideLabels
from dmmn_qp.folders.comparison import DisagreementRegion
from dmmn_qp.qupath.classes import QUPATH_COLORS
from dmmn_qp.qupath.marks import METADATA_KEY, SUGGESTION_CLASS, SUGGESTION_MARK, suggestion_id
from dmmn_qp.regions import Region
from dmmn_qp.specs import LabelArray
from dmmn_qp.text import printable
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import LabelSource
from dmmn_qp.workflows.compared_grids import Grid

MOST_REGIONS: Final = 100
"""So many areas of a slide are told."""

RIM_UM: Final = 5.0
"""Areas are ranked by what is left of them without a rim of this width: nobody draws borders better than that."""

_CANDIDATES: Final = 10 * MOST_REGIONS
_MOST_PAIRS: Final = 255

ClassPair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Disagreement:
    """A label map of where two others differ: the number of the pair of classes, 0 elsewhere."""

    first: LabelSource
    second: LabelSource
    numbers: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape

    def read(self, window: Region) -> LabelArray:
        found: LabelArray = self.numbers[self.first.read(window), self.second.read(window)]
        return found


@dataclass(frozen=True, slots=True)
class Disagreements:
    """Areas of disagreement on a slide, the largest first.

    Attributes:
        regions: What is told of each.
        outlines: Their outlines, in level-0 px.
    """

    regions: tuple[DisagreementRegion, ...] = ()
    outlines: tuple[Annotation, ...] = ()


def disagreements(
    slide_id: str, sides: tuple[SlideLabels, SlideLabels], pairs: Sequence[ClassPair], grid: Grid, min_um2: float
) -> Disagreements:
    """Finds the largest areas to which both sides give different classes.

    Memory is bounded by a strip and by the outlines that are kept.

    Args:
        slide_id: The slide.
        sides: Its labels.
        pairs: Pairs of classes that differ somewhere, the largest area first; of very many the last are left out.
        grid: The pixels.
        min_um2: Smaller areas are left out.
    """
    kept = pairs[:_MOST_PAIRS]
    least_px = min_um2 / grid.pixel_um**2
    largest: list[tuple[float, int, int, shapely.Polygon]] = []
    order = count()
    with ExitStack() as stack:
        first, second = (stack.enter_context(labels.opened()) for labels in sides)
        for outlines in polygonize(_Disagreement(first, second, _numbers(sides, kept))):
            areas = outlines.areas()
            large = areas >= least_px
            chosen = outlines.take(large)
            for area, label, polygon in zip(areas[large], chosen.labels, chosen.geometries(), strict=True):
                heapq.heappush(largest, (float(area), -next(order), int(label), polygon))
                if len(largest) > _CANDIDATES:
                    heapq.heappop(largest)
    found = [(px, _core_px(polygon, grid), kept[label - 1], polygon) for px, _, label, polygon in largest]
    thick = sorted((f for f in found if f[1] > 0), key=lambda f: (-f[1], -f[0], *f[3].bounds[1::-1]))[:MOST_REGIONS]
    told = [_told(slide_id, px, pair, polygon, grid) for px, _, pair, polygon in thick]
    return Disagreements(tuple(region for region, _ in told), tuple(outline for _, outline in told))


def _numbers(sides: tuple[SlideLabels, SlideLabels], pairs: Sequence[ClassPair]) -> NDArray[np.uint8]:
    """(256, 256) number of the pair of classes of each pair of values."""
    numbers = np.zeros((256, 256), np.uint8)
    known = {pair: number for number, pair in enumerate(pairs, start=1)}
    for value, name in sides[0].values.items():
        for other_value, other in sides[1].values.items():
            numbers[value, other_value] = known.get((name, other), 0)
    return numbers


def _core_px(polygon: shapely.Polygon, grid: Grid) -> float:
    return round(float(polygon.buffer(-RIM_UM / grid.pixel_um, quad_segs=2).area), 6)


def _told(
    slide_id: str, px: float, pair: ClassPair, polygon: shapely.Polygon, grid: Grid
) -> tuple[DisagreementRegion, Annotation]:
    outline = shapely.transform(polygon, lambda xy: xy * grid.downsample)
    inside = outline.representative_point()
    mm2 = px * grid.pixel_mm2
    region = DisagreementRegion(
        first=pair[0], second=pair[1], mm2=mm2, x_px=round(inside.x, 2), y_px=round(inside.y, 2)
    )
    annotation = Annotation(
        outline,
        class_name=SUGGESTION_CLASS,
        class_color=QUPATH_COLORS[SUGGESTION_CLASS],
        annotation_id=suggestion_id(f"disagreement/{slide_id}/{outline.wkt}"),
        name=printable(f"{pair[0]} / {pair[1]}"),
        measurements={"Disagreement mm2": round(mm2, 6)},
        metadata={METADATA_KEY: SUGGESTION_MARK},
    )
    return region, annotation
