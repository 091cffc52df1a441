"""Where a slide is predicted: all of it, its tissue, regions of interest, or what is in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import ceil
from typing import Any, Final

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Outside
from dmmn_qp.errors import AnnotationFileError, ConfigError, SlideError
from dmmn_qp.labels.class_rules import NOT_TISSUE, background_of
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.qupath.geojson_reader import read_geojson
from dmmn_qp.qupath.qpdata import read_qpdata
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide, overview_downsample, read_overview
from dmmn_qp.slides.tissue import cleaned, tissue_mask
from dmmn_qp.specs import UNLABELLED, ClassMap, PatchGrid
from dmmn_qp.text import shorten
from dmmn_qp.vectors.polygonize import polygonize
from dmmn_qp.vectors.sources import ArrayLabels

TISSUE_UM: Final = 8.0
"""Wanted um/px of the picture in which tissue is sought."""

TISSUE_PX: Final = 4096
"""Longest side of that picture: on slides of more than 32 mm its pixels are larger than wanted."""

OUTLINE_BLUR_PX: Final = 1.0
"""Sigma of the blur that takes the steps from the tissue's outline, in pixels of that picture."""

_BETWEEN: Final = (0.1, 0.9)
"""How near to the centres of pixels the outline may come, so that it does not meet itself there."""

_STRAIGHT_PX: Final = 0.05
"""By how much points of it may lie beside the straight line on which they are left out."""

_CLIPPED_VERTICES: Final = 2000
"""Outlines of more are cut to the block before they are painted, because painting looks at all edges in every row."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """Where to predict a slide.

    Attributes:
        targets: (rows, columns) bool, the targets to predict; the one of row r and column c starts at grid px
            (c * size, r * size), whatever chose it.
        outline: Regions of interest in level-0 px of QuPath's frame that pixels must lie in; None for none.
        within_tissue: Area of the tissue, likewise; where it ends at the slide's right or lower border, it reaches a
            pixel beyond, so that the last pixels are inside. None where pixels need not lie in it.
        tissue: Outline of the tissue in level-0 px, to be shown; None where tissue was not sought.
    """

    targets: NDArray[np.bool_]
    outline: BaseGeometry | None = None
    within_tissue: BaseGeometry | None = None
    tissue: BaseGeometry | None = None
    _limits: tuple[shapely.STRtree, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        limits = []
        for outline in self.outlines:
            parts = shapely.get_parts(outline)
            shapely.prepare(parts)
            limits.append(shapely.STRtree(parts))
        object.__setattr__(self, "_limits", tuple(limits))

    @property
    def outlines(self) -> tuple[BaseGeometry, ...]:
        """The areas in all of which pixels must lie, in level-0 px."""
        return tuple(outline for outline in (self.outline, self.within_tissue) if outline is not None)

    @property
    def is_whole(self) -> bool:
        """Whether every pixel of the slide is predicted."""
        return not self._limits and bool(self.targets.all())

    def mask(self, block: Region, grid: PatchGrid) -> NDArray[np.bool_] | None:
        """The pixels of a block that are to have a prediction.

        A pixel lies inside an outline when its centre does, as in `LabelPainter`. Only the block is looked at.

        Args:
            block: In grid px; it may leave the slide.
            grid: The patch grid on the slide.

        Returns:
            (height, width) bool, False too in targets that are not predicted; None where all pixels are inside.
        """
        size = grid.spec.size_px
        rows, row_inside = _places(block.y, block.height, size, self.targets.shape[0])
        columns, column_inside = _places(block.x, block.width, size, self.targets.shape[1])
        inside = self.targets[np.ix_(rows, columns)] & np.logical_and.outer(row_inside, column_inside)
        for parts in self._limits:
            if not inside.any():
                return inside
            of_outline = _in_outline(parts, block, grid.downsample)
            if of_outline is not None:
                inside &= of_outline
        return None if inside.all() else inside


def _in_outline(outline: shapely.STRtree, block: Region, scale: float) -> NDArray[np.bool_] | None:
    """Pixels of a block whose centres lie in an outline.

    Args:
        outline: Its parts, in level-0 px.
        block: In grid px.
        scale: Level-0 px per grid px.

    Returns:
        (height, width) bool; None where all of the block lies in one part.
    """
    window = shapely.box(block.x * scale, block.y * scale, block.right * scale, block.bottom * scale)
    parts = outline.geometries[np.sort(outline.query(window))]
    if shapely.covers(parts, window).any():
        return None
    margin = 2 * scale  # so that edges of the cut lie outside the block
    bounds = (*(v - margin for v in window.bounds[:2]), *(v + margin for v in window.bounds[2:]))
    pieces = [PaintedArea(piece, 1) for part in parts for piece in _cut(part, bounds)]
    return np.asarray(AreaLayer(pieces).burn(block, scale) > 0)


def _places(start: int, length: int, size: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The target of each pixel along one side, and whether there is one."""
    targets = np.arange(start, start + length) // size
    return np.clip(targets, 0, count - 1), (targets >= 0) & (targets < count)


def _cut(part: BaseGeometry, bounds: tuple[float, ...]) -> list[BaseGeometry]:
    """The polygons of an area within bounds; a small area as it is."""
    if shapely.get_num_coordinates(part) <= _CLIPPED_VERTICES:
        return [part]
    pieces = shapely.get_parts(shapely.get_parts(shapely.clip_by_rect(part, *bounds)))
    return [piece for piece in pieces if piece.geom_type == "Polygon" and not piece.is_empty]


def is_restricted(slide: SlideToPredict, options: PredictOptions) -> bool:
    """Whether parts of a slide may be left out."""
    return options.tissue_only or options.roi_class is not None or slide.roi is not None


def area_to_predict(slide: Slide, target: SlideToPredict, grid: PatchGrid, options: PredictOptions) -> Area:
    """Where to predict a slide: all of it, or what is in the tissue and in the regions, as far as asked for.

    Args:
        slide: The open slide.
        target: The same as the user named it.
        grid: The patch grid on it.
        options: Resolved options.

    Raises:
        SlideError: The regions cannot be read, or there are none.
    """
    area = whole_area(slide, grid)
    if options.tissue_only or options.tissue_outline:
        tissue = tissue_area(
            slide,
            grid,
            min_area_um2=options.tissue_min_area_um2,
            min_hole_um2=options.tissue_min_hole_um2,
            margin_um=options.tissue_margin_um,
        )
        area = tissue if options.tissue_only else replace(area, tissue=tissue.tissue)
    if target.roi is not None or options.roi_class is not None:
        regions = region_area(slide, grid, read_regions(target, options.roi_class), options.roi_class)
        area = replace(area, targets=regions.targets & area.targets, outline=regions.outline)
    return area


def whole_area(slide: Slide, grid: PatchGrid) -> Area:
    """All targets of a slide."""
    rows, columns = grid.shape(slide.info.width, slide.info.height)
    size = grid.spec.size_px
    return Area(np.ones((-(-rows // size), -(-columns // size)), np.bool_))


def tissue_area(
    slide: Slide,
    grid: PatchGrid,
    *,
    min_area_um2: float = 0.0,
    min_hole_um2: float = 0.0,
    margin_um: float = 0.0,
    resolution_um: float = TISSUE_UM,
) -> Area:
    """The tissue of a slide, found in a small picture of it; pixels outside its outline are outside.

    The paper's Otsu rule, on the colourfulness of pixels (`tissue_mask`).

    Args:
        slide: The slide.
        grid: The patch grid on it.
        min_area_um2: Smaller parts of the tissue are dropped.
        min_hole_um2: Smaller holes are filled.
        margin_um: How far beyond its border the tissue is taken to reach.
        resolution_um: um/px of the picture; on large slides it is coarser, so that memory is bounded.
    """
    info = slide.info
    longest = max(info.width, info.height)
    longest_px = min(TISSUE_PX, max(1, ceil(longest / max(1.0, resolution_um // info.mpp))))
    downsample = overview_downsample(info, longest_px)
    um = downsample * info.mpp
    mask = cleaned(
        tissue_mask(read_overview(slide, longest_px)),
        min_area_px=min_area_um2 / um**2,
        min_hole_px=min_hole_um2 / um**2,
        margin_px=margin_um / um,
    )
    limit, ends = np.array([info.width, info.height], float), mask.shape[::-1]
    outline = _traced(mask)  # the mask's last row and column end with the slide, or reach past it
    traced = shapely.transform(
        outline, lambda xy: np.where(xy >= ends, limit, np.minimum(np.round(xy * downsample, 2), limit))
    )
    reaching = shapely.transform(traced, lambda xy: np.where(xy >= limit, limit + grid.downsample, xy))
    shape = whole_area(slide, grid).targets.shape
    return Area(_touched(reaching, grid, (shape[0], shape[1])), within_tissue=reaching, tissue=traced)


def _traced(mask: NDArray[np.bool_]) -> BaseGeometry:
    """The outline of a mask in its pixels, without their steps; at the border of the mask it goes on straight.

    It runs between the centres of pixels in and beside the mask, where the blurred mask is a half. So all pixels stay
    on their side of it, and it cannot meet itself.
    """
    around = np.pad(mask.astype(np.uint8), 1, mode="edge")
    heights = around.astype(np.float32)
    blurred = cv2.GaussianBlur(heights, (0, 0), OUTLINE_BLUR_PX, borderType=cv2.BORDER_REPLICATE)
    found = [polygon for outlines in polygonize(ArrayLabels(around)) for polygon in outlines.geometries()]
    smooth = [
        shapely.Polygon(
            _between_centres(polygon.exterior, blurred), [_between_centres(r, blurred) for r in polygon.interiors]
        )
        for polygon in found
    ]
    height, width = mask.shape
    inside = shapely.transform(shapely.MultiPolygon(smooth), lambda xy: np.clip(xy - 1, 0, (width, height)))
    return shapely.MultiPolygon(list(_polygons(shapely.simplify(inside, _STRAIGHT_PX, preserve_topology=False))))


def _between_centres(ring: BaseGeometry, heights: NDArray[Any]) -> NDArray[np.float64]:
    """Where a ring along the edges of pixels meets a height of a half.

    Args:
        ring: In pixels of ``heights``.
        heights: (rows, columns).

    Returns:
        (edges, 2) a point for each pixel's edge of the ring, on the line between the centres on its two sides.
    """
    xy = shapely.get_coordinates(shapely.segmentize(ring, 1))
    middles = (xy[:-1] + xy[1:]) / 2
    is_across = xy[:-1, 1] == xy[1:, 1]  # an edge between two rows
    step = np.where(is_across[:, None], (0.0, 0.5), (0.5, 0.0))
    rows, columns = heights.shape
    first, last = (
        heights[np.clip(at[:, 1], 0, rows - 1), np.clip(at[:, 0], 0, columns - 1)].astype(float)
        for at in (np.floor(middles - step).astype(np.int64), np.floor(middles + step).astype(np.int64))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(first != last, (first - 0.5) / (first - last), 0.5)
    return np.asarray(middles + (2 * np.clip(part, *_BETWEEN) - 1)[:, None] * step)


def read_regions(target: SlideToPredict, class_pattern: str | None) -> tuple[Annotation, ...]:
    """The objects among which the regions of a slide are: of its own file of areas, else of its project or dataset.

    Raises:
        SlideError: They are damaged, or the slide has none.
    """
    path = target.roi or target.annotations
    if path is None:
        raise SlideError(
            f'slide "{target.slide_id}" has no annotations in which to look for "{class_pattern}"; pass a GeoJSON file '
            "as --roi, or predict the images of a .qpproj"
        )
    try:
        return (read_qpdata(path) if path.suffix == ".qpdata" else read_geojson(path)).annotations
    except AnnotationFileError as error:
        raise SlideError(f'regions of slide "{target.slide_id}": {error}') from error


def region_area(
    slide: Slide, grid: PatchGrid, annotations: Sequence[Annotation], class_pattern: str | None = None
) -> Area:
    """The regions of interest of a slide; pixels outside them are outside.

    Args:
        slide: The slide.
        grid: The patch grid on it.
        annotations: Objects in level-0 px of QuPath's frame; only areas count, on whatever plane.
        class_pattern: Only areas of this class, or, where there is no class of just this name, of those that the
            pattern matches (``*``, ``?``; case counts). None for all areas.

    Raises:
        SlideError: There is no such area on the slide.
    """
    info = slide.info
    areas = [a for a in annotations if a.is_area]
    if class_pattern is not None:
        names = {a.class_name for a in areas if a.class_name is not None}
        wanted = {class_pattern} & names or {name for name in names if fnmatchcase(name, class_pattern)}
        areas = [a for a in areas if a.class_name in wanted]
        if not areas:
            has = f"its classes are {', '.join(shorten(n, 40) for n in sorted(names)[:20])}" if names else "it has none"
            raise SlideError(f'slide "{info.path}" has no area of a class "{class_pattern}"; {has}: check --roi-class')
    outline = shapely.intersection(
        shapely.union_all([a.geometry for a in areas]), shapely.box(0, 0, info.width, info.height)
    )
    outline = shapely.MultiPolygon(list(_polygons(outline)))
    if outline.is_empty:
        raise SlideError(
            f'none of the {len(areas)} areas to predict lies on slide "{info.path}"; check that they were drawn on it'
        )
    shape = whole_area(slide, grid).targets.shape
    return Area(_touched(outline, grid, (shape[0], shape[1])), outline)


def _polygons(geometry: BaseGeometry) -> Iterable[BaseGeometry]:
    return (part for part in shapely.get_parts(shapely.get_parts(geometry)) if part.geom_type == "Polygon")


def _touched(outline: BaseGeometry, grid: PatchGrid, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The targets in which a pixel's centre may lie in an outline: the rectangle from first to last centre meets it."""
    scale, size = grid.downsample, grid.spec.size_px
    parts = shapely.get_parts(outline)
    tree = shapely.STRtree(parts)
    shapely.prepare(parts)
    touched = np.zeros(shape, np.bool_)
    xs = np.arange(shape[1]) * size
    for row in range(shape[0]):  # a row at a time, so that memory is bounded
        y = row * size
        boxes = shapely.box((xs + 0.5) * scale, (y + 0.5) * scale, (xs + size - 0.5) * scale, (y + size - 0.5) * scale)
        which, near = tree.query(boxes)
        meets = shapely.intersects(parts[near], boxes[which])  # the tree's own test would not use what is prepared
        touched[row, np.unique(which[meets])] = True
    return touched


def outside_label(class_map: ClassMap, rule: Outside) -> int:
    """The label of what is not predicted.

    Args:
        class_map: The model's classes.
        rule: ``unlabelled`` is 0; ``background`` the class that stands for no tissue, see `background_of`.

    Raises:
        ConfigError: The model has no such class.
    """
    if rule == "unlabelled":
        return UNLABELLED
    background = background_of(class_map.classes)
    if background is None:
        raise ConfigError(
            f"--outside background needs a class whose name begins with one of {', '.join(NOT_TISSUE)}, but the model "
            f"has {', '.join(class_map.names)}; pass --outside unlabelled"
        )
    return background.label
