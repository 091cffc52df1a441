"""Which of our own objects somebody has vouched for.

A prediction that lies in an image says nothing until a person has said something to it: by locking it, by giving it
another class, or by changing its outline. What QuPath leaves behind of each was measured in its versions 0.4 to 0.7:

- Ids, classes and locks survive everything. An outline that nobody touched comes back within 0.015 px, but with other
  first vertices and sometimes fewer, so that only a distance tells it from a changed one.
- Every change of an outline takes the measurements away, and nothing else does but an export without them.
- Duplicates, merged and split objects have ids of QuPath's own; what has been done to them shows in their outlines.

Import and push ask here, so that what the one takes as a label the other never removes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, Literal
from uuid import UUID

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation, Origin
from dmmn_qp.qupath.marks import (
    AREA_MM2,
    CLASS_CODE,
    CLASS_KEY,
    METADATA_KEY,
    ORIGIN_KEY,
    OUR_MEASUREMENTS,
    PERIMETER,
    RUN_KEY,
    SUGGESTION_CLASS,
    SUGGESTION_MARK,
    SUGGESTION_RANK,
    TISSUE_CLASS,
    TISSUE_MARK,
    class_code,
    is_marked,
    is_outline_id,
    is_suggestion_id,
)
from dmmn_qp.qupath.originals import Original, Originals
from dmmn_qp.specs import MM2_OF_UM2

SAME_WITHIN_PX: Final = 0.1
"""Outlines whose every vertex lies so near to the other are the same: what QuPath rounds is ten times less."""

_AREA_WITHIN_PX: Final = 0.05
"""Measurements belong to an outline whose area differs by at most so many px times its length."""

_SAME_LENGTH: Final = 1e-4
_UM2_PER_MM2: Final = 1 / MM2_OF_UM2
_LEAST_MM2: Final = 1e-10
_MOST_MM2: Final = 1e10
_OF_OBJECTS_IN_IT: Final = ("detection", "cell", "tile")

SHAPE_FEATURES: Final = ("Area", "Length", "Circularity", "Solidity", "Max diameter", "Min diameter", "Perimeter")
"""How measurements begin that QuPath adds to annotations without locking them."""

Doubt = Literal["locked by QuPath", "no measurements"]
"""Why it cannot be known whether somebody vouched for an object.

``locked by QuPath``: it is locked, but QuPath itself locks what cells were sought in, or what other features were
measured of. ``no measurements``: an export left the measurements of all objects out, and there are no files of the
prediction to compare with.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of one object.

    Attributes:
        origin: Whose word it is; ``unchecked`` also where that cannot be known.
        predicted_as: Class that the model had given it, where that is known.
        original: The object as it was predicted, where that is known.
        is_ours: Whether it is a prediction, or a copy of one that nobody changed.
        is_outline: Whether it is an outline of ours that is no prediction: the tissue's, or a suggested region.
        doubt: Why it cannot be known whether somebody vouched for it; None where it is known.
    """

    origin: Origin
    predicted_as: str | None = None
    original: Original | None = None
    is_ours: bool = True
    is_outline: bool = False
    doubt: Doubt | None = None


_DRAWN: Final = Verdict("drawn", is_ours=False)


def is_prediction(annotation: Annotation) -> bool:
    """Whether an object carries a mark of ours: its id, or what a copy has kept of the others."""
    return (
        is_marked(annotation.annotation_id) or METADATA_KEY in annotation.metadata or _code_of(annotation) is not None
    )


def is_tissue_outline(annotation: Annotation) -> bool:
    """Whether an object is the outline of the tissue that we write, under its own class."""
    marked = annotation.metadata.get(METADATA_KEY) == TISSUE_MARK or is_outline_id(annotation.annotation_id)
    return marked and annotation.class_name in (None, TISSUE_CLASS)


def is_from_suggestion(annotation: Annotation) -> bool:
    """Whether an object is a region that we suggested, or was one before somebody changed it."""
    marked = annotation.metadata.get(METADATA_KEY) == SUGGESTION_MARK or is_suggestion_id(annotation.annotation_id)
    return marked and CLASS_CODE not in annotation.measurements and CLASS_KEY not in annotation.metadata


def is_suggestion(annotation: Annotation) -> bool:
    """Whether an object is a region that we suggested, as it was: of its class, not locked and not reshaped.

    All else is the user's, who has made something of it.
    """
    return (
        is_from_suggestion(annotation)
        and annotation.class_name == SUGGESTION_CLASS
        and not annotation.locked
        and SUGGESTION_RANK in annotation.measurements
    )


def possible_copies(annotations: Iterable[Annotation]) -> dict[str | None, list[BaseGeometry]]:
    """Outlines of objects that have no id of ours, but may be copies of predictions of their class, by class."""
    found: dict[str | None, list[BaseGeometry]] = {}
    for a in annotations:
        if a.class_name is not None and a.is_area and not is_marked(a.annotation_id):
            found.setdefault(a.class_name, []).append(a.geometry)
    return found


def review(annotations: Sequence[Annotation], originals: Originals | None = None) -> list[Verdict]:
    """Tells for each object of an image where it comes from: a person, or a model that nobody checked.

    Args:
        annotations: All objects of the image, of every kind; what a person did to one is seen beside the others.
        originals: What is known of the predictions of the image; the more, the less stays in doubt.

    Returns:
        A verdict for each object, in their order.
    """
    return _Review(annotations, originals or Originals()).verdicts()


class _Review:
    """The objects of one image."""

    def __init__(self, annotations: Sequence[Annotation], originals: Originals) -> None:
        self._annotations = annotations
        self._originals = originals
        ours = [a for a in annotations if is_prediction(a)]
        self._are_measured = {METADATA_KEY in a.metadata for a in ours if PERIMETER in a.measurements}
        self._mpp = _mpp_of(ours)
        self._name_of_code = {
            class_code(name): name
            for name in (
                *(a.class_name for a in annotations),
                *(o.class_name for found in originals.by_id.values() for o in found),
                *(o.class_name for o in originals.others),
            )
            if name is not None
        }
        self._parents = {a.parent_id for a in annotations if a.kind in _OF_OBJECTS_IN_IT} - {None}
        inside = [a.geometry.representative_point() for a in annotations if self._may_lock(a)]
        self._inside = shapely.STRtree(inside) if inside else None
        self._copies_of: dict[str, list[_Predicted]] = {}

    def verdicts(self) -> list[Verdict]:
        found: list[Verdict | None] = [self._of_marked(a) for a in self._annotations]
        here = [
            (a.class_name, None, a.geometry)
            for a, verdict in zip(self._annotations, found, strict=True)
            if verdict is not None and verdict.origin in ("unchecked", "confirmed") and not verdict.is_outline
        ]
        files = [(o.class_name, o.source, o.geometry) for o in self._originals.others]
        grouped: dict[tuple[str | None, Path | None], list[BaseGeometry]] = {}
        for name, source, geometry in (*here, *files):
            grouped.setdefault((name, source), []).append(geometry)
        for (name, _), geometries in grouped.items():  # predictions of several runs would not fit together
            self._copies_of.setdefault(name or "", []).append(_Predicted(geometries))
        return self._with_doubts([v or self._of_unmarked(a) for a, v in zip(self._annotations, found, strict=True)])

    def _with_doubts(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts, less those on locks that QuPath may have set by itself.

        QuPath locks whatever it seeks cells in or measures features of. Where the same was done to more predictions
        that are not locked, it was not QuPath that locked the others; a single one may have been unlocked again.
        """
        signs = [
            self._signs_of_a_lock_by_qupath(a) if v.is_ours and not v.is_outline and v.origin != "corrected" else set()
            for a, v in zip(self._annotations, verdicts, strict=True)
        ]
        of_locked, of_unlocked = Counter[str](), Counter[str]()
        for annotation, found in zip(self._annotations, signs, strict=True):
            (of_locked if annotation.locked else of_unlocked).update(found)
        harmless = {sign for sign, count in of_unlocked.items() if count > of_locked[sign]}
        return [
            replace(v, origin="unchecked", doubt="locked by QuPath") if v.origin == "confirmed" and s - harmless else v
            for v, s in zip(verdicts, signs, strict=True)
        ]

    def _of_marked(self, annotation: Annotation) -> Verdict | None:
        """The verdict on an object with an id of ours, or on the tissue's outline; None for any other."""
        if is_tissue_outline(annotation):
            return Verdict("unchecked", is_outline=True)
        if is_from_suggestion(annotation):
            return Verdict("unchecked", is_outline=True) if is_suggestion(annotation) else _DRAWN
        if not is_marked(annotation.annotation_id):
            return None
        original = self._original_of(annotation)
        is_named = annotation.class_name == TISSUE_CLASS and CLASS_KEY not in annotation.metadata
        if original is None and is_named and not annotation.measurements:
            return Verdict("unchecked", is_outline=True)  # as earlier versions wrote it, through QuPath 0.4
        predicted_as = self._predicted_class(annotation, original)
        if original is not None:
            reshaped: bool | None = not is_same_outline(annotation.geometry, original.geometry)
        else:
            reshaped = self._has_lost_measurements(annotation)
        reclassified = self._is_reclassified(annotation, predicted_as)
        return self._verdict(annotation, predicted_as, original, reshaped=reshaped, reclassified=reclassified)

    def _of_unmarked(self, annotation: Annotation) -> Verdict:
        """The verdict on an object without an id of ours: drawn, unless it is a copy of what was predicted."""
        measured = PERIMETER in annotation.measurements and AREA_MM2 in annotation.measurements
        is_copy = is_prediction(annotation) or (measured and self._are_measurements_of(annotation))
        predicted_as = self._predicted_class(annotation)
        reclassified = is_copy and self._is_reclassified(annotation, predicted_as)
        if reclassified:
            return self._verdict(annotation, predicted_as, None, reshaped=False, reclassified=True)
        if self._is_where_predicted(annotation):
            return self._verdict(annotation, annotation.class_name, None, reshaped=False, reclassified=False)
        if not is_copy:
            return _DRAWN
        reshaped = self._has_lost_measurements(annotation)
        return self._verdict(annotation, predicted_as, None, reshaped=reshaped, reclassified=False)

    def _verdict(
        self,
        annotation: Annotation,
        predicted_as: str | None,
        original: Original | None,
        *,
        reshaped: bool | None,
        reclassified: bool,
    ) -> Verdict:
        if reclassified or reshaped or annotation.metadata.get(ORIGIN_KEY) == "corrected":
            is_ours = is_marked(annotation.annotation_id)  # an edited copy is its maker's
            return Verdict("corrected", predicted_as, original, is_ours=is_ours)
        if annotation.locked:
            return Verdict("confirmed", predicted_as, original)
        doubt: Doubt | None = "no measurements" if reshaped is None else None
        return Verdict("unchecked", predicted_as, original, doubt=doubt)

    def _original_of(self, annotation: Annotation) -> Original | None:
        """The object as it was predicted, by the prediction that it is of."""
        assert annotation.annotation_id is not None
        candidates = self._originals.by_id.get(annotation.annotation_id, ())
        named = [o for o in candidates if o.is_named_by_outline]
        if named:
            return named[0]
        run_id = annotation.metadata.get(RUN_KEY)
        if run_id is not None:
            return next((o for o in candidates if o.run_id == run_id), None)
        perimeter = annotation.measurements.get(PERIMETER)
        if perimeter is None:
            return candidates[0] if len(candidates) == 1 else None
        return next((o for o in candidates if abs(o.perimeter_um - perimeter) <= _SAME_LENGTH * perimeter), None)

    def _predicted_class(self, annotation: Annotation, original: Original | None = None) -> str | None:
        """The predicted class, by the marks of the object before those of the file: a dataset's may have been renamed.

        None where they do not tell, or tell only the code of a class that is met nowhere.
        """
        if CLASS_KEY in annotation.metadata:
            return annotation.metadata[CLASS_KEY]
        code = _code_of(annotation)
        if code is None:
            return original.class_name if original is not None else None
        return self._name_of_code.get(code)

    def _is_reclassified(self, annotation: Annotation, predicted_as: str | None) -> bool:
        if predicted_as is not None:
            return annotation.class_name != predicted_as
        code = _code_of(annotation)
        return code is not None and (annotation.class_name is None or code != class_code(annotation.class_name))

    def _has_lost_measurements(self, annotation: Annotation) -> bool | None:
        """Whether an outline was changed, by its measurements; None where these may be missing for another reason.

        An export without measurements leaves out metadata as well, so that whoever has the class in them has lost the
        measurements to a change. Others are judged by their like: what came through QuPath 0.4 has no metadata.
        """
        if PERIMETER in annotation.measurements:
            return not self._are_measurements_of(annotation)
        if CLASS_KEY in annotation.metadata or (METADATA_KEY in annotation.metadata) in self._are_measured:
            return True
        return None

    def _are_measurements_of(self, annotation: Annotation) -> bool:
        """Whether the area measured is that of the outline.

        By the area in mm2, which only we measure; QuPath may measure the other one anew, with another um/px.
        """
        area_px2 = _area_px2(annotation, self._mpp)
        if area_px2 is None:
            return True
        return bool(abs(area_px2 - annotation.geometry.area) <= _AREA_WITHIN_PX * annotation.geometry.length + 1)

    def _signs_of_a_lock_by_qupath(self, annotation: Annotation) -> set[str]:
        """What in an object may have made QuPath lock it: objects that were sought in it, and foreign measurements."""
        signs = {
            name
            for name in annotation.measurements
            if name not in OUR_MEASUREMENTS and not name.startswith(SHAPE_FEATURES)
        }
        is_parent = annotation.annotation_id in self._parents
        if is_parent or (self._inside and len(self._inside.query(annotation.geometry, predicate="contains"))):
            signs.add("")
        return signs

    @staticmethod
    def _may_lock(annotation: Annotation) -> bool:
        """Whether an object is of the kind for whose sake QuPath locks what they lie in."""
        return (
            annotation.kind in _OF_OBJECTS_IN_IT
            and not is_prediction(annotation)
            and PERIMETER not in annotation.measurements
        )

    def _is_where_predicted(self, annotation: Annotation) -> bool:
        """Whether the outline is that of predicted objects of its class together, or of parts of them."""
        if annotation.class_name is None or not annotation.is_area:
            return False
        return any(p.makes_up(annotation.geometry) for p in self._copies_of.get(annotation.class_name, ()))


class _Predicted:
    """The outlines of what was predicted as one class, each polygon by itself."""

    def __init__(self, geometries: Sequence[BaseGeometry]) -> None:
        self._parts = shapely.get_parts(geometries)
        self._tree = shapely.STRtree(self._parts)

    def makes_up(self, geometry: BaseGeometry) -> bool:
        """Whether the parts that lie in an outline make it up, all of it and nothing else."""
        shapely.prepare(geometry)
        near = self._parts[self._tree.query(geometry)]
        inside = near[shapely.intersects(geometry, shapely.point_on_surface(near))]
        if not len(inside):
            return False
        if any(is_same_outline(geometry, part) for part in inside):  # most copies are of a single part
            return True
        apart = np.abs(np.subtract(shapely.total_bounds(inside), geometry.bounds)).max()
        return bool(apart <= SAME_WITHIN_PX) and is_same_outline(geometry, shapely.union_all(inside))


def is_same_outline(first: BaseGeometry, second: BaseGeometry, within_px: float = SAME_WITHIN_PX) -> bool:
    """Whether every vertex of each of two areas lies within a distance of the other's border.

    Args:
        first: Polygon or several, level-0 px.
        second: The same.
        within_px: The distance.
    """
    if np.abs(np.subtract(first.bounds, second.bounds)).max() > within_px:
        return False
    return _lie_on(first, second, within_px) and _lie_on(second, first, within_px)


def _code_of(annotation: Annotation) -> int | None:
    """The code of the predicted class; None where there is none, or it is no number."""
    code = annotation.measurements.get(CLASS_CODE)
    return int(code) if code is not None and np.isfinite(code) else None


def _lie_on(geometry: BaseGeometry, other: BaseGeometry, within_px: float) -> bool:
    border = shapely.boundary(other)
    shapely.prepare(border)
    return bool(shapely.dwithin(border, shapely.points(shapely.get_coordinates(geometry)), within_px).all())


def _mpp_of(ours: Iterable[Annotation]) -> float | None:
    """um/px by the areas that our objects were measured to have; None where none was measured."""
    sizes = [
        (_UM2_PER_MM2 * a.measurements[AREA_MM2] / a.geometry.area) ** 0.5
        for a in ours
        if a.is_area and PERIMETER in a.measurements and _is_area(a.measurements.get(AREA_MM2)) and a.geometry.area > 0
    ]
    return median(sizes) if sizes else None


def _area_px2(annotation: Annotation, mpp: float | None) -> float | None:
    """The area in px2 that was measured; None where that is not known."""
    area_mm2 = annotation.measurements.get(AREA_MM2)
    if mpp is None or area_mm2 is None or not annotation.is_area or not _is_area(area_mm2):
        return None
    return _UM2_PER_MM2 * area_mm2 / mpp**2


def _is_area(mm2: float | None) -> bool:
    """Whether a measurement is an area that an object can have."""
    return mm2 is not None and _LEAST_MM2 <= mm2 < _MOST_MM2


def ids_of(annotations: Iterable[Annotation]) -> frozenset[UUID]:
    """The ids of ours among those of some objects."""
    return frozenset(a.annotation_id for a in annotations if a.annotation_id is not None and is_marked(a.annotation_id))
