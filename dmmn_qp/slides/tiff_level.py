"""One page of a TIFF, or a level of what is read in the same way, and its tiles or strips: sizes and places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray

RGB: Final = 2
YCBCR: Final = 6
JPEG: Final = 7
SEPARATE: Final = 2


@dataclass(frozen=True, slots=True)
class TiffLevel:
    """One page: its size, and that of its tiles; a strip is a tile as wide as the page."""

    page: Any
    width: int
    height: int
    tile_width: int
    tile_height: int
    plain_offset: int | None = None  # where the pixels begin, of pages that lie in the file as they are

    @property
    def columns_of_tiles(self) -> int:
        """How many tiles lie side by side."""
        return -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        """How many tiles there are; where channels have planes of their own, in each."""
        return self.columns_of_tiles * -(-self.height // self.tile_height)

    def tile_region(self, index: int) -> Region:
        """Returns what a tile shows, in pixels of the level; it may leave the level at the right and below."""
        row, column = divmod(index, self.columns_of_tiles)
        return Region(column * self.tile_width, row * self.tile_height, self.tile_width, self.tile_height)

    def read(self, inside: Region, part_of_tile: Callable[[int, Region], RgbArray]) -> RgbArray:
        """Puts a region together from the tiles that it touches.

        Args:
            inside: In pixels of the level; it must not leave it.
            part_of_tile: Gives what lies in one tile: its number, the part in pixels of the level.

        Returns:
            (inside.height, inside.width, 3) uint8.
        """
        pixels = np.empty((inside.height, inside.width, 3), np.uint8)
        for row in range(inside.y // self.tile_height, -(-inside.bottom // self.tile_height)):
            for column in range(inside.x // self.tile_width, -(-inside.right // self.tile_width)):
                index = row * self.columns_of_tiles + column
                part = self.tile_region(index).intersection(inside)
                assert part is not None
                y, x = part.y - inside.y, part.x - inside.x
                pixels[y : y + part.height, x : x + part.width] = part_of_tile(index, part)
        return pixels


def detailed_places(*levels: TiffLevel) -> list[tuple[float, float]]:
    """Middles of the tiles that take most bytes, one of each page, as parts of its width and height."""
    places = []
    for level in levels:
        sizes = level.page.databytecounts[: level.tiles]
        if level.plain_offset is None and len(sizes) == level.tiles and max(sizes) > min(sizes):
            place = level.tile_region(max(range(level.tiles), key=sizes.__getitem__))
            x, y = (place.x + min(place.right, level.width)) / 2, (place.y + min(place.bottom, level.height)) / 2
            places.append((x / level.width, y / level.height))
    return places
