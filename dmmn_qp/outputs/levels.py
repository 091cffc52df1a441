"""The levels of a pyramid: strips gather to rows of tiles, which go to where they are kept and, halved, to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

TILE: Final = 512
"""Side of a tile in px."""

SMALLEST_LEVEL_PX: Final = 1024
"""Levels are halved until the longer side is no longer than this."""

Pixels = NDArray[np.uint8]
"""(channels, rows, columns)."""

Halve = Callable[[Pixels], Pixels]
"""Makes pixels of the next coarser level."""


class TileRows(Protocol):
    """Where the pixels of all levels go."""

    def add(self, level: int, row: int, pixels: Pixels) -> None:
        """Takes a row of tiles; their memory is used again afterwards.

        Args:
            level: Number of the level, 0 = finest.
            row: The first row of its pixels.
            pixels: (channels, height, columns of the level); only of the last row of tiles it is lower than a tile.
        """
        ...


class Level:
    """One level: gathers rows to rows of tiles, and hands them halved to the next one.

    Args:
        number: Of the level, 0 = finest.
        shape: (channels, rows, columns).
        to: Where its pixels go.
    """

    def __init__(self, number: int, shape: tuple[int, int, int], to: TileRows) -> None:
        self.number = number
        self.channels, self.rows, self.columns = shape
        self.next: Level | None = None
        self.halve: Halve = every_second
        self._to = to
        self._seen = 0
        self._filled = 0
        self._buffer = np.zeros((self.channels, TILE, self.columns), np.uint8)

    def add_all(self, strips: Iterable[Pixels]) -> None:
        """Takes all strips of the level.

        Raises:
            ValueError: They are not of its shape.
        """
        for strip in strips:
            if strip.dtype != np.uint8 or strip.shape != (self.channels, strip.shape[1], self.columns):
                raise ValueError(f"strip of {strip.shape} {strip.dtype}: not {self.channels} x {self.columns} px uint8")
            if self._seen + strip.shape[1] > self.rows:
                raise ValueError(f"more than {self.rows} rows of pixels")
            self.add(strip)
        if self._seen != self.rows:
            raise ValueError(f"{self._seen} of {self.rows} rows of pixels")

    def add(self, strip: Pixels) -> None:
        """Takes consecutive rows."""
        start = 0
        while start < strip.shape[1]:
            n = min(TILE - self._filled, strip.shape[1] - start)
            self._buffer[:, self._filled : self._filled + n] = strip[:, start : start + n]
            start += n
            self._filled += n
            self._seen += n
            if self._filled == TILE or self._seen == self.rows:
                self._flush()

    def _flush(self) -> None:
        """Gives away a row of tiles; only the last one may be lower, so each but that has an even number of rows."""
        filled = self._buffer[:, : self._filled]
        self._to.add(self.number, self._seen - self._filled, filled)
        if self.next is not None:
            self.next.add(self.halve(filled))
        self._filled = 0


def level_shapes(shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """(channels, rows, columns) of all levels, finest first.

    Args:
        shape: That of the finest.
    """
    channels, rows, columns = shape
    shapes = [shape]
    while max(rows, columns) > SMALLEST_LEVEL_PX:
        rows, columns = -(-rows // 2), -(-columns // 2)
        shapes.append((channels, rows, columns))
    return shapes


def levels_of(shape: tuple[int, int, int], to: TileRows, halve: Halve) -> list[Level]:
    """The levels of a pyramid, finest first, each knowing the next.

    Args:
        shape: (channels, rows, columns) of the finest.
        to: Where their pixels go.
        halve: Makes each coarser level of the finer one.
    """
    levels = [Level(number, shape, to) for number, shape in enumerate(level_shapes(shape))]
    for level, coarser in pairwise(levels):
        level.next, level.halve = coarser, halve
    return levels


def every_second(pixels: Pixels) -> Pixels:
    """Every second pixel, from the first on: labels are not mixed."""
    return pixels[:, ::2, ::2]


def means_of_four(pixels: Pixels) -> Pixels:
    """Means of 2 x 2, rounded half up; the last row and column stand for the missing ones behind them."""
    channels, rows, columns = pixels.shape
    if rows % 2 or columns % 2:
        pixels = np.pad(pixels, ((0, 0), (0, rows % 2), (0, columns % 2)), mode="edge")
    halved = np.empty((channels, (rows + 1) // 2, (columns + 1) // 2), np.uint8)
    for source, to in zip(pixels, halved, strict=True):
        cv2.resize(source, (to.shape[1], to.shape[0]), dst=to, interpolation=cv2.INTER_AREA)
    return halved
