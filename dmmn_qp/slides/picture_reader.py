"""Plain pictures (PNG, JPEG, BMP) as slides of one level."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.pixel_sizes import StatedMpp

MAX_PIXELS = 30_000 * 30_000
"""A plain picture is decoded whole, so its size is limited; larger ones belong into a tiled format."""

_TILED: Final = "convert it to a tiled pyramid, for example with QuPath (Export images > OME TIFF)"

_MODES: Final = frozenset({"1", "L", "P", "RGB", "LA", "PA", "RGBA", "La", "RGBa"})
"""Modes of Pillow's whose pixels become RGB as they are meant: 8 bits a sample, or 1 bit."""

_DEEP_MODES: Final = {"I": "16 or 32 bits", "F": "32 bits", "I;16": "16 bits", "I;16L": "16 bits", "I;16B": "16 bits"}
_JPEG_2000_START: Final = b"\xff\x4f\xff\x51"  # a codestream, and the marker of its sizes
_LONGEST_JPEG_2000_HEADER: Final = 1 << 16


class PictureReader:
    """A picture that Pillow reads, held in memory.

    Only what becomes RGB as it is meant is read. Pillow cuts grey levels of 16 bits off at 255, and of white it makes
    black in JPEG 2000 of more than 8 bits; inks have no colours without a profile.

    Args:
        path: The picture.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: Pictures have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: Pillow cannot read the file, it is too large for an untiled picture, or no grey or RGB of 8 bits.
        PixelSizeError: The pixel size is unknown: resolution tags of pictures mean paper, not tissue.
    """

    def __init__(
        self,
        path: Path,
        *,
        mpp: StatedMpp | float | None = None,
        crop_to_bounds: bool = True,
    ) -> None:
        del crop_to_bounds
        try:
            with opened_picture(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise SlideError(
                        f'picture "{path}" has {width} x {height} px, more than an untiled picture may have; {_TILED}'
                    )
                not_rgb = _not_rgb(path, image)
                if not_rgb is not None:
                    raise SlideError(f'picture "{path}" has {not_rgb}; save it as RGB of 8 bits')
                pixel_size = StatedMpp.of(mpp).resolve(path.name, None)
                self._pixels = np.asarray(_flat_rgb(image))
        except Image.DecompressionBombError as error:
            raise SlideError(f'picture "{path}" has more pixels than an untiled picture may have; {_TILED}') from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
            reason = " ".join(str(error).split())
            raise SlideError(
                f'slide "{path}" can be read neither by OpenSlide nor as a picture ({reason}); convert it to '
                "a format that OpenSlide reads"
            ) from error
        self.info = SlideInfo(path, width, height, pixel_size.mpp, (1.0,), pixel_size=pixel_size)

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        if level != 0:
            raise IndexError(f"a picture has one level, not level {level}")
        return read_inside(region, self.info.width, self.info.height, self._read)

    def _read(self, inside: Region) -> RgbArray:
        return self._pixels[inside.y : inside.bottom, inside.x : inside.right]

    def close(self) -> None:
        """Releases the pixels."""
        self._pixels = np.zeros((0, 0, 3), np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """Opens a picture with Pillow, whose warnings name no file: what is wrong with it is an error, which names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            yield picture


def _not_rgb(path: Path, image: Image.Image) -> str | None:
    """Tells what a picture is where it is no grey or RGB of 8 bits."""
    if image.mode in _DEEP_MODES:
        return f"{_DEEP_MODES[image.mode]} per sample instead of 8"
    if image.mode not in _MODES:
        return f"colours of kind {image.mode} instead of RGB"
    if image.format == "JPEG2000":
        depths = _jpeg_2000_depths(path)
        if depths - {8}:
            return f"{max(depths - {8})} bits per sample instead of 8"
    return None


def _jpeg_2000_depths(path: Path) -> set[int]:
    """Bits per sample of the components of a JPEG 2000; none where they are not found."""
    with path.open("rb") as file:
        head = file.read(_LONGEST_JPEG_2000_HEADER)
    start = head.find(_JPEG_2000_START)
    if start < 0:
        return set()
    sizes = start + len(_JPEG_2000_START)  # then a length and a profile, 8 sizes of 4 bytes, a count, and 3 bytes each
    components = int.from_bytes(head[sizes + 36 : sizes + 38], "big")
    return {(depth & 0x7F) + 1 for depth in head[sizes + 38 : sizes + 38 + 3 * components : 3]}


def _flat_rgb(image: Image.Image) -> Image.Image:
    """Makes RGB of a picture; transparent parts become white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
