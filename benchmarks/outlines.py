"""How long painting takes where outlines are detailed: given whole to the rasteriser, against cut to each window.

Prints a table for outlines of so many vertices; read the ratios, not the seconds.

Usage, from the repository: python -m benchmarks.outlines [VERTICES]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.labels import painter
from dmmn_qp.labels.painter import AreaLayer
from dmmn_qp.labels.painting_order import PaintedArea
from dmmn_qp.regions import Region
from dmmn_qp.specs import LabelArray

SIDE_PX = 8192
WINDOWS = 8
"""Windows of each size that are painted."""


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def rough_circle(vertices: int) -> BaseGeometry:
    """One ring, as the wand draws it."""
    turns = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radii = SIDE_PX * (0.45 + 0.02 * np.random.default_rng(0).random(vertices))
    return shapely.Polygon(np.column_stack([np.cos(turns), np.sin(turns)]) * radii[:, None] + SIDE_PX / 2)


def sieve(vertices: int) -> BaseGeometry:
    """One outline with very many holes, as a pixel classifier makes it."""
    n = max(2, round((vertices / 12) ** 0.5))
    turns = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    circle = np.column_stack([np.cos(turns), np.sin(turns)]) * (0.3 * SIDE_PX / n)
    centres = (np.arange(n) + 0.5) * SIDE_PX / n
    return shapely.Polygon(
        shapely.box(0, 0, SIDE_PX, SIDE_PX).exterior, [circle + np.array([x, y]) for x in centres for y in centres]
    )


def comb(vertices: int) -> BaseGeometry:
    """One outline of long teeth: each window sees the middle of some."""
    teeth = np.arange(vertices // 2)
    x = teeth * SIDE_PX / len(teeth)
    tips = np.where(teeth % 2, SIDE_PX - 10, 20)
    return shapely.Polygon(np.concatenate([np.column_stack([x, tips]), np.column_stack([x, tips + 9])[::-1]]))


def painted(area: BaseGeometry, windows: list[Region], few_vertices: int) -> list[LabelArray]:
    """Labels of windows; outlines of up to so many vertices are given whole to the rasteriser."""
    painter._FEW_VERTICES = few_vertices
    layer = AreaLayer([PaintedArea(area, 1)])
    return [layer.burn(window, 1.0) for window in windows]


def main() -> None:
    vertices = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    few = painter._FEW_VERTICES
    print(f"  {'':<42}{'whole s':>9}{'cpu s':>9}{'cut s':>9}{'cpu s':>9}{'ratio of cpu':>14}")
    for name, make in (("a rough circle", rough_circle), ("a sieve", sieve), ("a comb", comb)):
        area = make(vertices)
        for size in (256, 2048):
            tiles = list(Region(0, 0, SIDE_PX, SIDE_PX).tiles(size))
            first = len(tiles) // 2 // (SIDE_PX // size) * (SIDE_PX // size)  # rows of windows, as import goes
            windows = tiles[first : first + WINDOWS]
            results: list[list[LabelArray]] = []
            whole = measured(lambda: results.append(painted(area, windows, 10**9)))  # noqa: B023
            cut = measured(lambda: results.append(painted(area, windows, few)))  # noqa: B023
            assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True)), "pixels differ"
            row = f"{name}, {shapely.get_num_coordinates(area)} vertices, {size} px"
            print(f"  {row:<42}{whole[0]:>9.2f}{whole[1]:>9.2f}{cut[0]:>9.2f}{cut[1]:>9.2f}{whole[1] / cut[1]:>14.1f}")


if __name__ == "__main__":
    main()
