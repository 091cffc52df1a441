"""Slides turned by quarters and cropped, as QuPath's projects wrap them: level 0 is then the wrapped image.

Relied on, from QuPath's ``RotatedImageServer`` and ``CroppedImageServer`` (0.2 to 0.7): ``ROTATE_90`` and
``ROTATE_270`` turn clockwise; a crop is a rectangle in level-0 pixels of the image that it wraps, and its corner is
the new (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, SlideInfo, read_inside
from dmmn_qp.specs import FileModel


class Crop(FileModel):
    """Only a rectangle of the image.

    Attributes:
        x: Left border, in level-0 px of the image before.
        y: Top border.
        width: Columns.
        height: Rows.
    """

    kind: Literal["crop"] = "crop"
    x: int
    y: int
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class Rotate(FileModel):
    """The image turned clockwise.

    Attributes:
        degrees: By how much.
    """

    kind: Literal["rotate"] = "rotate"
    degrees: Literal[90, 180, 270]


Change = Annotated[Crop | Rotate, Field(discriminator="kind")]
"""One wrapper. A frame is a sequence of them, the one next to the file first."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What any sequence of crops and turns comes to: one rectangle of the file, turned once.

    Attributes:
        area: The rectangle, in level-0 px of the file.
        quarter_turns: How often it is then turned clockwise by 90 degrees: 0 .. 3.
    """

    area: Region
    quarter_turns: int = 0

    @classmethod
    def of(cls, frame: Sequence[Change], width: int, height: int) -> Placement:
        """The placement that a frame gives to an image of ``width`` x ``height`` px.

        Raises:
            ValueError: A crop is larger than what it crops, or shares no pixel with it.
        """
        placement = cls(Region(0, 0, width, height))
        for change in frame:
            if isinstance(change, Rotate):
                turns = (placement.quarter_turns + change.degrees // 90) % 4
                placement = cls(placement.area, turns)
                continue
            columns, rows = placement.size
            crop = Region(change.x, change.y, change.width, change.height)
            if crop.width > columns or crop.height > rows or crop.intersection(Region(0, 0, columns, rows)) is None:
                raise ValueError(
                    f"the crop of {crop.width} x {crop.height} px at {crop.x}, {crop.y} does not fit into "
                    f"{columns} x {rows} px"
                )
            placement = cls(placement.source(crop), placement.quarter_turns)
        return placement

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        area = self.area
        return (area.height, area.width) if self.quarter_turns % 2 else (area.width, area.height)

    @property
    def origin(self) -> tuple[int, int]:
        """The corner of the area that becomes (0, 0): its borders, in level-0 px of the file."""
        x = self.area.right if self.quarter_turns in (2, 3) else self.area.x
        y = self.area.bottom if self.quarter_turns in (1, 2) else self.area.y
        return x, y

    def source(self, region: Region, downsample: int = 1) -> Region:
        """Where a region of the result lies in the file.

        Args:
            region: In pixels of a level of the result.
            downsample: Level-0 pixels per pixel of that level; it must divide the origin.

        Returns:
            The region before turning, in pixels of that level of the file.
        """
        x, y = (border // downsample for border in self.origin)
        match self.quarter_turns:
            case 0:
                return Region(x + region.x, y + region.y, region.width, region.height)
            case 1:
                return Region(x + region.y, y - region.right, region.height, region.width)
            case 2:
                return Region(x - region.right, y - region.bottom, region.width, region.height)
            case _:
                return Region(x - region.bottom, y + region.x, region.height, region.width)


class TransformedSlide:
    """A slide behind crops and turns; it owns the slide and closes it.

    Only those levels are offered whose pixels the new origin does not cut, so that every pixel is one of the file.

    Args:
        slide: The slide.
        frame: Crops and turns, the one next to the file first.

    Raises:
        SlideError: A crop does not fit the slide.
    """

    def __init__(self, slide: Slide, frame: Sequence[Change]) -> None:
        info = slide.info
        try:
            self._placement = Placement.of(frame, info.width, info.height)
        except ValueError as error:
            raise SlideError(
                f'slide "{info.path}" is another one than the project wraps ({error}); pass --slides-root with the '
                "right folder"
            ) from None
        self._slide = slide
        x, y = self._placement.origin
        scales = [(level, info.scale_of(level)) for level in range(len(info.level_downsamples))]
        self._levels = [
            (level, int(d)) for level, (d, down) in scales if d == down == int(d) and x % int(d) == 0 == y % int(d)
        ]
        width, height = self._placement.size
        self.info = SlideInfo(
            info.path,
            width,
            height,
            info.mpp,
            tuple(info.level_downsamples[level] for level, _ in self._levels),
            (info.origin_px[0] + x, info.origin_px[1] + y),
            None if self._placement.quarter_turns else info.tile_px,
        )

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        own_level, downsample = self._levels[level]
        width, height = (max(1, round(side / downsample)) for side in (self.info.width, self.info.height))

        def read(inside: Region) -> RgbArray:
            pixels = self._slide.read_level(own_level, self._placement.source(inside, downsample))
            return np.ascontiguousarray(np.rot90(pixels, -self._placement.quarter_turns))

        return read_inside(region, width, height, read)

    def close(self) -> None:
        """Releases the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
