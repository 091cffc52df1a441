"""What somebody should look at on one slide before training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE
from dmmn_qp.qupath.notes import REPAIRED
from dmmn_qp.reports.inputs import AnySlide, Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.overlaps import overlap_findings
from dmmn_qp.reports.wording import areas_by_class, place_in, size_text
from dmmn_qp.text import count_of

HISTOLOGY_MPP: Final = (0.08, 1.2)
"""um/px between which scans of histology lie, from 100x to 10x."""

_USUAL_MPP: Final = 0.5
"""um/px by which areas are judged where nobody says the pixel size."""

_FAR: Final = 2**31
"""Level-0 px at which a slide of unknown size ends."""


def slide_findings(slide: ImportedSlide, data: ImportedData, sliver_um2: float) -> Iterator[Finding]:
    """What is worth a look on one slide.

    Args:
        slide: The slide.
        data: What was imported.
        sliver_um2: Areas below this are reported.
    """
    slide_id, mpp = slide.record.slide_id, slide.record.mpp
    if not HISTOLOGY_MPP[0] <= mpp <= HISTOLOGY_MPP[1]:
        yield Finding(
            severity="warning",
            slide=slide_id,
            message=f"{mpp:g} µm/px is unusual for histology (0.25 is a 40x scan, 0.5 a 20x scan)",
            way_out="check it in QuPath (Image tab); if it is wrong, correct it in a table --mpp-csv, or pass --mpp "
            "with --force-mpp",
        )
    if slide.pixel_size is not None and slide.pixel_size.others:
        yield Finding(
            severity="warning", slide=slide_id, message=slide.pixel_size.message, way_out=slide.pixel_size.way_out
        )
    if not slide.patches and slide.annotations:
        yield Finding(
            severity="warning",
            concerns="training",
            slide=slide_id,
            message="no target of this slide has enough annotation, so nothing of it is used",
            way_out="draw larger areas on it",
        )
    if slide.plane != DEFAULT_PLANE:
        yield Finding(
            severity="warning",
            slide=slide_id,
            message=f"trained on plane z = {slide.plane.z}, t = {slide.plane.t}, but pixels are read from the one "
            "plane that the slide's reader knows",
            way_out="check that both show the same, or choose another with --plane",
        )
    yield from annotation_findings(slide, data, sliver_um2)


def annotation_findings(slide: AnySlide, data: ImportedData, sliver_um2: float) -> Iterator[Finding]:
    """What is worth a look of what is drawn on a slide, whether or not its image can be read.

    Args:
        slide: The slide.
        data: What was imported.
        sliver_um2: Areas below this are reported.
    """
    for warning in slide.warnings:
        if warning.startswith(REPAIRED):
            continue  # told by class and place below
        yield Finding(
            severity="warning",
            slide=slide.slide_id,
            message=warning,
            way_out="look at it in QuPath, mend it there and save",
        )
    if slide.other_kinds:
        yield Finding(
            severity="note",
            slide=slide.slide_id,
            message=f"{count_of(slide.other_kinds, 'object')} of another kind than is trained on, such as detections",
            way_out="nothing to do, or name the kinds with --kinds",
        )
    yield from _repairs(slide)
    yield from _not_trained(slide, data)
    yield from _off_the_slide(slide, data)
    yield from _slivers(slide, data, sliver_um2)
    yield from overlap_findings(slide, data)


def _repairs(slide: AnySlide) -> Iterator[Finding]:
    """Polygons that are not quite what was drawn, by class, with what that did to their area."""
    by_class: dict[str | None, list[tuple[float, BaseGeometry]]] = defaultdict(list)
    for annotation in slide.annotations:
        if annotation.repaired_by_px2 is not None:
            by_class[annotation.class_name].append((annotation.repaired_by_px2, annotation.geometry))
    for name, repaired in by_class.items():
        grown = sum(max(px2, 0.0) for px2, _ in repaired)
        shrunk = sum(max(-px2, 0.0) for px2, _ in repaired)
        changes = [
            f"{word} {size_text(px2, slide)}" + (f" ({px2:,.0f} px²)" if slide.mpp is not None else "")
            for word, px2 in (("gained", grown), ("lost", shrunk))
            if px2 >= 1
        ]
        _, most_changed = max(repaired, key=lambda item: abs(item[0]))
        does, its = (
            ("crosses, touches or overlaps itself", "its")
            if len(repaired) == 1
            else ("cross, touch or overlap themselves", "their")
        )
        whose = "without a class" if name is None else f'of "{name}"'
        yield Finding(
            severity="warning" if changes else "note",
            slide=slide.slide_id,
            class_name=name,
            place=place_in([most_changed], slide),
            message=f"{count_of(len(repaired), 'annotation')} {whose} that {does}, repaired: {its} area "
            + (" and ".join(changes) if changes else "stays the same"),
            way_out="look at it in QuPath; nothing to do if the outline there is what you mean",
        )


def _not_trained(slide: AnySlide, data: ImportedData) -> Iterator[Finding]:
    """Annotations that label nothing, by reason; each is counted under its first reason."""
    slide_id = slide.slide_id
    unclassified: list[BaseGeometry] = []
    shapeless: list[BaseGeometry] = []
    left_out: dict[str, list[BaseGeometry]] = defaultdict(list)
    ignored: dict[str, list[BaseGeometry]] = defaultdict(list)
    elsewhere: dict[str, list[BaseGeometry]] = defaultdict(list)
    thin: dict[str, list[BaseGeometry]] = defaultdict(list)
    for annotation in slide.annotations:
        name, geometry = annotation.class_name, annotation.geometry
        if data.purpose_of(annotation) is not None or data.label_of(slide, annotation) is not None:
            continue
        if name is None:
            (unclassified if annotation.is_area else shapeless).append(geometry)
        elif name.endswith("*") and data.class_map.label_of(name) is None:
            ignored[name].append(geometry)
        elif name in data.left_out:
            left_out[name].append(geometry)
        elif not slide.is_on_plane(annotation):
            elsewhere[name].append(geometry)
        elif not annotation.is_area:
            thin[name].append(geometry)
    if unclassified:
        yield Finding(
            severity="warning",
            slide=slide_id,
            place=place_in(unclassified, slide),
            message=f"{count_of(len(unclassified), 'annotation')} without a class, not trained on",
            way_out="give a class in QuPath, or delete what is not needed",
        )
    if shapeless:
        lines = count_of(len(shapeless), "line or point", "lines or points")
        yield Finding(
            severity="note",
            slide=slide_id,
            place=place_in(shapeless, slide),
            message=f"{lines} without a class, labelling no pixel",
            way_out="nothing to do",
        )
    for name, geometries in elsewhere.items():
        yield Finding(
            severity="warning",
            slide=slide_id,
            class_name=name,
            place=place_in(geometries, slide),
            message=f'{count_of(len(geometries), "annotation")} of "{name}" on another plane than z = {slide.plane.z}, '
            f"t = {slide.plane.t}, not trained on",
            way_out="draw on that plane, or choose another with --plane",
        )
    for name, geometries in thin.items():
        yield Finding(
            severity="warning",
            slide=slide_id,
            class_name=name,
            place=place_in(geometries, slide),
            message=f'{count_of(len(geometries), "line or point", "lines or points")} of "{name}", labelling no pixel',
            way_out="draw areas with the brush, wand or polygon tool, or give lines a width with --line-width-um",
        )
    for name, geometries in ignored.items():
        yield Finding(
            severity="note",
            slide=slide_id,
            class_name=name,
            place=place_in(geometries, slide),
            message=f'{count_of(len(geometries), "annotation")} of "{name}", a class that QuPath ignores, '
            "not trained on",
            way_out="nothing to do if that is meant; else rename the class without its *",
        )
    for name, geometries in left_out.items():
        yield Finding(
            severity="note",
            slide=slide_id,
            class_name=name,
            place=place_in(geometries, slide),
            message=f'{count_of(len(geometries), "annotation")} of "{name}", a class left out on your word',
            way_out="nothing to do",
        )


def _off_the_slide(slide: AnySlide, data: ImportedData) -> Iterator[Finding]:
    """Areas of which a part, or everything, lies beyond the slide's border."""
    width, height = slide.size_px or (_FAR, _FAR)
    frame = shapely.box(0, 0, width, height)
    for (name, _), geometries in areas_by_class(slide, data).items():
        bounds = shapely.bounds(geometries)
        crossing = (bounds[:, :2] < 0).any(axis=1) | (bounds[:, 2] > width) | (bounds[:, 3] > height)
        beyond = [g for g, crosses in zip(geometries, crossing, strict=True) if crosses]
        areas = [float(shapely.difference(g, frame).area) for g in beyond]
        beyond = [g for g, area in zip(beyond, areas, strict=True) if area > 1]  # 1 px2: only rounding
        if beyond:
            yield Finding(
                severity="warning",
                slide=slide.slide_id,
                class_name=name,
                place=place_in(beyond, slide),
                message=f'{count_of(len(beyond), "annotation")} of "{name}" beyond the border of the slide, by '
                f"{size_text(sum(areas), slide)}; that part labels nothing",
                way_out="check that what is drawn belongs to this slide; nothing to do if it does",
            )


def _slivers(slide: AnySlide, data: ImportedData, sliver_um2: float) -> Iterator[Finding]:
    mpp = slide.mpp or _USUAL_MPP
    least = f"{sliver_um2:g} µm²" if slide.mpp is not None else f"{sliver_um2 / mpp**2:g} px²"
    for (name, _), geometries in areas_by_class(slide, data).items():
        slivers = [geometry for geometry in geometries if geometry.area * mpp**2 < sliver_um2]
        if slivers:
            yield Finding(
                severity="note",
                slide=slide.slide_id,
                class_name=name,
                place=place_in(slivers, slide),
                message=f'{count_of(len(slivers), "annotation")} of "{name}" smaller than {least}',
                way_out="delete in QuPath what is a slip of the mouse",
            )
