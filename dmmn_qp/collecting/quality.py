"""Whether a slide is out of focus, and whether somebody wrote on it: from a small picture and a few places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import SlideError
from dmmn_qp.folders.predicted_image import view_of_image
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, overview_downsample, read_field, read_overview
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.tissue import tissue_mask
from dmmn_qp.specs import MM2_OF_UM2, PatchSpec

BLURRED: Final = 0.6
"""Blur from which on a slide is called out of focus.

Chosen on four images of slides and ten tiles of a fifth one, and tried on no others: sharp they have 0.25 to 0.43,
blurred by a Gauss of 1.5 um 0.66 to 0.78.
"""

PEN_MM2: Final = 0.25
"""Area in one piece from which on a colour that no stain gives is called writing: half a millimetre each way."""

_FOCUS_UM: Final = 0.5
"""um/px at which focus is looked at; slides of more than `_COARSEST_UM` do not show it."""

_COARSEST_UM: Final = 1.0

_PLACES: Final = 48
"""Places in the tissue at which focus is looked at."""

_PLACE_PX: Final = 256

_WINDOW: Final = 9
"""Pixels over which a place is blurred again, to see how much of it goes."""

_PICTURE_UM: Final = 8.0
_PICTURE_PX: Final = 4096
"""um/px of the small picture, and the most that its longer side may have."""

_GREENER: Final = 20
"""By how much green may be stronger than red (0 .. 255). Haematoxylin, eosin and DAB all take more green from the light
than red, so no mixture of them is greener; the rest is noise and the colour of the glass."""


@dataclass(frozen=True, slots=True)
class SlideQuality:
    """What speaks against a slide's figures.

    Attributes:
        blur: How much of the detail is gone in the middle one of many places in the tissue, 0 to 1; None where the
            slide shows no tissue, or too coarsely.
        pen_mm2: Area of the colours of green and blue pens, in pieces as large as writing.
    """

    blur: float | None
    pen_mm2: float

    @property
    def is_blurred(self) -> bool:
        """Whether it is out of focus."""
        return self.blur is not None and self.blur > BLURRED

    @property
    def has_pen(self) -> bool:
        """Whether somebody wrote on it."""
        return self.pen_mm2 > 0


def quality_of(
    slide_id: str, image: PredictedInput | None, mpp: float | None, slides_roots: Sequence[SlidesRoot]
) -> SlideQuality:
    """Measures a predicted slide.

    Args:
        slide_id: Its name in file names.
        image: What is known of its file.
        mpp: um/px of its level 0 as it was predicted; None where that is not recorded.
        slides_roots: Folders to search for slides that have been moved.

    Raises:
        SlideError: The slide is nowhere, or cannot be opened.
    """
    if image is None:
        raise SlideError(f'run.json does not tell which file slide "{slide_id}" was predicted from; predict it again')
    stated = StatedMpp(stored=mpp, stored_by="the prediction")
    with ForgivingSlide(view_of_image(slide_id, image, stated, slides_roots).open()) as slide:
        return measure_quality(slide)


def measure_quality(slide: Slide) -> SlideQuality:
    """Measures an open slide, of which it reads a small picture and `_PLACES` places."""
    info = slide.info
    longest = min(_PICTURE_PX, max(1, ceil(max(info.width, info.height) * info.mpp / _PICTURE_UM)))
    picture = read_overview(slide, longest)
    downsample = overview_downsample(info, longest)
    stained = tissue_mask(picture) & ~_is_greener(picture)
    found = [blur_of(place) for place in _places(slide, stained, downsample)]
    return SlideQuality(float(np.median(found)) if found else None, pen_mm2_of(picture, downsample * info.mpp))


def _places(slide: Slide, tissue: NDArray[np.bool_], downsample: float) -> Iterator[RgbArray]:
    """Squares of tissue, spread evenly over it; always the same ones.

    Args:
        slide: The slide.
        tissue: Its tissue in a small picture.
        downsample: Level-0 px for each pixel of that.
    """
    if slide.info.mpp > _COARSEST_UM or not tissue.any():
        return
    grid = PatchSpec(size_px=_PLACE_PX, mpps=(max(_FOCUS_UM, slide.info.mpp),)).grid_of(slide.info.mpp)
    rows, columns = grid.shape(slide.info.width, slide.info.height)
    height, width = min(_PLACE_PX, rows), min(_PLACE_PX, columns)
    there = np.flatnonzero(tissue)
    chosen = there[np.unique(np.linspace(0, there.size - 1, _PLACES).astype(np.int64))]
    for row, column in zip(*np.unravel_index(chosen, tissue.shape), strict=True):
        y, x = (int((i + 0.5) * downsample / grid.downsample) for i in (row, column))
        corner = (min(max(0, x - width // 2), columns - width), min(max(0, y - height // 2), rows - height))
        yield read_field(slide, grid, 0, Region(*corner, width, height))


def blur_of(pixels: RgbArray) -> float:
    """How blurred a picture is: the part of its differences between neighbours that is left when it is blurred again.

    Of a sharp picture little is left. The idea is that of Crete et al. (2007).

    Args:
        pixels: (rows, columns, 3) uint8 RGB.

    Returns:
        0 to 1, along the axis in which it is the more blurred; 1 for an empty picture.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    left = []
    for axis, window in enumerate(((1, _WINDOW), (_WINDOW, 1))):
        again = cv2.blur(grey, window, borderType=cv2.BORDER_REFLECT)
        before, after = (np.abs(np.diff(values, axis=axis)) for values in (grey, again))
        total = float(before.sum())
        left.append(1 - float(np.maximum(before - after, 0).sum()) / total if total > 0 else 1.0)
    return max(left)


def pen_mm2_of(picture: RgbArray, um_per_px: float) -> float:
    """Area of the colours of green and blue pens in a picture of a slide, in pieces of at least `PEN_MM2`.

    Args:
        picture: (rows, columns, 3) uint8 RGB.
        um_per_px: Of it.
    """
    _, _, statistics, _ = cv2.connectedComponentsWithStats(_is_greener(picture).astype(np.uint8), connectivity=8)
    mm2 = statistics[1:, cv2.CC_STAT_AREA] * um_per_px**2 * MM2_OF_UM2
    return float(mm2[mm2 >= PEN_MM2].sum())


def _is_greener(picture: RgbArray) -> NDArray[np.bool_]:
    """Which pixels have a colour that no stain gives, and are no tissue whatever lies under them."""
    red, green = picture[..., 0].astype(np.int16), picture[..., 1].astype(np.int16)
    return np.asarray(green - red > _GREENER)
