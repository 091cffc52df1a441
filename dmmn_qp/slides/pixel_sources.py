"""What of a slide is decoded for fields of several magnifications: each pixel once, in tiles of its file."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from dmmn_qp.choices import Reduction
from dmmn_qp.slides.base import Slide, SlideInfo, level_for
from dmmn_qp.specs import PatchGrid

TILE_PX = 512
"""Side of what is decoded at once, in pixels of the source, about: whole tiles of the file where it has tiles."""

LARGEST_TILE_PX = 2048
"""Tiles of a file that are larger than this are not read whole."""


@dataclass(frozen=True, slots=True)
class Source:
    """Pixels that are decoded together, and the magnifications that are made of them.

    Attributes:
        level: Level of the slide, or None for what `read_field` gives at magnification ``first``.
        first: The finest magnification made of it.
        factors: Magnification -> source pixels per pixel.
        wide: Columns of a tile, a multiple of every factor.
        high: Rows of a tile.
    """

    level: int | None
    first: int
    factors: dict[int, int]
    wide: int
    high: int


def sources_of(slide: Slide, grid: PatchGrid, magnifications: int, reduction: Reduction) -> list[Source]:
    """Returns what to decode for so many magnifications: one source for all that come from the same pixels."""
    grouped: dict[int | None, dict[int, int]] = {}  # level -> factors; None: the finest, as `read_field` gives it
    alone: list[int] = []
    finest_level, finest_factor = _level_and_factor(slide.info, grid.downsample)
    for m in range(magnifications):
        if reduction == "decimate":
            grouped.setdefault(finest_level if finest_factor == 1 else None, {})[m] = 2**m
            continue
        level, factor = _level_and_factor(slide.info, grid.downsample_of(m))
        if factor is None:
            alone.append(m)  # resampled: neighbouring tiles share some pixels of the source
        else:
            grouped.setdefault(level, {})[m] = factor
    sources = [_source(slide, level, min(factors), factors) for level, factors in grouped.items()]
    return sources + [_source(slide, None, m, {m: 1}) for m in alone]


def _level_and_factor(info: SlideInfo, wanted: float) -> tuple[int, int | None]:
    """Returns the level that a magnification is made of, and how many of its pixels make one, if they fit."""
    level, (across, down) = level_for(info, wanted)
    factor = wanted / across
    return level, int(factor) if across == down and factor == int(factor) else None


def _source(slide: Slide, level: int | None, first: int, factors: dict[int, int]) -> Source:
    unit = lcm(*factors.values())
    tiles = slide.info.tile_px if level is not None else None
    sides = [
        lcm(unit, side) if side <= LARGEST_TILE_PX and lcm(unit, side) <= LARGEST_TILE_PX else unit
        for side in tiles or (unit, unit)
    ]
    wide, high = (side * max(1, TILE_PX // side) for side in sides)
    return Source(level, first, factors, wide, high)
