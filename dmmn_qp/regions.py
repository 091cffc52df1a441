"""Rectangles in level-0 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle of level-0 pixels: top-left origin, half-open, allowed to leave the slide.

    Attributes:
        x: Left border.
        y: Top border.
        width: Columns, at least 1.
        height: Rows, at least 1.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"region of {self.width} x {self.height} px: both sides must be at least 1")

    @property
    def right(self) -> int:
        """First column behind the region."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row behind the region."""
        return self.y + self.height

    def intersection(self, other: Region) -> Region | None:
        """The rectangle shared with ``other``, or None when they share no pixel."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        if right <= x or bottom <= y:
            return None
        return Region(x, y, right - x, bottom - y)

    def grown(self, margin: int) -> Region:
        """The rectangle with ``margin`` px more on each side."""
        return Region(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)

    def tiles(self, size: int, width: int | None = None) -> Iterator[Region]:
        """Covers the region from its top-left corner, row by row, cut at its border.

        Args:
            size: Rows of a tile.
            width: Columns of a tile; None for squares.
        """
        width = width or size
        for y in range(self.y, self.bottom, size):
            for x in range(self.x, self.right, width):
                yield Region(x, y, min(width, self.right - x), min(size, self.bottom - y))
