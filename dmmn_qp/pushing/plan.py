"""What becomes of the objects of an image when a prediction is put into it.

Everything stays that is not ours, and of ours what somebody vouched for, locked or not: what `import` would take as a
label. The rest makes room for the new prediction, which is cut by what stays, so that nothing lies doubled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from dmmn_qp.annotations import Annotation
from dmmn_qp.pushing.features import KINDS, kind_of
from dmmn_qp.qupath.cutting import Feature, cut
from dmmn_qp.qupath.geojson_reader import objects_of
from dmmn_qp.qupath.marks import is_locked
from dmmn_qp.qupath.notes import parse_uuid
from dmmn_qp.qupath.originals import read_originals
from dmmn_qp.qupath.review import Verdict, ids_of, is_suggestion, possible_copies, review

_SAME_AREA: Final = 1e-3

_ROUNDING_PX: Final = 0.02

_Key = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What becomes of the objects of an image.

    Attributes:
        before: All its objects, as GeoJSON.
        is_kept: Whether each of them stays.
        reviewed: Those of ours that stay, because somebody vouched for them or locked them.
        added: The objects to add: those of the prediction but for what such as stay cover, or the suggested regions.
        cut: How many of these were cut.
        doubtful: How many of ``reviewed`` nobody can tell to have been changed or not.
        problems: Files of earlier predictions that cannot be read.
    """

    before: Sequence[Feature]
    is_kept: Sequence[bool]
    reviewed: Sequence[Feature]
    added: Sequence[Feature]
    cut: int
    doubtful: int = 0
    problems: Sequence[str] = ()

    def drops(self, feature: Feature) -> bool:
        """Whether an object that is there is to be removed; it is known by all that QuPath tells of it."""
        return _exact_key(feature) in self._dropped

    @cached_property
    def _dropped(self) -> frozenset[_Key]:
        kept = {_exact_key(f) for f, is_kept in zip(self.before, self.is_kept, strict=True) if is_kept}
        dropped = {_exact_key(f) for f, is_kept in zip(self.before, self.is_kept, strict=True) if not is_kept}
        return frozenset(dropped - kept)

    @property
    def kept(self) -> list[Feature]:
        """The objects that stay."""
        return [feature for feature in self.before if not self.drops(feature)]


def plan_of(before: Sequence[Feature], prediction: Sequence[Feature], earlier: Sequence[Path] = ()) -> Plan:
    """Decides what becomes of an image's objects when a prediction is put into it.

    Args:
        before: All its objects, as QuPath's own GeoJSON.
        prediction: The objects of the prediction.
        earlier: Files in which our own objects may be found as they were predicted.
    """
    objects = [next(iter(objects_of(dict(feature), "object").annotations), None) for feature in before]
    outlined = [annotation for annotation in objects if annotation is not None]
    originals, problems = read_originals(earlier, ids_of(outlined), possible_copies(outlined))
    verdicts = iter(review(outlined, originals))
    judged = [(annotation, None if annotation is None else next(verdicts)) for annotation in objects]
    is_kept = [_stays(feature, verdict) for feature, (_, verdict) in zip(before, judged, strict=True)]
    reviewed = [
        i
        for i, (_, verdict) in enumerate(judged)
        if is_kept[i] and verdict is not None and _is_of_ours(verdict) and kind_of(before[i]) in KINDS
    ]
    there = {parse_uuid(before[i].get("id")) for i in reviewed} - {None}
    new = [feature for feature in prediction if parse_uuid(feature.get("id")) not in there]
    added, n_cut = cut(new, [annotation for i in reviewed if (annotation := objects[i]) is not None])
    doubtful = sum(verdict is not None and verdict.doubt == "no measurements" for _, verdict in judged)
    return Plan(before, is_kept, [before[i] for i in reviewed], added, n_cut, doubtful, problems)


def plan_of_suggestions(before: Sequence[Feature], suggestions: Sequence[Feature]) -> Plan:
    """Decides what becomes of an image's objects when suggested regions are put into it.

    Only earlier suggestions make room, and of these none that somebody has locked, reshaped or given another class.

    Args:
        before: All its objects, as QuPath's own GeoJSON.
        suggestions: The new ones.
    """
    objects = [next(iter(objects_of(dict(feature), "object").annotations), None) for feature in before]
    is_kept = [annotation is None or not is_suggestion(annotation) for annotation in objects]
    there = {parse_uuid(f.get("id")) for f, stays in zip(before, is_kept, strict=True) if stays} - {None}
    return Plan(before, is_kept, [], [f for f in suggestions if parse_uuid(f.get("id")) not in there], cut=0)


def _stays(feature: Feature, verdict: Verdict | None) -> bool:
    """Whether an object is none of ours, or one that somebody vouched for, may have, or locked for whatever reason."""
    if verdict is None or not verdict.is_ours or verdict.is_outline or kind_of(feature) not in KINDS:
        return True
    return verdict.origin != "unchecked" or verdict.doubt is not None or is_locked(feature)


def _is_of_ours(verdict: Verdict) -> bool:
    """Whether an object comes from a prediction, edited copies included."""
    return not verdict.is_outline and (verdict.is_ours or verdict.origin != "drawn")


def difference(plan: Plan, after: Sequence[Feature]) -> str | None:
    """What differs between the objects of an image and what was planned; None where all is as it should be.

    Compared are numbers of objects, and of each its id, kind, class, name, lock and area.
    """
    found = _described(after)
    for whose, group in (("that were there", plan.kept), ("of the prediction", plan.added)):
        expected = _described(group)
        lost = sum(max(0, len(sizes) - len(found.get(key, ()))) for key, sizes in expected.items())
        if lost:
            return f"{lost} of {len(group)} objects {whose} are missing or changed"
        for key, sizes in expected.items():
            for (area, length), (new_area, _) in zip(sizes, found[key], strict=False):
                if abs(new_area - area) > _SAME_AREA * area + _ROUNDING_PX * length:
                    return f"the area of object {key[0]} changed from {area:g} to {new_area:g} px"
    if len(after) != len(plan.kept) + len(plan.added):
        return f"it has {len(after)} objects instead of {len(plan.kept) + len(plan.added)}"
    return None


def _described(features: Sequence[Feature]) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Areas in px2 and lengths in px of objects, ascending, by what else must not change."""
    described: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for feature in features:
        annotation = next(iter(objects_of(dict(feature), "object").annotations), None)  # None where it has no outline
        size = (annotation.geometry.area, annotation.geometry.length) if annotation else (0.0, 0.0)
        described.setdefault(_key(feature, annotation), []).append(size)
    return {key: sorted(sizes) for key, sizes in described.items()}


def _key(feature: Feature, annotation: Annotation | None) -> _Key:
    """What must not change of an object, but for its size."""
    return (
        str(feature.get("id", "")).lower(),
        kind_of(feature),
        str(annotation and annotation.class_name),
        str(annotation and annotation.name),
        str(is_locked(feature)),
    )


def _exact_key(feature: Feature) -> _Key:
    """By what an object is found again in the same image: objects of one id may differ in their outlines."""
    annotation = next(iter(objects_of(dict(feature), "object").annotations), None)
    size = (annotation.geometry.area, *annotation.geometry.bounds) if annotation else ()
    return (*_key(feature, annotation), *(f"{value:.1f}" for value in size))
