"""How findings speak of numbers, areas and places."""

from __future__ import annotations

from collections.abc import Sequence

from shapely.geometry.base import BaseGeometry

from dmmn_qp.reports.inputs import AnySlide, ImportedData
from dmmn_qp.specs import MM2_OF_UM2

ClassKey = tuple[str, bool]
"""A class, and whether it was predicted there."""


def areas_by_class(slide: AnySlide, data: ImportedData) -> dict[ClassKey, list[BaseGeometry]]:
    """Outlines that label pixels, by class in the order of the class map, what was drawn first."""
    by_class: dict[ClassKey, list[BaseGeometry]] = {
        (name, predicted): [] for predicted in (False, True) for name in data.class_map.names
    }
    for annotation in slide.annotations:
        if annotation.is_area and annotation.class_name and data.label_of(slide, annotation) is not None:
            by_class[annotation.class_name, annotation.origin != "drawn"].append(annotation.geometry)
    return {key: geometries for key, geometries in by_class.items() if geometries}


def place_in(geometries: Sequence[BaseGeometry], slide: AnySlide) -> tuple[int, int] | None:
    """A point in the largest of some geometries, moved onto the slide where its size is known."""
    largest = max(geometries, key=lambda geometry: (geometry.area, geometry.length))
    if largest.is_empty:
        return None
    point = largest.point_on_surface()
    x, y = max(round(point.x), 0), max(round(point.y), 0)
    if slide.size_px is None:
        return x, y
    return min(x, slide.size_px[0] - 1), min(y, slide.size_px[1] - 1)


def size_text(px2: float, slide: AnySlide) -> str:
    """An area on a slide for people: in px2 where its pixel size is not known."""
    return f"{px2:,.0f} px²" if slide.mpp is None else area_text(px2 * slide.mpp**2)


def area_text(um2: float) -> str:
    """An area for people: in um2 up to 1000, else in mm2."""
    if um2 < 1000:
        return f"{um2:.0f} µm²" if um2 >= 1 else "less than 1 µm²"
    mm2 = um2 * MM2_OF_UM2
    return f"{mm2:.3f} mm²" if mm2 < 1 else f"{mm2:.1f} mm²"
