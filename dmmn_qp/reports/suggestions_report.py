"""`suggestions.html`: the regions to annotate next, with pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from dmmn_qp.files import new_file
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.suggestions import PAGE, Suggestion
from dmmn_qp.regions import Region
from dmmn_qp.reports.html import page_template
from dmmn_qp.slides.base import Slide, level_for, read_overview
from dmmn_qp.specs import ClassMap
from dmmn_qp.version import __version__

_TEMPLATE: Final = "suggestions.html.j2"
_REGION_PX: Final = 320
_SLIDE_PX: Final = 560
_MOST_PICTURES: Final = 60
"""Regions that are shown with pictures, so that the page stays small enough to open; the others are in the table."""

_JPEG_QUALITY: Final = 80
_FILL_ALPHA: Final = 110


@dataclass(frozen=True, slots=True)
class RegionPicture:
    """A region: the slide, and the prediction as a layer to lay over it, of the same size."""

    jpeg: bytes
    overlay: bytes


@dataclass(frozen=True, slots=True)
class SlideWithRegions:
    """A slide with its regions.

    Attributes:
        slide_id: The slide.
        jpeg: A small picture of it; None where it cannot be drawn.
        size_px: (width, height) in level-0 px.
        class_map: The predicted classes.
        pictures: Pictures of its regions, by rank.
    """

    slide_id: str
    jpeg: bytes | None
    size_px: tuple[int, int]
    class_map: ClassMap
    pictures: Mapping[int, RegionPicture]


def draw_slide_with_regions(
    slide_id: str, opened: Slide, labels: Path, class_map: ClassMap, regions: Mapping[int, Region]
) -> SlideWithRegions:
    """Draws a slide and its regions.

    Args:
        slide_id: The slide.
        opened: The same, open.
        labels: The raster of its labels.
        class_map: The predicted classes.
        regions: The regions by rank, in level-0 px; of those beyond `_MOST_PICTURES` no picture is drawn.

    Raises:
        DatasetError: The raster is missing or damaged.
    """
    info = opened.info
    picture = Image.fromarray(read_overview(opened, _SLIDE_PX))
    with LabelRaster(labels) as raster:
        scale = info.width / raster.shape[1]
        pictures = {
            rank: _draw_region(opened, raster, scale, class_map, region)
            for rank, region in regions.items()
            if rank <= _MOST_PICTURES
        }
    return SlideWithRegions(slide_id, _jpeg(picture), (info.width, info.height), class_map, pictures)


def _draw_region(
    opened: Slide, raster: LabelRaster, scale: float, class_map: ClassMap, region: Region
) -> RegionPicture:
    """One region at `_REGION_PX`, read at the level of the slide that is fine enough."""
    wanted = max(1.0, max(region.width, region.height) / _REGION_PX)
    level, (across, down) = level_for(opened.info, wanted)
    source = Region(
        round(region.x / across),
        round(region.y / down),
        max(1, round(region.width / across)),
        max(1, round(region.height / down)),
    )
    size = (max(1, round(region.width / wanted)), max(1, round(region.height / wanted)))
    pixels = Image.fromarray(opened.read_level(level, source)).resize(size, Image.Resampling.BOX)
    grid = Region(
        round(region.x / scale),
        round(region.y / scale),
        max(1, round(region.width / scale)),
        max(1, round(region.height / scale)),
    )
    palette = class_map.palette(alpha=_FILL_ALPHA)
    labels = Image.fromarray(raster.read(grid)).resize(size, Image.Resampling.NEAREST)
    layer = BytesIO()
    Image.fromarray(palette[np.asarray(labels)]).save(layer, "PNG")
    return RegionPicture(_jpeg(pixels), layer.getvalue())


def _jpeg(picture: Image.Image) -> bytes:
    content = BytesIO()
    picture.save(content, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return content.getvalue()


def write_suggestions_report(
    folder: Path, regions: Sequence[Suggestion], slides: Sequence[SlideWithRegions], notes: Sequence[str]
) -> Path:
    """Writes the page.

    Args:
        folder: The folder of suggestions.
        regions: The regions, by rank.
        slides: The slides on which they are.
        notes: What was looked at and how, a paragraph each.

    Returns:
        The page.
    """
    pictures = {rank: picture for slide in slides for rank, picture in slide.pictures.items()}
    classes = {c.name: c.color for slide in slides for c in slide.class_map.classes}
    page = page_template(_TEMPLATE).render(
        regions=regions,
        slides=slides,
        pictures=pictures,
        classes=classes,
        of_slide={s.slide_id: [r for r in regions if r.slide_id == s.slide_id] for s in slides},
        mm2=sum(r.mm2 for r in regions),
        notes=notes,
        made_by=f"dmmn-qp {__version__}",
    )
    with new_file(folder / PAGE) as temporary:
        temporary.write_text(page, "utf-8")
    return folder / PAGE
