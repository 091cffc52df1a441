"""Areas of a slide that carry two classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.labels.painting_order import INSIDE
from dmmn_qp.reports.inputs import AnySlide, Finding, ImportedData
from dmmn_qp.reports.review import contradiction
from dmmn_qp.reports.wording import ClassKey, areas_by_class, place_in, size_text
from dmmn_qp.text import count_of

LARGE_OVERLAP: Final = 0.01
"""Part of the smaller of two classes from which on their overlap is a warning."""

MAX_CANDIDATES: Final = 2_000_000
"""Pairs of neighbouring outlines of a slide that the search for overlaps looks at."""

MAX_VERTICES: Final = 10_000_000
"""Vertices of a slide that the search for overlaps intersects."""

_OVERLAP_CHUNK: Final = 64

ClassPair = tuple[ClassKey, ClassKey]


def overlap_findings(slide: AnySlide, data: ImportedData) -> Iterator[Finding]:
    """Areas that carry two classes; one finding for each pair of classes.

    Areas are summed over pairs of outlines, so that where outlines of one class overlap each other, what they share
    counts more than once.
    """
    by_class = areas_by_class(slide, data)
    if len(by_class) < 2:
        return
    class_area = {key: sum(g.area for g in geometries) for key, geometries in by_class.items()}
    shared, largest, count, complete, nested = _shared_areas(by_class)
    more = "" if complete else "at least "
    against = {pair: area for pair, area in shared.items() if pair[0][1] != pair[1][1]}
    if against:
        worst = max(against, key=lambda pair: against[pair])
        told = contradiction(
            slide,
            {(predicted, drawn): area for ((drawn, _), (predicted, _)), area in against.items()},
            place_in([largest[worst]], slide),
        )
        if told is not None:
            yield told
    if data.painting.overlap == "inner":
        yield from _nested(slide, nested, largest)
        for (inner, outer), (n, px2) in nested.items():
            pair = (inner, outer) if (inner, outer) in shared else (outer, inner)
            shared[pair] -= px2
            count[pair] -= n
    within = {pair: area for pair, area in shared.items() if pair not in against and count[pair]}
    for pair, area in sorted(within.items(), key=lambda item: -item[1]):
        large = area > LARGE_OVERLAP * min(class_area[key] for key in pair)
        yield Finding(
            severity="warning" if large else "note",
            slide=slide.slide_id,
            class_name=None,
            place=place_in([largest[pair]], slide),
            message=f'"{pair[0][0]}" and "{pair[1][0]}" overlap by {more}{size_text(area, slide)} in {more}'
            f"{count_of(count[pair], 'place')}, where a pixel keeps one label only",
            way_out="pull the outlines apart in QuPath, unless the rule for overlaps (--overlap) does what you mean",
        )
    if not complete:
        yield Finding(
            severity="note",
            slide=slide.slide_id,
            message="so many outlines lie on each other that not all overlaps were measured",
            way_out="look for copies of annotations",
        )


def _nested(
    slide: AnySlide, nested: dict[ClassPair, tuple[int, float]], largest: dict[ClassPair, BaseGeometry]
) -> Iterator[Finding]:
    """Areas inside areas of other classes, where the rule for overlaps lets the inner one win."""
    for (inner, outer), (n, px2) in nested.items():
        pair = (inner, outer) if (inner, outer) in largest else (outer, inner)
        yield Finding(
            severity="note",
            slide=slide.slide_id,
            class_name=inner[0],
            place=place_in([largest[pair]], slide),
            message=f'"{inner[0]}" lies inside "{outer[0]}" in {count_of(n, "place")} ({size_text(px2, slide)}), where '
            "the inner one counts",
            way_out="nothing to do if that is meant; else choose another rule with --overlap",
        )


def _shared_areas(
    by_class: dict[ClassKey, list[BaseGeometry]],
) -> tuple[
    dict[ClassPair, float],
    dict[ClassPair, BaseGeometry],
    dict[ClassPair, int],
    bool,
    dict[ClassPair, tuple[int, float]],
]:
    """What pairs of classes share.

    Returns:
        Shared px2, largest shared part and number of shared parts per pair of classes; whether that is all; and number
        and px2 of parts that are outlines of the first class inside those of the second.
    """
    names = list(by_class)
    geometries = np.array([g for name in names for g in by_class[name]], dtype=object)
    sizes = [len(by_class[name]) for name in names]
    classes = np.repeat(np.arange(len(names)), sizes)
    same_name = np.array([[a[0] == b[0] for b in names] for a in names])
    vertices = shapely.get_num_coordinates(geometries)
    tree = shapely.STRtree(geometries)
    shared: dict[ClassPair, float] = defaultdict(float)
    largest: dict[ClassPair, BaseGeometry] = {}
    largest_area: dict[ClassPair, float] = defaultdict(float)
    count: dict[ClassPair, int] = defaultdict(int)
    nested: dict[ClassPair, tuple[int, float]] = {}
    whole = shapely.area(geometries)
    candidates = work = 0
    for start in range(0, len(geometries), _OVERLAP_CHUNK):
        left, right = tree.query(geometries[start : start + _OVERLAP_CHUNK])
        left = left + start
        candidates += left.size
        keep = (classes[left] < classes[right]) & ~same_name[classes[left], classes[right]]  # each pair once
        left, right = left[keep], right[keep]
        work += int((vertices[left] + vertices[right]).sum())
        if candidates > MAX_CANDIDATES or work > MAX_VERTICES:
            return shared, largest, count, False, nested
        parts = shapely.intersection(geometries[left], geometries[right])
        areas = shapely.area(parts)
        for i in np.flatnonzero(areas > 1):  # 1 px2: outlines that only touch
            pair = names[classes[left[i]]], names[classes[right[i]]]
            shared[pair] += float(areas[i])
            count[pair] += 1
            parts_of = areas[i] / whole[left[i]], areas[i] / whole[right[i]]
            if min(parts_of) < INSIDE <= max(parts_of):
                inside = pair if parts_of[0] >= INSIDE else pair[::-1]
                n, px2 = nested.get(inside, (0, 0.0))
                nested[inside] = n + 1, px2 + float(areas[i])
            if areas[i] > largest_area[pair]:
                largest_area[pair], largest[pair] = float(areas[i]), parts[i]
    return shared, largest, count, True, nested
