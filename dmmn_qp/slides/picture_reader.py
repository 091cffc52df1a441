"""Plain pictures (PNG, JPEG, BMP) as slides of one level."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, SlideInfo, read_inside
from dmmn_qp.slides.pixel_sizes import StatedMpp

MAX_PIXELS = 30_000 * 30_000
"""A plain picture is decoded whole, so its size is limited; larger ones belong into a tiled format."""


class PictureReader:
    """A picture that Pillow reads, held in memory.

    Args:
        path: The picture.
        mpp: What is said of its um/px beside the file.
        crop_to_bounds: Pictures have no bounds; accepted for the readers' common signature.

    Raises:
        SlideError: Pillow cannot read the file, or it is too large for an untiled picture.
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
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise SlideError(
                        f'picture "{path}" has {width} x {height} px, more than an untiled picture may have; '
                        "convert it to a tiled pyramid, for example with QuPath (Export images > OME TIFF)"
                    )
                said = StatedMpp.of(mpp).resolve(path.name, None)
                self._pixels = np.asarray(_flat_rgb(image))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise SlideError(
                f'slide "{path}" can be read neither by OpenSlide nor as a picture ({reason}); convert it to '
                "a format that OpenSlide reads"
            ) from error
        self.info = SlideInfo(path, width, height, said.mpp, (1.0,), said=said)

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


def _flat_rgb(image: Image.Image) -> Image.Image:
    """RGB; transparent parts become white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
