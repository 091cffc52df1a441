"""What somebody should look at before training: a finding says what, where, and what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation
from dmmn_qp.choices import SPLITS, Split
from dmmn_qp.console import Reporter
from dmmn_qp.labels.class_rules import case_variants
from dmmn_qp.labels.draws import MIN_CLASS_FRACTION
from dmmn_qp.labels.patches import class_pixels
from dmmn_qp.qupath.notes import REPAIRED
from dmmn_qp.reports.inputs import SEVERITIES, Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.review import all_counts, contradiction, review_findings

SLIVER_UM2: Final = 50.0
"""An area smaller than this, less than a nucleus or two, is hardly meant."""

FEW_PATCHES: Final = 10
"""A class that fewer training patches show is hardly learned."""

HISTOLOGY_MPP: Final = (0.08, 1.2)
"""um/px between which scans of histology lie, from 100x to 10x."""

LARGE_OVERLAP: Final = 0.01
"""Part of the smaller of two classes from which on their overlap is a warning."""

MAX_CANDIDATES: Final = 2_000_000
"""Pairs of neighbouring outlines of a slide that the search for overlaps looks at."""

MAX_VERTICES: Final = 10_000_000
"""Vertices of a slide that the search for overlaps intersects."""

_OVERLAP_CHUNK = 64
_UM2_PER_MM2 = 1e6


def find_findings(data: ImportedData, *, sliver_um2: float = SLIVER_UM2) -> tuple[Finding, ...]:
    """Everything worth a look, errors first, then by slide.

    Args:
        data: What was imported.
        sliver_um2: Areas below this are reported.
    """
    found = [*data.noted, *_of_dataset(data)]
    for slide in data.slides:
        found += _of_slide(slide, data, sliver_um2)
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def report_findings(findings: Sequence[Finding], reporter: Reporter) -> None:
    """Prints every finding on a line of its own, and how many there are."""
    for finding in findings:
        reporter.say(f"  {finding.severity + ':':<8} {finding.line()}")
    reporter.say(count_text(findings))


def count_text(findings: Sequence[Finding]) -> str:
    """``1 error, 3 warnings``; ``no findings`` for none."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(_count(counts[s], s) for s in SEVERITIES if counts[s]) or "no findings"


# ---------------------------------------------------------------- the whole dataset


def _of_dataset(data: ImportedData) -> Iterator[Finding]:
    yield from review_findings(all_counts(data), data.take_predictions)
    yield from _similar_names(data)
    patches = [patch for slide in data.slides for patch in slide.patches]
    if not patches:
        yield Finding(
            severity="error",
            message="no slide has a target with enough annotation",
            way_out="draw larger areas: more than "
            f"{data.min_labelled_fraction:.0%} of a {data.patch_spec.size_px} x {data.patch_spec.size_px} px square",
        )
        return
    pixels = {split: class_pixels((p for p in patches if p.split == split), data.class_map) for split in SPLITS}
    present = {split for slide in data.slides for split in slide.splits}
    if "val" not in present:
        yield Finding(
            severity="warning",
            message="no slide is for validation, so training cannot tell its best epoch",
            way_out="annotate another slide, or give one the image metadata split = val in QuPath",
        )
    if "test" not in present:
        yield Finding(
            severity="note",
            message="no slide is for testing, so dmmn-qp evaluate has nothing to compare with",
            way_out="annotate another slide, or give one the image metadata split = test in QuPath",
        )
    if len(data.class_map) == 1:
        yield Finding(
            severity="warning",
            class_name=data.class_map.names[0],
            message=f'"{data.class_map.names[0]}" is the only class, which a network would predict everywhere',
            way_out="annotate what is not of it as well, as one class more such as Other; dmmn-qp train needs two",
        )
    shown = _patches_that_show(data, "train")
    for i, name in enumerate(data.class_map.names):
        if not pixels["train"][i]:
            yield Finding(
                severity="error",
                class_name=name,
                message=f'"{name}" has no pixel in the training split',
                way_out=f"annotate it on a training slide, move a slide to that split, or leave it out: --drop {name}",
            )
        elif shown[i] < FEW_PATCHES:
            yield Finding(
                severity="warning",
                class_name=name,
                message=f'"{name}" is shown by only {_count(shown[i], "training patch", "training patches")}',
                way_out="annotate more of it, in different places and on different slides",
            )
        if "val" in present and not pixels["val"][i]:
            yield Finding(
                severity="warning",
                class_name=name,
                message=f'"{name}" has no pixel in the validation split, so the best epoch is chosen without it',
                way_out="annotate some of it on a validation slide",
            )


def _similar_names(data: ImportedData) -> Iterator[Finding]:
    """Class names in use that differ only by case or blanks."""
    used: dict[str, list[tuple[ImportedSlide, Annotation]]] = defaultdict(list)
    for slide in data.slides:
        for annotation in slide.annotations:
            if annotation.class_name is not None:
                used[annotation.class_name].append((slide, annotation))
    for variants in case_variants(used):
        names = sorted(variants, key=lambda name: -len(used[name]))
        slide, rarest = used[names[-1]][0]
        said = " and ".join(f'"{name}" ({_count(len(used[name]), "annotation")})' for name in names)
        yield Finding(
            severity="warning",
            slide=slide.record.slide_id,
            class_name=names[-1],
            place=_place([rarest.geometry], slide),
            message=f"{said} look like slips of one class name, but are different classes",
            way_out=f'set the class of the latter to "{names[0]}" in QuPath, or pass --merge-case',
        )


def _patches_that_show(data: ImportedData, split: Split) -> list[int]:
    """Number of patches of a split that show each class."""
    threshold = MIN_CLASS_FRACTION * data.patch_spec.size_px**2
    shown = [0] * len(data.class_map)
    for slide in data.slides:
        for patch in slide.patches:
            if patch.split == split:
                for i, n in enumerate(patch.label_counts[1:]):
                    shown[i] += n > threshold
    return shown


# ---------------------------------------------------------------- one slide


def _of_slide(slide: ImportedSlide, data: ImportedData, sliver_um2: float) -> Iterator[Finding]:
    slide_id, mpp = slide.record.slide_id, slide.record.mpp
    for warning in slide.warnings:
        if warning.startswith(REPAIRED):
            continue  # told by class and place below
        yield Finding(
            severity="warning",
            slide=slide_id,
            message=warning,
            way_out="look at it in QuPath, mend it there and save",
        )
    if not HISTOLOGY_MPP[0] <= mpp <= HISTOLOGY_MPP[1]:
        yield Finding(
            severity="warning",
            slide=slide_id,
            message=f"{mpp:g} µm/px is unusual for histology (0.25 is a 40x scan, 0.5 a 20x scan)",
            way_out="check it in QuPath (Image tab); pass --mpp if the slide does not know it",
        )
    if not slide.patches:
        yield Finding(
            severity="warning",
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
    if slide.other_kinds:
        yield Finding(
            severity="note",
            slide=slide_id,
            message=f"{_count(slide.other_kinds, 'object')} of another kind than is trained on, such as detections",
            way_out="nothing to do, or name the kinds with --kinds",
        )
    yield from _repairs(slide)
    yield from _not_trained(slide, data)
    yield from _off_the_slide(slide, data)
    yield from _slivers(slide, data, sliver_um2)
    yield from _overlaps(slide, data)


def _repairs(slide: ImportedSlide) -> Iterator[Finding]:
    """Polygons that are not quite what was drawn, by class, with what that did to their area."""
    by_class: dict[str | None, list[tuple[float, BaseGeometry]]] = defaultdict(list)
    for annotation in slide.annotations:
        if annotation.repaired_by_px2 is not None:
            by_class[annotation.class_name].append((annotation.repaired_by_px2, annotation.geometry))
    for name, repaired in by_class.items():
        grown = sum(max(px2, 0.0) for px2, _ in repaired)
        shrunk = sum(max(-px2, 0.0) for px2, _ in repaired)
        changes = [
            f"{word} {area_text(px2 * slide.record.mpp**2)} ({px2:,.0f} px²)"
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
            slide=slide.record.slide_id,
            class_name=name,
            place=_place([most_changed], slide),
            message=f"{_count(len(repaired), 'annotation')} {whose} that {does}, repaired: {its} area "
            + (" and ".join(changes) if changes else "stays the same"),
            way_out="look at it in QuPath; nothing to do if the outline there is what you mean",
        )


def _not_trained(slide: ImportedSlide, data: ImportedData) -> Iterator[Finding]:
    """Annotations that label nothing, by reason; each is counted under its first reason."""
    slide_id = slide.record.slide_id
    unclassified: list[BaseGeometry] = []
    left_out: dict[str, list[BaseGeometry]] = defaultdict(list)
    ignored: dict[str, list[BaseGeometry]] = defaultdict(list)
    elsewhere: dict[str, list[BaseGeometry]] = defaultdict(list)
    thin: dict[str, list[BaseGeometry]] = defaultdict(list)
    for annotation in slide.annotations:
        name, geometry = annotation.class_name, annotation.geometry
        if data.purpose_of(annotation) is not None or data.label_of(slide, annotation) is not None:
            continue
        if name is None:
            unclassified.append(geometry)
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
            place=_place(unclassified, slide),
            message=f"{_count(len(unclassified), 'annotation')} without a class, not trained on",
            way_out="give a class in QuPath, or delete what is not needed",
        )
    for name, geometries in elsewhere.items():
        yield Finding(
            severity="warning",
            slide=slide_id,
            class_name=name,
            place=_place(geometries, slide),
            message=f'{_count(len(geometries), "annotation")} of "{name}" on another plane than z = {slide.plane.z}, '
            f"t = {slide.plane.t}, not trained on",
            way_out="draw on that plane, or choose another with --plane",
        )
    for name, geometries in thin.items():
        yield Finding(
            severity="warning",
            slide=slide_id,
            class_name=name,
            place=_place(geometries, slide),
            message=f'{_count(len(geometries), "line or point", "lines or points")} of "{name}", labelling no pixel',
            way_out="draw areas with the brush, wand or polygon tool, or give lines a width with --line-width-um",
        )
    for name, geometries in ignored.items():
        yield Finding(
            severity="note",
            slide=slide_id,
            class_name=name,
            place=_place(geometries, slide),
            message=f'{_count(len(geometries), "annotation")} of "{name}", a class that QuPath ignores, not trained on',
            way_out="nothing to do if that is meant; else rename the class without its *",
        )
    for name, geometries in left_out.items():
        yield Finding(
            severity="note",
            slide=slide_id,
            class_name=name,
            place=_place(geometries, slide),
            message=f'{_count(len(geometries), "annotation")} of "{name}", a class left out on your word',
            way_out="nothing to do",
        )


def _off_the_slide(slide: ImportedSlide, data: ImportedData) -> Iterator[Finding]:
    """Areas of which a part, or everything, lies beyond the slide's border."""
    width, height = slide.record.width, slide.record.height
    frame = shapely.box(0, 0, width, height)
    um2 = slide.record.mpp**2
    for (name, _), geometries in _areas_by_class(slide, data).items():
        bounds = shapely.bounds(geometries)
        crossing = (bounds[:, :2] < 0).any(axis=1) | (bounds[:, 2] > width) | (bounds[:, 3] > height)
        beyond = [g for g, crosses in zip(geometries, crossing, strict=True) if crosses]
        areas = [float(shapely.difference(g, frame).area) for g in beyond]
        beyond = [g for g, area in zip(beyond, areas, strict=True) if area > 1]  # 1 px2: only rounding
        if beyond:
            yield Finding(
                severity="warning",
                slide=slide.record.slide_id,
                class_name=name,
                place=_place(beyond, slide),
                message=f'{_count(len(beyond), "annotation")} of "{name}" beyond the border of the slide, by '
                f"{area_text(sum(areas) * um2)}; that part labels nothing",
                way_out="check that what is drawn belongs to this slide; nothing to do if it does",
            )


def _slivers(slide: ImportedSlide, data: ImportedData, sliver_um2: float) -> Iterator[Finding]:
    um2 = slide.record.mpp**2
    for (name, _), geometries in _areas_by_class(slide, data).items():
        slivers = [geometry for geometry in geometries if geometry.area * um2 < sliver_um2]
        if slivers:
            yield Finding(
                severity="note",
                slide=slide.record.slide_id,
                class_name=name,
                place=_place(slivers, slide),
                message=f'{_count(len(slivers), "annotation")} of "{name}" smaller than {sliver_um2:g} µm²',
                way_out="delete in QuPath what is a slip of the mouse",
            )


def _overlaps(slide: ImportedSlide, data: ImportedData) -> Iterator[Finding]:
    """Areas that carry two classes; one finding for each pair of classes.

    Areas are summed over pairs of outlines, so that where outlines of one class overlap each other, what they share
    counts more than once.
    """
    by_class = _areas_by_class(slide, data)
    if len(by_class) < 2:
        return
    um2 = slide.record.mpp**2
    class_area = {key: sum(g.area for g in geometries) for key, geometries in by_class.items()}
    shared, largest, count, complete = _shared_areas(by_class)
    more = "" if complete else "at least "
    against = {pair: area for pair, area in shared.items() if pair[0][1] != pair[1][1]}
    if against:
        worst = max(against, key=lambda pair: against[pair])
        told = contradiction(
            slide,
            {(p, drawn): area for ((drawn, _), (p, _)), area in against.items()},
            _place([largest[worst]], slide),
        )
        if told is not None:
            yield told
    within = {pair: area for pair, area in shared.items() if pair not in against}
    for pair, area in sorted(within.items(), key=lambda item: -item[1]):
        large = area > LARGE_OVERLAP * min(class_area[key] for key in pair)
        yield Finding(
            severity="warning" if large else "note",
            slide=slide.record.slide_id,
            class_name=None,
            place=_place([largest[pair]], slide),
            message=f'"{pair[0][0]}" and "{pair[1][0]}" overlap by {more}{area_text(area * um2)} in {more}'
            f"{_count(count[pair], 'place')}, where a pixel keeps one label only",
            way_out="pull the outlines apart in QuPath, unless the rule for overlaps (--overlap) does what you mean",
        )
    if not complete:
        yield Finding(
            severity="note",
            slide=slide.record.slide_id,
            message="so many outlines lie on each other that not all overlaps were measured",
            way_out="look for copies of annotations",
        )


_Key = tuple[str, bool]
"""A class, and whether it was predicted there."""

_Pair = tuple[_Key, _Key]


def _shared_areas(
    by_class: dict[_Key, list[BaseGeometry]],
) -> tuple[dict[_Pair, float], dict[_Pair, BaseGeometry], dict[_Pair, int], bool]:
    """(shared px2, largest shared part, number of shared parts) per pair of classes, and whether that is all."""
    names = list(by_class)
    geometries = np.array([g for name in names for g in by_class[name]], dtype=object)
    sizes = [len(by_class[name]) for name in names]
    classes = np.repeat(np.arange(len(names)), sizes)
    same_name = np.array([[a[0] == b[0] for b in names] for a in names])
    vertices = shapely.get_num_coordinates(geometries)
    tree = shapely.STRtree(geometries)
    shared: dict[_Pair, float] = defaultdict(float)
    largest: dict[_Pair, BaseGeometry] = {}
    largest_area: dict[_Pair, float] = defaultdict(float)
    count: dict[_Pair, int] = defaultdict(int)
    candidates = work = 0
    for start in range(0, len(geometries), _OVERLAP_CHUNK):
        left, right = tree.query(geometries[start : start + _OVERLAP_CHUNK])
        left = left + start
        candidates += left.size
        keep = (classes[left] < classes[right]) & ~same_name[classes[left], classes[right]]  # each pair once
        left, right = left[keep], right[keep]
        work += int((vertices[left] + vertices[right]).sum())
        if candidates > MAX_CANDIDATES or work > MAX_VERTICES:
            return shared, largest, count, False
        parts = shapely.intersection(geometries[left], geometries[right])
        areas = shapely.area(parts)
        for i in np.flatnonzero(areas > 1):  # 1 px2: outlines that only touch
            pair = names[classes[left[i]]], names[classes[right[i]]]
            shared[pair] += float(areas[i])
            count[pair] += 1
            if areas[i] > largest_area[pair]:
                largest_area[pair], largest[pair] = float(areas[i]), parts[i]
    return shared, largest, count, True


# ---------------------------------------------------------------- helpers


def _areas_by_class(slide: ImportedSlide, data: ImportedData) -> dict[_Key, list[BaseGeometry]]:
    """Outlines that label pixels, by class in the order of the class map, what was drawn first."""
    by_class: dict[_Key, list[BaseGeometry]] = {
        (name, predicted): [] for predicted in (False, True) for name in data.class_map.names
    }
    for annotation in slide.annotations:
        if annotation.is_area and annotation.class_name and data.label_of(slide, annotation) is not None:
            by_class[annotation.class_name, annotation.origin != "drawn"].append(annotation.geometry)
    return {key: geometries for key, geometries in by_class.items() if geometries}


def _place(geometries: Sequence[BaseGeometry], slide: ImportedSlide) -> tuple[int, int] | None:
    """A point in the largest of some geometries, moved onto the slide."""
    largest = max(geometries, key=lambda geometry: (geometry.area, geometry.length))
    if largest.is_empty:
        return None
    point = largest.point_on_surface()
    x = min(max(round(point.x), 0), slide.record.width - 1)
    y = min(max(round(point.y), 0), slide.record.height - 1)
    return x, y


def area_text(um2: float) -> str:
    """An area for people: in um2 up to 1000, else in mm2."""
    if um2 < 1000:
        return f"{um2:.0f} µm²" if um2 >= 1 else "less than 1 µm²"
    mm2 = um2 / _UM2_PER_MM2
    return f"{mm2:.3f} mm²" if mm2 < 1 else f"{mm2:.1f} mm²"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
