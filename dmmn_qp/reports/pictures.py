"""Small pictures of slides for a page: the slide, and its annotations as a layer to lay over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely.geometry.base import BaseGeometry

from dmmn_qp.regions import Region
from dmmn_qp.reports.inputs import ImportedData, ImportedSlide
from dmmn_qp.slides.base import read_overview
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.tissue import tissue_mask
from dmmn_qp.specs import MM2_OF_UM2, UNLABELLED

NOT_TRAINED_COLOR: Final = (95, 95, 95)
"""Outline of what is drawn but labels nothing."""

PALE: Final = 0.45
"""Part of the tissue's colour in an area's, where labels lie over tissue."""

_OVERVIEW_PX = 1024
_JPEG_QUALITY = 82
_FILL_ALPHA = 110
_SIZES = ((24, 800), (100, 560))
_SMALLEST_PX = 360


@dataclass(frozen=True, slots=True)
class SlidePicture:
    """What a page shows of a slide.

    Attributes:
        jpeg: The slide.
        overlay: Its annotations: a PNG of the same size, transparent where nothing is drawn.
        width: Columns of both.
        height: Rows of both.
        tissue_mm2: Estimated area of tissue.
    """

    jpeg: bytes
    overlay: bytes
    width: int
    height: int
    tissue_mm2: float


def picture_px(n_slides: int) -> int:
    """Longest side of each slide's picture, so that a page of many slides stays small enough to open."""
    return next((size for up_to, size in _SIZES if n_slides <= up_to), _SMALLEST_PX)


def draw_slide(slide: ImportedSlide, data: ImportedData, longest_px: int) -> SlidePicture:
    """Draws a slide and its annotations; what of it is damaged stays black.

    Args:
        slide: The slide; it is opened once.
        data: What was imported, for the colours of the classes.
        longest_px: Longest side of the picture.

    Raises:
        SlideError: The slide cannot be opened.
    """
    record = slide.record
    with ForgivingSlide(slide.open()) as opened:
        overview = read_overview(opened, max(_OVERVIEW_PX, longest_px))
    tissue_mm2 = float(tissue_mask(overview).mean()) * record.width * record.height * record.mpp**2 * MM2_OF_UM2
    picture = Image.fromarray(overview)
    picture.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
    jpeg = BytesIO()
    picture.save(jpeg, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    overlay = BytesIO()
    Image.fromarray(draw_overlay(slide, data, picture.size)).save(overlay, "PNG")
    return SlidePicture(jpeg.getvalue(), overlay.getvalue(), picture.width, picture.height, tissue_mm2)


def blank_picture(slide: ImportedSlide, longest_px: int) -> SlidePicture:
    """A picture that stands for a slide that cannot be drawn: grey, of the slide's shape."""
    record = slide.record
    scale = longest_px / max(record.width, record.height)
    size = max(1, round(record.width * scale)), max(1, round(record.height * scale))
    jpeg, overlay = BytesIO(), BytesIO()
    Image.new("RGB", size, (225, 225, 225)).save(jpeg, "JPEG")
    Image.new("RGBA", size).save(overlay, "PNG")
    return SlidePicture(jpeg.getvalue(), overlay.getvalue(), *size, tissue_mm2=0)


def draw_overlay(slide: ImportedSlide, data: ImportedData, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The labels of a slide, half transparent, and the outlines of all that is drawn on it.

    Outlines keep what is too small for a pixel of the picture in sight; those of annotations that label nothing are
    grey.

    Args:
        slide: The slide.
        data: What was imported, for the colours of the classes.
        size: (width, height) of the picture.

    Returns:
        (height, width, 4) uint8 RGBA.
    """
    width, height = size
    downsample = max(slide.record.width / width, slide.record.height / height)
    palette = data.class_map.palette(alpha=_FILL_ALPHA)
    layer = Image.fromarray(palette[slide.painter.at(downsample).paint(Region(0, 0, width, height))])
    pen = ImageDraw.Draw(layer)
    labels = np.array([data.label_of(slide, annotation) or UNLABELLED for annotation in slide.annotations])
    lines, owners = _lines([annotation.geometry for annotation in slide.annotations])
    spans = shapely.bounds(lines) / downsample
    tiny = np.maximum(spans[:, 2] - spans[:, 0], spans[:, 3] - spans[:, 1]) < 1
    colors = {**data.class_map.colormap(), UNLABELLED: NOT_TRAINED_COLOR}
    for i in np.argsort(labels[owners] != UNLABELLED, kind="stable"):  # what is trained on top
        color = (*colors[labels[owners[i]]], 255)
        points = (shapely.get_coordinates(lines[i])[: 1 if tiny[i] else None] / downsample).ravel().tolist()
        if tiny[i]:
            pen.point(points, fill=color)
        else:
            pen.line(points, fill=color, width=2)
    return np.asarray(layer)


def labels_over_tissue(
    tissue: NDArray[np.uint8], labels: NDArray[np.uint8], colors: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Labels over a picture, which is faded where nothing is labelled: (rows, columns, 3) uint8.

    Args:
        tissue: (rows, columns, 3) uint8 RGB.
        labels: (rows, columns) uint8.
        colors: (256, 3) uint8 colour of each label.
    """
    below = tissue.astype(np.float32)
    above = colors.astype(np.float32)[labels]
    mixed = np.where((labels != UNLABELLED)[..., None], (1 - PALE) * above + PALE * below, below * 0.6 + 255 * 0.4)
    return np.asarray(mixed, np.uint8)


def jpeg_of(pixels: NDArray[np.uint8], quality: int = 85) -> bytes:
    """A picture as JPEG that keeps colours where areas are small.

    Args:
        pixels: (rows, columns, 3) uint8 RGB.
        quality: Of the JPEG.
    """
    content = BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality, subsampling=0, optimize=True)
    return content.getvalue()


def _lines(geometries: Sequence[BaseGeometry]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Every ring, line and point of some geometries, and the number of the geometry that each comes from."""
    parts, owners = shapely.get_parts(np.array(geometries, dtype=object), return_index=True)
    areas = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings, of_area = shapely.get_rings(parts[areas], return_index=True)
    lines = np.concatenate([rings, parts[~areas]])
    owners = np.concatenate([owners[areas][of_area], owners[~areas]])
    present = ~shapely.is_empty(lines)
    return lines[present], owners[present]
