"""Fields from tiles that are kept in memory: training comes back to the same places every epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import Beyond, Reduction
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide, read_field
from dmmn_qp.slides.beyond import mirrored_beyond
from dmmn_qp.specs import PatchGrid

TILE = 128
"""Small, so that little is decoded that nobody asked for where slides are too many to be kept."""

MIB = 2**20
DEFAULT_BUDGET_BYTES = 384 * MIB


@dataclass(slots=True)
class TileBudget:
    """Tiles of any number of slides within one number of bytes; the least recently used ones are dropped."""

    limit_bytes: int = DEFAULT_BUDGET_BYTES
    tiles: OrderedDict[tuple[int, int, int, int], NDArray[np.uint8]] = field(default_factory=OrderedDict)
    used_bytes: int = 0

    def get(self, key: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
        """Returns a tile, which becomes the most recently used one."""
        tile = self.tiles.get(key)
        if tile is not None:
            self.tiles.move_to_end(key)
        return tile

    def put(self, key: tuple[int, int, int, int], tile: NDArray[np.uint8]) -> None:
        """Keeps a tile and drops others until all fit."""
        self.tiles[key] = tile
        self.used_bytes += tile.nbytes
        while self.used_bytes > self.limit_bytes and len(self.tiles) > 1:
            _, dropped = self.tiles.popitem(last=False)
            self.used_bytes -= dropped.nbytes


def tiles_bytes(regions: Sequence[Region], bytes_per_px: int) -> int:
    """Returns the bytes of the tiles of some regions of one slide at one magnification; shared ones count once."""
    left, top = min(r.x for r in regions) // TILE, min(r.y for r in regions) // TILE
    right, bottom = (-(-max(ends) // TILE) for ends in ([r.right for r in regions], [r.bottom for r in regions]))
    touched = np.zeros((bottom - top, right - left), bool)
    for r in regions:
        touched[r.y // TILE - top : -(-r.bottom // TILE) - top, r.x // TILE - left : -(-r.right // TILE) - left] = True
    return int(touched.sum()) * TILE * TILE * bytes_per_px


class CachedTiles:
    """Reads regions from tiles that are read once, as long as the budget holds them.

    Args:
        read: Number of the magnification, a region in its pixels -> (rows, columns) or (rows, columns, 3) uint8.
        budget: Where tiles are kept; shared by all that a process reads.
        number: What tells these tiles from others in the budget.
    """

    def __init__(self, read: Callable[[int, Region], NDArray[np.uint8]], budget: TileBudget, number: int) -> None:
        self._read = read
        self._budget = budget
        self._number = number

    def read(self, magnification: int, region: Region) -> NDArray[np.uint8]:
        """Reads the values of a region in pixels of a magnification."""
        values: NDArray[np.uint8] | None = None
        for row in range(region.y // TILE, -(-region.bottom // TILE)):
            for column in range(region.x // TILE, -(-region.right // TILE)):
                place = Region(column * TILE, row * TILE, TILE, TILE)
                part = place.intersection(region)
                assert part is not None
                tile = self._tile(magnification, place)
                if values is None:
                    values = np.empty((region.height, region.width, *tile.shape[2:]), np.uint8)
                values[part.y - region.y : part.bottom - region.y, part.x - region.x : part.right - region.x] = tile[
                    part.y - place.y : part.bottom - place.y, part.x - place.x : part.right - place.x
                ]
        assert values is not None
        return values

    def _tile(self, magnification: int, place: Region) -> NDArray[np.uint8]:
        key = (self._number, magnification, place.x, place.y)
        tile = self._budget.get(key)
        if tile is None:
            tile = np.ascontiguousarray(self._read(magnification, place))
            self._budget.put(key, tile)
        return tile


class CachedFields(CachedTiles):
    """Reads fields as `read_field` does, to the same pixels, but each tile of a slide only once.

    Args:
        slide: The slide.
        grid: The patch grid on it.
        budget: See `CachedTiles`.
        number: See `CachedTiles`.
        reduction: How lower magnifications are made from finer pixels.
        beyond: What lies outside the slide.
    """

    def __init__(
        self,
        slide: Slide,
        grid: PatchGrid,
        budget: TileBudget,
        number: int,
        reduction: Reduction = "area",
        beyond: Beyond = "black",
    ) -> None:
        super().__init__(lambda m, region: read_field(slide, grid, m, region, reduction), budget, number)
        self._slide, self._grid, self._beyond = slide, grid, beyond

    def read(self, magnification: int, region: Region) -> NDArray[np.uint8]:
        """Reads the pixels of a field, in pixels of a magnification: (region.height, region.width, 3) uint8."""
        pixels = super().read(magnification, region)
        if self._beyond == "black":
            return pixels
        info = self._slide.info
        return mirrored_beyond(pixels, region, self._grid.whole_shape(info.width, info.height, magnification))
