"""Colours of classes: QuPath's own where it has one, else a fixed palette. Nothing is random."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

from dmmn_qp.annotations import Color

QUPATH_COLORS: Final[dict[str, Color]] = {
    "Tumor": (200, 0, 0),
    "Stroma": (150, 200, 150),
    "Immune cells": (160, 90, 160),
    "Necrosis": (50, 50, 50),
    "Other": (255, 200, 0),
    "Region*": (0, 0, 180),
    "Ignore*": (180, 180, 180),
    "Positive": (250, 62, 62),
    "Negative": (112, 112, 225),
}
"""Colours that QuPath itself gives to classes of these names."""

PALETTE: Final[tuple[Color, ...]] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (136, 34, 85), (51, 34, 136), (153, 153, 51), (68, 170, 153), (102, 66, 40),
    (146, 197, 222), (17, 119, 51),
)  # fmt: skip
"""Colours that stay apart for the colour-blind: those of Okabe and Ito, then darker and paler ones."""


def argb_to_rgb(argb: int) -> Color:
    """Red, green and blue of the packed integer that QuPath stores (signed or not); alpha is dropped."""
    return (argb >> 16) & 0xFF, (argb >> 8) & 0xFF, argb & 0xFF


def default_color(name: str) -> Color:
    """The colour of a class that comes without one: the same in every run and on every machine.

    ``"Tumor: Positive"`` and the like take the colour of their last part where QuPath has one for it.
    """
    known = QUPATH_COLORS.get(name) or QUPATH_COLORS.get(name.rpartition(":")[2].strip())
    return known or PALETTE[zlib.crc32(name.encode("utf-8", "surrogatepass")) % len(PALETTE)]


def distinct_colors(names: Iterable[str]) -> dict[str, Color]:
    """A colour for each class, different ones as long as the palette lasts; order decides who moves aside."""
    colors: dict[str, Color] = {}
    for name in names:
        color = default_color(name)
        taken = set(colors.values())
        if color in taken and name not in colors:
            color = next((free for free in PALETTE if free not in taken), color)
        colors.setdefault(name, color)
    return colors
