"""How areas are drawn: gaps between neighbours, and borders as straight as no tissue has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from dmmn_qp.labels.class_rules import is_tissue
from dmmn_qp.reports.inputs import ImportedData, ImportedSlide
from dmmn_qp.reports.wording import areas_by_class, place_in
from dmmn_qp.specs import FileModel

NEAR_UM: Final = 100.0
"""An outline faces an area of another class that is no further away: less than a target of 256 px at 20x."""

WIDE_GAP_UM: Final = 40.0
"""Wider gaps hide from a network where one tissue ends and the other begins: 80 px at 20x."""

STRAIGHT_UM: Final = 100.0
"""A border that is straight for so long is no tissue's: the tool's, or the end of what somebody wanted to draw."""

CROPPED_SHARE: Final = 0.25
"""An area counts as cropped when more than this part of its outline is straight."""

SELDOM: Final = 0.05
"""Part of all outlines that must face another class for borders to be learned."""

_STEP_UM: Final = 2.0
_BEND_UM: Final = 0.5
_MOST_POINTS: Final = 50_000
"""Of the outlines of a slide; on longer ones they lie further apart."""

_MOST_NAMED: Final = 6
"""Slides in a line of advice."""

_UM_PER_MM: Final = 1000.0


class DrawingFigures(FileModel):
    """How the areas of one class are drawn on one slide.

    Attributes:
        class_name: The class.
        areas: How many there are.
        outline_mm: Length of their outlines.
        facing_mm: How much of it faces an area of another class, at most `NEAR_UM` away; what lies within one too.
        gap_um: Median distance there, of several slides their mean, weighted by length; None where nothing is faced.
        cropped: Areas of which a large part of the outline is straight; 0 for what is no tissue.
    """

    class_name: str
    areas: int
    outline_mm: float
    facing_mm: float
    gap_um: float | None
    cropped: int


@dataclass(frozen=True, slots=True)
class DrawnOutlines:
    """How the areas of a slide are drawn.

    Attributes:
        classes: Each class that has any.
        gap_um: Median over what faces another class; None where nothing does.
        cropped: The cropped areas of each class that has any.
    """

    classes: tuple[DrawingFigures, ...]
    gap_um: float | None
    cropped: Mapping[str, Sequence[BaseGeometry]]

    @property
    def outline_mm(self) -> float:
        """Length of all outlines."""
        return sum(c.outline_mm for c in self.classes)

    @property
    def facing_mm(self) -> float:
        """How much of them faces another class."""
        return sum(c.facing_mm for c in self.classes)


def drawn_outlines(slide: ImportedSlide, data: ImportedData) -> DrawnOutlines:
    """Measures what people drew on a slide; what a model drew is left out."""
    by_class = {
        name: [area for area in found if not area.is_empty]
        for (name, predicted), found in areas_by_class(slide, data).items()
        if not predicted
    }
    areas = np.array([area for found in by_class.values() for area in found], dtype=object)
    if not areas.size:
        return DrawnOutlines((), None, {})
    of_class = np.repeat(np.arange(len(by_class)), [len(found) for found in by_class.values()])
    mpp = slide.record.mpp
    owners, gaps_um, step_um = _gaps(areas, of_class, mpp)
    facing = np.isfinite(gaps_um)
    straight = _straight_shares(areas, mpp, slide.size_px) > CROPPED_SHARE
    tissue = {c.name for c in data.class_map.classes if is_tissue(c)}
    figures, cropped = [], {}
    for number, name in enumerate(by_class):
        own = of_class[owners] == number
        found = areas[(of_class == number) & straight] if name in tissue else areas[:0]
        if found.size:
            cropped[name] = found.tolist()
        figures.append(
            DrawingFigures(
                class_name=name,
                areas=int((of_class == number).sum()),
                outline_mm=float(own.sum()) * step_um / _UM_PER_MM,
                facing_mm=float((own & facing).sum()) * step_um / _UM_PER_MM,
                gap_um=_median(gaps_um[own & facing]),
                cropped=int(found.size),
            )
        )
    return DrawnOutlines(tuple(figures), _median(gaps_um[facing]), cropped)


def drawing_in_all(slides: Sequence[Sequence[DrawingFigures]]) -> tuple[DrawingFigures, ...]:
    """Puts the figures of several slides together, by class in the order in which classes are met."""
    by_class: dict[str, list[DrawingFigures]] = defaultdict(list)
    for figures in slides:
        for of_class in figures:
            by_class[of_class.class_name].append(of_class)
    together = []
    for name, found in by_class.items():
        facing_mm = sum(f.facing_mm for f in found)
        gaps = sum(f.gap_um * f.facing_mm for f in found if f.gap_um is not None)
        together.append(
            DrawingFigures(
                class_name=name,
                areas=sum(f.areas for f in found),
                outline_mm=sum(f.outline_mm for f in found),
                facing_mm=facing_mm,
                gap_um=gaps / facing_mm if facing_mm else None,
                cropped=sum(f.cropped for f in found),
            )
        )
    return tuple(together)


def drawing_advice(slides: Sequence[ImportedSlide], drawn: Sequence[DrawnOutlines], n_classes: int) -> tuple[str, ...]:
    """What could be drawn better, a line each: wide gaps, cropped areas, and borders that nothing shows.

    Args:
        slides: The slides.
        drawn: What is drawn on each.
        n_classes: Number of classes of the dataset.
    """
    wide = [
        f"{slide.slide_id} ({found.gap_um:.0f} µm over {found.facing_mm:.1f} mm)"
        for slide, found in zip(slides, drawn, strict=True)
        if found.gap_um is not None and found.gap_um > WIDE_GAP_UM
    ]
    cut = [
        f'{slide.slide_id}: {len(areas)} of "{name}" ({_at(areas, slide)})'
        for slide, found in zip(slides, drawn, strict=True)
        for name, areas in found.cropped.items()
    ]
    lines = []
    if wide:
        lines.append(
            f"Neighbours of different classes are far apart on {_some(wide)}. Draw both up to the border that they "
            "share, or what lies between too: it teaches nothing now."
        )
    if cut:
        lines.append(
            f"Areas with straight borders, as if cut out: {_some(cut)}. Draw whole components up to their own border; "
            "nothing to do where the tissue ends so."
        )
    outline_mm, facing_mm = sum(found.outline_mm for found in drawn), sum(found.facing_mm for found in drawn)
    if n_classes > 1 and outline_mm and facing_mm < SELDOM * outline_mm:
        lines.append(
            f"Only {facing_mm / outline_mm:.0%} of the outlines lie near an area of another class, so borders are "
            "hardly learned. Draw tissues that lie side by side, both up to their border."
        )
    return tuple(lines)


def _some(what: Sequence[str]) -> str:
    more = f" and {len(what) - _MOST_NAMED} more" if len(what) > _MOST_NAMED else ""
    return ", ".join(what[:_MOST_NAMED]) + more


def _at(areas: Sequence[BaseGeometry], slide: ImportedSlide) -> str:
    place = place_in(areas, slide)
    return "nowhere" if place is None else f"at {place[0]}, {place[1]} px"


def _gaps(
    areas: NDArray[np.object_], of_class: NDArray[np.int64], mpp: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """How far places on the outlines are from areas of other classes.

    Args:
        areas: (A,) polygons in level-0 px.
        of_class: (A,) number of the class of each.
        mpp: um/px at level 0.

    Returns:
        (P,) number of the area of each place, (P,) um to another class, infinite beyond `NEAR_UM`, and um from place to
        place.
    """
    from scipy.spatial import cKDTree  # not above: `status` loads this file, and takes a third longer with SciPy

    points, owners, step_px = _places(areas, _STEP_UM / mpp)
    classes = of_class[owners]
    gaps = np.full(len(points), np.inf)
    for number in np.unique(classes):
        own = classes == number
        if not own.all():
            gaps[own] = cKDTree(points[~own]).query(points[own], distance_upper_bound=NEAR_UM / mpp)[0]
    within, inside = shapely.STRtree(shapely.points(points)).query(areas, predicate="contains")
    gaps[inside[of_class[within] != classes[inside]]] = 0
    return owners, gaps * mpp, step_px * mpp


def _places(areas: NDArray[np.object_], step_px: float) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
    """Places evenly along the outlines of areas: (P, 2) px, (P,) numbers of the areas, and that distance in px."""
    rings, of_area = _rings(areas)
    at, of_ring = shapely.get_coordinates(rings, return_index=True)
    lengths = np.hypot(*np.diff(at, axis=0).T) * (np.diff(of_ring) == 0)
    along = np.concatenate([[0.0], lengths.cumsum()])
    step_px = max(step_px, along[-1] / _MOST_POINTS)
    wanted = np.arange(step_px / 2, along[-1], step_px)
    points = np.stack([np.interp(wanted, along, at[:, axis]) for axis in (0, 1)], axis=1)
    return points, of_area[of_ring[np.searchsorted(along, wanted)]], float(step_px)


def _straight_shares(areas: NDArray[np.object_], mpp: float, size_px: tuple[int, int] | None) -> NDArray[np.float64]:
    """Part of each area's outline that is straight for `STRAIGHT_UM` or more; the slide's own border is not: (A,)."""
    rings, of_area = _rings(shapely.simplify(areas, _BEND_UM / mpp))
    at, of_ring = shapely.get_coordinates(rings, return_index=True)
    same = np.diff(of_ring) == 0
    lengths = np.hypot(*np.diff(at, axis=0).T) * same
    ends = np.array(size_px or (np.inf, np.inf))
    beside = (np.maximum(at[:-1], at[1:]) <= 1) | (np.minimum(at[:-1], at[1:]) >= ends - 1)
    straight = lengths * ((lengths * mpp >= STRAIGHT_UM) & ~beside.any(axis=1))
    owners = of_area[of_ring[:-1]]
    whole, part = (np.bincount(owners, weights, minlength=len(areas)) for weights in (lengths, straight))
    return np.asarray(part / np.maximum(whole, 1e-9))


def _rings(areas: NDArray[np.object_]) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """All rings of areas, and the number of the area of each."""
    parts, of_area = shapely.get_parts(areas, return_index=True)
    rings, of_part = shapely.get_rings(parts, return_index=True)
    return rings, of_area[of_part]


def _median(values: NDArray[np.float64]) -> float | None:
    return float(np.median(values)) if values.size else None
