"""Fields from tiles that are kept in memory: training comes back to the same places every epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dmmn_qp.choices import Reduction
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, read_field
from dmmn_qp.specs import PatchGrid

TILE = 128
"""Small, so that little is decoded that nobody asked for where slides are too many to be kept."""

MIB = 2**20
DEFAULT_BUDGET_BYTES = 384 * MIB


@dataclass(slots=True)
class TileBudget:
    """Tiles of any number of slides within one number of bytes; the least recently used ones are dropped."""

    limit_bytes: int = DEFAULT_BUDGET_BYTES
    tiles: OrderedDict[tuple[int, int, int, int], RgbArray] = field(default_factory=OrderedDict)
    used_bytes: int = 0

    def get(self, key: tuple[int, int, int, int]) -> RgbArray | None:
        """A tile, which becomes the most recently used one."""
        tile = self.tiles.get(key)
        if tile is not None:
            self.tiles.move_to_end(key)
        return tile

    def put(self, key: tuple[int, int, int, int], tile: RgbArray) -> None:
        """Keeps a tile and drops others until all fit."""
        self.tiles[key] = tile
        self.used_bytes += tile.nbytes
        while self.used_bytes > self.limit_bytes and len(self.tiles) > 1:
            _, dropped = self.tiles.popitem(last=False)
            self.used_bytes -= dropped.nbytes


def tiles_bytes(regions: Sequence[Region]) -> int:
    """What the tiles of some regions of one slide at one magnification take in memory; shared ones count once."""
    left, top = min(r.x for r in regions) // TILE, min(r.y for r in regions) // TILE
    right, bottom = (-(-max(ends) // TILE) for ends in ([r.right for r in regions], [r.bottom for r in regions]))
    touched = np.zeros((bottom - top, right - left), bool)
    for r in regions:
        touched[r.y // TILE - top : -(-r.bottom // TILE) - top, r.x // TILE - left : -(-r.right // TILE) - left] = True
    return int(touched.sum()) * TILE * TILE * 3


class CachedFields:
    """Reads fields as `read_field` does, to the same pixels, but each tile of a slide only once.

    Args:
        slide: The slide.
        grid: The patch grid on it.
        budget: Where tiles are kept; shared by the slides of a process.
        number: Number of the slide in the budget.
        reduction: How lower magnifications are made from finer pixels.
    """

    def __init__(
        self, slide: Slide, grid: PatchGrid, budget: TileBudget, number: int, reduction: Reduction = "area"
    ) -> None:
        self._slide = slide
        self._grid = grid
        self._budget = budget
        self._number = number
        self._reduction: Reduction = reduction

    def read(self, magnification: int, region: Region) -> RgbArray:
        """See `read_field`."""
        pixels = np.empty((region.height, region.width, 3), np.uint8)
        for row in range(region.y // TILE, -(-region.bottom // TILE)):
            for column in range(region.x // TILE, -(-region.right // TILE)):
                place = Region(column * TILE, row * TILE, TILE, TILE)
                part = place.intersection(region)
                assert part is not None
                tile = self._tile(magnification, column, row)
                pixels[part.y - region.y : part.bottom - region.y, part.x - region.x : part.right - region.x] = tile[
                    part.y - place.y : part.bottom - place.y, part.x - place.x : part.right - place.x
                ]
        return pixels

    def _tile(self, magnification: int, column: int, row: int) -> RgbArray:
        key = (self._number, magnification, column, row)
        tile = self._budget.get(key)
        if tile is None:
            place = Region(column * TILE, row * TILE, TILE, TILE)
            tile = np.ascontiguousarray(read_field(self._slide, self._grid, magnification, place, self._reduction))
            self._budget.put(key, tile)
        return tile
