"""A slide whose damaged parts are black: for pictures of the whole, which must not fail for one tile."""

from __future__ import annotations

from typing import Self

import numpy as np

from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide

PART_PX = 512
"""Side of the parts that are tried one by one where a region cannot be read."""


class ForgivingSlide:
    """Reads what can be read; the rest is 0. It owns the slide and closes it.

    What a server does not give is not damaged, and nothing may stand for it.

    Args:
        slide: A slide that goes on reading after an error.
    """

    def __init__(self, slide: Slide) -> None:
        self._slide = slide
        self.info = slide.info

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`; it never raises but where a server does not answer, or gives another file."""
        try:
            return self._slide.read_level(level, region)
        except SlidePlaceError:
            raise
        except SlideError:
            pixels = np.zeros((region.height, region.width, 3), np.uint8)
        if max(region.width, region.height) > PART_PX:
            for part in region.tiles(PART_PX):
                y, x = part.y - region.y, part.x - region.x
                pixels[y : y + part.height, x : x + part.width] = self.read_level(level, part)
        return pixels

    def close(self) -> None:
        """Releases the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
