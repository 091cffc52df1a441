"""The slides of `benchmarks.loop`: those that are annotated, and those on which models are judged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
from PIL import Image

import dmmn_qp
from benchmarks.drawn import TruthSlide, split_tiles

EXAMPLES = Path(__file__).parents[1] / "examples"
GLASS_PX = 192

SIDE_PX = 2048
"""Side of the part of a drawn slide that is used: 1 mm2."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """Slides that are annotated, slides that choose a training's step, and slides that nobody learns from.

    Attributes:
        key: Its name in the ledger.
        train: Slides that are annotated, round by round.
        val: Slides whose annotation stays as it is from the start.
        test: Slides on which models are judged.
        window_px: Side of a region.
        val_share: Part of each class that is drawn on slides for validation; 0 draws small areas there too.
    """

    key: str
    train: list[TruthSlide]
    val: list[TruthSlide]
    test: list[TruthSlide]
    window_px: int
    val_share: float = 0.0


def drawn_tissue(cache: Path, seed: int, *, quick: bool) -> Tissue:
    """Slides that a program drew: two for training, one for validation, two for testing; others for each seed."""
    if quick:
        crops = [crop_of(EXAMPLES / "demo", name, 512) for name in ("train-1", "val-1", "test-1")]
        return Tissue("drawn", crops[:1], crops[1:2], crops[2:], 128)
    names = [f"loop-{1 + (2 * seed + i) % 6}" for i in range(5)]
    make_slides(cache, names)
    slides = [crop_of(cache, name, SIDE_PX) for name in names]
    return Tissue("drawn", slides[:2], slides[2:3], slides[3:], 256)


def demo_generator() -> ModuleType:
    """``examples/make_demo_slides.py``, which belongs to no package."""
    with patch.object(sys, "path", [str(EXAMPLES), *sys.path]):
        return import_module("make_demo_slides")


def make_slides(cache: Path, names: Sequence[str]) -> None:
    """Draws slides that are not there yet; half a minute each."""
    generator = demo_generator()
    for name in names:
        if not (cache / "truth" / f"{name}.png").is_file():
            generator.SLIDES[name] = None
            print(generator.make_slide(name, cache), flush=True)


def crop_of(folder: Path, name: str, side: int) -> TruthSlide:
    """The square of a demo slide in which the shares of its classes are most even, with its truth."""
    generator = demo_generator()
    classes = dmmn_qp.ClassMap.from_colors([(c.name, c.color) for c in generator.CLASSES.values()])
    truth = np.asarray(Image.open(folder / "truth" / f"{name}.png"))
    rows, columns = truth.shape
    places = [(y, x) for y in range(0, rows - side + 1, side // 4) for x in range(0, columns - side + 1, side // 4)]

    def evenness(place: tuple[int, int]) -> float:
        y, x = place
        shares = np.bincount(truth[y : y + side, x : x + side].ravel(), minlength=7)[1:] / side**2
        return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())

    y, x = max(places, key=evenness)
    with dmmn_qp.open_slide(folder / "slides" / f"{name}.tif") as slide:
        pixels = slide.read_level(0, dmmn_qp.Region(x, y, side, side))
    return TruthSlide(name, pixels, truth[y : y + side, x : x + side].copy(), generator.MPP, classes)


def real_tissue(tiles: Sequence[TruthSlide], seed: int) -> Tissue:
    """Tiles, each with glass about it."""
    train, val, test = ([tile.on_glass(GLASS_PX) for tile in part] for part in split_tiles(tiles, seed))
    return Tissue("real", train, val, test, 192, val_share=0.2)
