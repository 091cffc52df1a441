"""Whether a smaller picture is a reduced copy of a larger one: by looking, at a few small places."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmmn_qp.errors import SlidePlaceError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray

PLACES: Final = ((0.5, 0.5), (0.3, 0.35), (0.7, 0.65), (0.35, 0.75), (0.65, 0.25))
"""Where is looked, as parts of width and height, after the places that a file gives most bytes to."""

ENOUGH = 2
"""Places that agree, and none that does not, settle it."""

FLAT = 5.0
"""Grey levels (RMS) below which two places do not differ, or show nothing: noise of JPEG and of glass."""

UNLIKE = 0.45
"""Largest difference (RMS) between copies, in parts of the sum of their own contrasts: it is 0.71 between strangers."""

_SIDE_PX: Final = 256  # of the larger picture, where the reduction is not larger than 32
_SMALLEST_PX: Final = 8
_LARGEST_PX: Final = 128
_MOST_PX: Final = 1024

_MOST_FILES: Final = 4096
_SEEN: Final[dict[tuple[str, int, int, int, int, int], tuple[int, ...]]] = {}


@dataclass(frozen=True, slots=True)
class Picture:
    """What is compared.

    Attributes:
        width: Columns.
        height: Rows.
        read: Gives (rows, columns, 3) uint8 of a region inside it.
    """

    width: int
    height: int
    read: Callable[[Region], RgbArray]


def fits(larger: tuple[int, int], smaller: tuple[int, int]) -> bool:
    """Whether a size is another one reduced: both sides by one number, to the pixel.

    Args:
        larger: (width, height).
        smaller: (width, height).
    """
    (width, height), (columns, rows) = larger, smaller
    if not (0 < columns < width and 0 < rows < height):
        return False
    downsample = width / columns if width >= height else height / rows
    return max(abs(width / downsample - columns), abs(height / downsample - rows)) <= 1 + 1e-9 * max(larger)


def seen_once(path: Path, reader: str, look: Callable[[], Sequence[int]]) -> tuple[int, ...]:
    """What is found by looking into a file, which is looked into again only where it has changed.

    Training opens slides over and over, and to look takes longer than to open.

    Args:
        path: The file.
        reader: Who looks.
        look: Gives the numbers of the levels, whatever the reader numbers.
    """
    status = path.stat()
    file = (reader, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    found = _SEEN.get(file)
    if found is None:
        found = tuple(look())
        if len(_SEEN) >= _MOST_FILES:
            _SEEN.clear()
        _SEEN[file] = found
    return found


def is_reduced_copy(larger: Picture, smaller: Picture, places: Sequence[tuple[float, float]] = ()) -> bool:
    """Whether nothing speaks against a picture's being another one reduced.

    A place that is damaged says nothing, nor does one that shows next to nothing in both. At most seven places of
    1024 px are read, and two of 256 px where they agree.

    Args:
        larger: The one.
        smaller: The other one, of a size that `fits`.
        places: (x, y) of the places that show most, as parts of width and height.

    Raises:
        SlideUnreachableError: They are on a server that does not answer.
        SlideChangedError: The file became another one.
    """
    alike = unlike = 0
    for place in (*places, *PLACES):
        try:
            verdict = _is_alike(larger, smaller, place)
        except SlidePlaceError:
            raise
        except Exception:  # of any kind: damage is told where it is met in reading
            continue
        alike += verdict is True
        unlike += verdict is False
        if alike >= ENOUGH and not unlike:
            break
    return unlike < alike or not unlike


def _is_alike(larger: Picture, smaller: Picture, place: tuple[float, float]) -> bool | None:
    """Whether a place looks the same in both; None where there is nothing to be seen."""
    across, down = larger.width / smaller.width, larger.height / smaller.height
    side = min(max(_SMALLEST_PX, floor(_SIDE_PX / max(across, down))), _LARGEST_PX)
    side = max(1, min(side, floor(_MOST_PX / max(across, down)), smaller.width, smaller.height))
    x = min(max(0, round(place[0] * smaller.width - side / 2)), smaller.width - side)
    y = min(max(0, round(place[1] * smaller.height - side / 2)), smaller.height - side)
    left, top = floor(x * across), floor(y * down)
    right, bottom = min(ceil((x + side) * across), larger.width), min(ceil((y + side) * down), larger.height)
    source = larger.read(Region(left, top, right - left, bottom - top))
    found = _blurred(smaller.read(Region(x, y, side, side)))
    contrast = _contrast(found)
    for reduced in _reductions(source, side, (x * across - left, y * down - top), (across, down)):
        made = _blurred(reduced)
        difference = float(np.sqrt(np.mean((made - found) ** 2)))
        other = _contrast(made)
        if max(difference, contrast, other) <= FLAT:
            return None
        if difference <= max(FLAT, UNLIKE * (contrast + other)):
            return True
    return False


def _reductions(
    source: RgbArray, side: int, corner: tuple[float, float], scale: tuple[float, float]
) -> Iterator[RgbArray]:
    """Yields what a copy may have been made to, the likeliest first.

    Means of all pixels, or of those around the middle as by interpolation; single pixels, the first, middle or last.
    """
    rows, columns, _ = source.shape
    (left, top), (across, down) = corner, scale
    box = (left, top, min(left + side * across, columns), min(top + side * down, rows))
    yield np.asarray(Image.fromarray(source).resize((side, side), Image.Resampling.BOX, box=box))

    def at(dx: float, dy: float) -> RgbArray:
        xs = np.floor(left + np.arange(side) * across + dx + 1e-6).astype(int).clip(0, columns - 1)
        ys = np.floor(top + np.arange(side) * down + dy + 1e-6).astype(int).clip(0, rows - 1)
        single: RgbArray = source[ys][:, xs]
        return single

    yield at(0, 0)
    yield at(across / 2, down / 2)
    around = [at(across / 2 + dx, down / 2 + dy) for dx in (-0.5, 0) for dy in (-0.5, 0)]
    yield np.mean(around, axis=0).astype(np.uint8)
    yield at(across - 1, down - 1)


def _blurred(pixels: RgbArray) -> NDArray[np.float32]:
    """Less of the noise and of shifts by parts of a pixel, in which copies may differ."""
    return np.asarray(cv2.blur(np.ascontiguousarray(pixels, np.float32), (3, 3)), np.float32)


def _contrast(pixels: NDArray[np.float32]) -> float:
    """Returns the RMS of the differences from the mean of each channel."""
    return float(np.sqrt(np.mean((pixels - pixels.mean(axis=(0, 1))) ** 2)))
