"""Pixels in memory as a slide of one level."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo, read_inside
from dmmn_qp.specs import MAX_MPP, MIN_MPP

NAME = "pixels in memory"
"""What such a slide is called in messages; its `SlideInfo.path` is no file."""


class ArraySlide:
    """An array of pixels that is read like a slide; nothing is copied.

    Args:
        pixels: (rows, columns, 3) uint8 RGB.
        mpp: um/px.

    Raises:
        SlideError: The array is none of RGB bytes.
        PixelSizeError: The pixel size is implausible.
    """

    def __init__(self, pixels: ArrayLike, mpp: float) -> None:
        self._pixels = rgb_of(pixels)
        check_mpp(mpp)
        rows, columns, _ = self._pixels.shape
        self.info = SlideInfo(Path(NAME), columns, rows, float(mpp), (1.0,))

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        if level != 0:
            raise IndexError(f"an array has one level, not level {level}")
        return read_inside(region, self.info.width, self.info.height, self._read)

    def _read(self, inside: Region) -> RgbArray:
        return self._pixels[inside.y : inside.bottom, inside.x : inside.right]

    def close(self) -> None:
        """Does nothing: the array is the caller's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_mpp(mpp: float) -> None:
    """Refuses what cannot be the um/px of an array.

    Raises:
        PixelSizeError: It is implausible.
    """
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise PixelSizeError(
            f"mpp={mpp:g} is no pixel size of a slide; give the um/px of the array, between {MIN_MPP:g} and "
            f"{MAX_MPP:g}, such as mpp=0.5 for 20x"
        )


def rgb_of(pixels: ArrayLike) -> RgbArray:
    """Returns an array as (rows, columns, 3) uint8.

    Raises:
        SlideError: It is of another shape or type; nothing is guessed.
    """
    array = np.asarray(pixels)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise SlideError(
            f"pixels have shape {array.shape}, but must be (rows, columns, 3) in RGB; leave out an alpha channel with "
            "pixels[..., :3], and move channels to the end with numpy.moveaxis(pixels, 0, -1)"
        )
    if array.dtype != np.uint8:
        raise SlideError(
            f"pixels are of type {array.dtype}, but must be uint8, 0 .. 255; of values 0 .. 1 make them with "
            "(pixels * 255).round().astype('uint8')"
        )
    return array
