"""Which classes an import trains on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dmmn_qp.annotations import Color
from dmmn_qp.errors import DatasetError
from dmmn_qp.importing.nothing_left import nothing_left
from dmmn_qp.importing.prepared import Labelling
from dmmn_qp.importing.rules import ImportRules
from dmmn_qp.importing.source import Source
from dmmn_qp.labels.splits import area_split_of
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.specs import MAX_CLASSES, ClassMap

_POINTS = ("Point", "MultiPoint")


def labelling_of(source: Source, rules: ImportRules) -> Labelling:
    """Settles, for all slides, how objects become labels and patches.

    Raises:
        DatasetError: A rule names a class that does not exist, nothing is left to train on, or there are more classes
            than labels.
    """
    predicted = {a.predicted_as for slide in source.slides for a in slide.objects.annotations if a.predicted_as}
    others = sorted(source.all_counts().left_out_classes | predicted)
    targets = rules.classes.resolve([*source.class_colors, *others])
    if rules.patches.split_areas:
        targets = without_split_areas(source, targets)
    return Labelling(make_class_map(source, targets, rules.reading), targets, rules.painting, rules.patches)


def make_class_map(source: Source, targets: Mapping[str, str | None], reading: ReadRules) -> ClassMap:
    """The trained classes that label at least one object, in the source's order.

    Args:
        source: The annotated slides.
        targets: Name in the source -> name to train (`ClassRules.resolve`).
        reading: What was read, to say what was left out where nothing is left.

    Raises:
        DatasetError: Nothing is left to train on, or more classes than labels.
    """
    used = {
        targets[a.class_name]
        for slide in source.slides
        for a in slide.objects.annotations
        if a.class_name is not None and slide.is_on_plane(a) and a.geometry.geom_type not in _POINTS
    }
    names = [name for name in dict.fromkeys(targets.values()) if name is not None and name in used]
    if not names:
        raise DatasetError(nothing_left(source, targets, reading))
    if len(names) > MAX_CLASSES:
        raise DatasetError(
            f"{len(names)} classes are drawn, but masks have room for {MAX_CLASSES}; merge some ([import.classes]), "
            "or leave them out with --drop"
        )
    colors: dict[str, Color | None] = {}
    for name, target in targets.items():
        if target is not None:
            own = source.class_colors.get(target)
            colors[target] = own or colors.get(target) or source.class_colors.get(name)
    missing = distinct_colors(names)
    return ClassMap.from_colors((name, colors[name] or missing[name]) for name in names)


def without_split_areas(source: Source, targets: Mapping[str, str | None]) -> dict[str, str | None]:
    """The targets without the classes that only mark areas for a split."""
    marks = {
        a.class_name
        for slide in source.slides
        for a in slide.objects.annotations
        if area_split_of(a) is not None and area_split_of(replace(a, name=None)) is not None
    }
    return {name: None if name in marks else target for name, target in targets.items()}
