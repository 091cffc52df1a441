"""Which slide is for training, validation or test. A slide is never divided."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import combinations

import shapely
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError

_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_areas(annotations: Iterable[Annotation]) -> dict[Split, BaseGeometry]:
    """Areas of a slide that are for one split: those whose class or name is Training, Validation or Test.

    Args:
        annotations: Objects of the slide.

    Returns:
        The union of the areas of each split that has any, in level-0 px.

    Raises:
        DatasetError: Areas of different splits overlap.
    """
    parts: dict[Split, list[BaseGeometry]] = {}
    for annotation in annotations:
        split = area_split_of(annotation)
        if split is not None:
            parts.setdefault(split, []).append(annotation.geometry)
    areas = {split: shapely.union_all(geometries) for split, geometries in parts.items()}
    for first, second in combinations(areas, 2):
        if areas[first].intersection(areas[second]).area > 0:
            raise DatasetError(
                f"areas for {first} and {second} overlap on a slide; draw them apart in QuPath so that no pixel is in "
                "two splits"
            )
    return areas


def area_split_of(annotation: Annotation) -> Split | None:
    """The split that an annotation marks an area for, by its class or its name; None for an ordinary one."""
    if not annotation.is_area:
        return None
    for word in (annotation.class_name, annotation.name):
        split = _WORDS.get((word or "").strip().rstrip("*").lower())
        if split is not None:
            return split
    return None


def split_of_word(word: str, slide: str) -> Split:
    """What a user wrote -> a split.

    Raises:
        DatasetError: The word is none of train, val or test.
    """
    split = _WORDS.get(word.strip().lower())
    if split is None:
        raise DatasetError(
            f'slide "{slide}" has split "{word}", which is none of train, val and test; mend it where it is said '
            "(image metadata in QuPath, or --split-file), or pass another --split-key"
        )
    return split


def case_of(name: str, pattern: str | None) -> str:
    """The case that a slide belongs to: what the pattern finds in its name, or the name itself.

    Raises:
        DatasetError: The pattern is no regular expression, or finds nothing in the name.
    """
    if pattern is None:
        return name
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise DatasetError(f'case pattern "{pattern}" is no regular expression ({error}); mend it') from error
    if match is None:
        raise DatasetError(
            f'case pattern "{pattern}" finds nothing in slide "{name}"; mend it so that every slide has a case'
        )
    return match[1] if match.re.groups and match[1] is not None else match[0]
