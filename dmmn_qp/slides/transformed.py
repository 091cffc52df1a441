"""Slides turned by quarters, mirrored and cropped, as QuPath's projects wrap them: level 0 is then the wrapped image.

Relied on, from QuPath's ``RotatedImageServer`` and ``CroppedImageServer`` (0.2 to 0.7) and ``FlippedImageServer``
(0.7): ``ROTATE_90`` and ``ROTATE_270`` turn clockwise; ``HORIZONTAL`` exchanges left and right, ``VERTICAL`` top and
bottom; a crop is a rectangle in level-0 pixels of the image that it wraps, and its corner is the new (0, 0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, read_inside
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


class Flip(FileModel):
    """The image mirrored.

    Attributes:
        axis: ``horizontal`` exchanges left and right, ``vertical`` top and bottom, ``both`` does both.
    """

    kind: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical", "both"]


Change = Annotated[Crop | Rotate | Flip, Field(discriminator="kind")]
"""One wrapper. A frame is a sequence of them, the one next to the file first."""

_NOTHING: Final = re.compile(r"none|(rotate|flip) none|rotate 0")

_STEPS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Change]], ...]] = (
    (re.compile(r"rotate (90|180|270)"), lambda found: Rotate.model_validate({"degrees": int(found[1])})),
    (re.compile(r"flip (horizontal|vertical|both)"), lambda found: Flip.model_validate({"axis": found[1]})),
    (
        re.compile(r"crop (-?\d{1,9}) (-?\d{1,9}) (\d{1,9}) (\d{1,9})"),
        lambda found: Crop(x=int(found[1]), y=int(found[2]), width=int(found[3]), height=int(found[4])),
    ),
)


def parse_frame(text: str) -> tuple[Change, ...]:
    """A frame in words, such as ``crop 512 0 2048 1024 then rotate 90 then flip horizontal``.

    Nothing or ``none`` is the file as it is. QuPath's own words for a step do as well, such as ``ROTATE_90``.

    Raises:
        ValueError: The words mean nothing.
    """
    steps = re.split(r"\bthen\b", text.lower()) if text.strip() else []
    return tuple(change for step in steps if (change := _change_of(step)) is not None)


def describe_frame(frame: Sequence[Change]) -> str:
    """The words that `parse_frame` reads."""
    return " then ".join(
        f"crop {step.x} {step.y} {step.width} {step.height}"
        if isinstance(step, Crop)
        else f"rotate {step.degrees}"
        if isinstance(step, Rotate)
        else f"flip {step.axis}"
        for step in frame
    )


def _change_of(text: str) -> Change | None:
    words = " ".join(re.sub(r"[,;:_°()]", " ", text).split())
    if _NOTHING.fullmatch(words):
        return None
    for pattern, change in _STEPS:
        if found := pattern.fullmatch(words):
            with suppress(ValidationError):
                return change(found)
    raise ValueError(
        f'"{words[:60]}" is no step of a frame; write "rotate 90", "flip horizontal" or "crop X Y WIDTH HEIGHT" '
        'with "then" between steps, the one next to the file first'
    )


_Step = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """What any sequence of crops, turns and flips comes to: one rectangle of the file, turned and mirrored once.

    Attributes:
        area: The rectangle, in level-0 px of the file.
        right: Where the next pixel to the right of the result lies in the file: (dx, dy) of length 1.
        down: Where the next pixel below lies.
    """

    area: Region
    right: _Step = (1, 0)
    down: _Step = (0, 1)

    @classmethod
    def of(cls, frame: Sequence[Change], width: int, height: int) -> Placement:
        """The placement that a frame gives to an image of ``width`` x ``height`` px.

        Raises:
            ValueError: A crop is larger than what it crops, or shares no pixel with it.
        """
        placement = cls(Region(0, 0, width, height))
        for change in frame:
            match change:
                case Rotate():
                    placement = placement._turned(change.degrees // 90)
                case Flip():
                    placement = placement._mirrored(change.axis != "vertical", change.axis != "horizontal")
                case Crop():
                    placement = placement._cropped(Region(change.x, change.y, change.width, change.height))
        return placement

    def _turned(self, quarters: int) -> Placement:
        right, down = self.right, self.down
        for _ in range(quarters):
            right, down = (-down[0], -down[1]), right
        return replace(self, right=right, down=down)

    def _mirrored(self, across: bool, along: bool) -> Placement:
        right = (-self.right[0], -self.right[1]) if across else self.right
        down = (-self.down[0], -self.down[1]) if along else self.down
        return replace(self, right=right, down=down)

    def _cropped(self, crop: Region) -> Placement:
        columns, rows = self.size
        if crop.width > columns or crop.height > rows or crop.intersection(Region(0, 0, columns, rows)) is None:
            raise ValueError(
                f"the crop of {crop.width} x {crop.height} px at {crop.x}, {crop.y} does not fit into "
                f"{columns} x {rows} px"
            )
        return replace(self, area=self.source(crop))

    @property
    def is_upright(self) -> bool:
        """Whether the rectangle is neither turned nor mirrored."""
        return (self.right, self.down) == ((1, 0), (0, 1))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        area = self.area
        return (area.width, area.height) if self.right[0] else (area.height, area.width)

    @property
    def origin(self) -> tuple[int, int]:
        """The corner of the area that becomes (0, 0): its borders, in level-0 px of the file."""
        across, along = self.right[0] + self.down[0], self.right[1] + self.down[1]
        return (
            self.area.x if across > 0 else self.area.right,
            self.area.y if along > 0 else self.area.bottom,
        )

    def source(self, region: Region, downsample: int = 1) -> Region:
        """Where a region of the result lies in the file.

        Args:
            region: In pixels of a level of the result.
            downsample: Level-0 pixels per pixel of that level; it must divide the origin.

        Returns:
            The region before turning and mirroring, in pixels of that level of the file.
        """
        (x0, y0), (rx, ry), (dx, dy) = self.origin, self.right, self.down
        corners = [
            (x0 // downsample + x * rx + y * dx, y0 // downsample + x * ry + y * dy)
            for x, y in ((region.x, region.y), (region.right, region.bottom))
        ]
        (left, top), (right, bottom) = (tuple(f(axis) for axis in zip(*corners, strict=True)) for f in (min, max))
        return Region(left, top, right - left, bottom - top)

    def arranged(self, pixels: RgbArray) -> RgbArray:
        """The pixels of `source`, (rows, columns, 3), as the result shows them."""
        if self.right[0]:
            return np.ascontiguousarray(pixels[:: self.down[1], :: self.right[0]])
        return np.ascontiguousarray(pixels.transpose(1, 0, 2)[:: self.down[0], :: self.right[1]])


class TransformedSlide:
    """A slide behind crops, turns and flips; it owns the slide and closes it.

    Only those levels are offered whose pixels the new origin does not cut, so that every pixel is one of the file.

    Args:
        slide: The slide.
        frame: Crops, turns and flips, the one next to the file first.

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
        self.info = replace(
            info,
            width=width,
            height=height,
            level_downsamples=tuple(info.level_downsamples[level] for level, _ in self._levels),
            origin_px=(info.origin_px[0] + x, info.origin_px[1] + y),
            tile_px=info.tile_px if self._placement.is_upright else None,
            level_sizes=(),
        )

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`."""
        own_level, downsample = self._levels[level]
        width, height = (max(1, round(side / downsample)) for side in (self.info.width, self.info.height))

        def read(inside: Region) -> RgbArray:
            return self._placement.arranged(
                self._slide.read_level(own_level, self._placement.source(inside, downsample))
            )

        return read_inside(region, width, height, read)

    def close(self) -> None:
        """Releases the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
