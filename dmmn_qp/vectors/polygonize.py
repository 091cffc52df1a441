"""Label maps -> polygons along the pixels' edges, strip by strip.

Between pixels of different labels runs a *crack*. Corners of pixels where cracks turn are vertices; where three or four
meet are *nodes*. What runs from node to node is an *arc*, with one region on its right and one on its left. A strip of
rows gives arcs; a region is complete when every arc around it is, and is then put together from them. Because both
regions beside an arc are made of the same arc, polygons fit together by construction: no gap, no overlap, no vertex
that only one of two neighbours has. The outside of the map is a region like others, so its border has nodes too.

Arcs also end where they meet the lines of a grid of `CELL_PX`: there seams between strips run, there large regions may
be split, and no arc leaves its cell, which bounds the work on it. These vertices lie on the border anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED
from dmmn_qp.vectors.cracks import CELL_PX
from dmmn_qp.vectors.outlines import Outlines
from dmmn_qp.vectors.sources import LabelSource
from dmmn_qp.vectors.splitting import split
from dmmn_qp.vectors.tracing import Border, TracedStrip, Tracer, trace_strip

MOST_AT_ONCE: Final = 4
"""Strips that are traced side by side, by threads: numpy computes without the interpreter's lock, but what puts the
outlines together is one thread."""

MOST_PX_AT_ONCE: Final = 2**27
"""Pixels of these together, unless one strip alone has more: a pixel takes about 8 bytes while it is traced."""


def polygonize(
    source: LabelSource,
    *,
    skip: frozenset[int] = frozenset({UNLABELLED}),
    simplify_px: float = 0.0,
    max_vertices: int | None = None,
    strip_px: int = CELL_PX,
    cell_px: int = CELL_PX,
    borders: list[Border] | None = None,
) -> Iterator[Outlines]:
    """Traces the connected regions of a label map.

    Pixels that meet only at a corner are not connected (connectivity 4), which keeps every polygon valid. The polygons
    of all labels together are a valid coverage. Where nothing is simplified they follow the pixels' edges, so their
    area is the number of their pixels. Memory is bounded by the strip and the outlines of regions that go on below it.

    Args:
        source: The label map.
        skip: Labels that give no polygons.
        simplify_px: Tolerance in pixels, the square root of the largest triangle that simplifying cuts off a border;
            0 keeps every pixel's edge. The result does not depend on ``strip_px``.
        max_vertices: Polygons of more points are split along the lines of the grid; None splits none.
        strip_px: Rows that are read at a time, a multiple of ``cell_px``.
        cell_px: Distance of the lines of the grid.
        borders: Where given, lengths of the borders between regions are added to it.

    Yields:
        The regions that became complete with a strip, ordered by their first pixel; x and y are whole pixels, the
        top-left pixel's corner is (0, 0).
    """
    if strip_px % cell_px:
        raise ValueError(f"strip_px {strip_px} is no multiple of cell_px {cell_px}")
    tracer = Tracer(keep_grid=max_vertices is not None or simplify_px > 0)
    for strip in _traced(source, strip_px, cell_px, simplify_px):
        tracer.add(strip)
        found = tracer.take_complete(skip)
        if borders is not None:
            borders.append(tracer.take_borders())
        tracer.forget_complete()
        if len(found):
            yield found if max_vertices is None else split(found, max_vertices, cell_px)


def _traced(source: LabelSource, strip_px: int, cell_px: int, simplify_px: float) -> Iterator[TracedStrip]:
    """Traces the strips of a map, some at a time, and yields them from top to bottom; they are read one by one."""
    rows, columns = source.shape
    above = None
    waiting: deque[Future[TracedStrip]] = deque()
    at_once = max(1, min(MOST_AT_ONCE, available_cores(), MOST_PX_AT_ONCE // (strip_px * columns)))
    with ThreadPoolExecutor(at_once) as threads:
        for y in range(0, rows, strip_px):
            pixels = source.read(Region(0, y, columns, min(strip_px, rows - y)))
            waiting.append(threads.submit(trace_strip, pixels, above, y, (rows, columns), cell_px, simplify_px))
            above = pixels[-1].copy()
            if len(waiting) >= at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
