"""Which slide is for training, validation or test. A slide is never divided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import Split
from dmmn_qp.errors import DatasetError

HELD_BACK = 0.2
"""Part of the slides that goes to each of validation and test when the split is chosen by lot."""

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


def draw_splits(
    pixels: Mapping[str, NDArray[np.int64]],
    seed: int,
    cases: Mapping[str, str] | None = None,
    settled: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Chooses a split for every slide by lot, so that each class keeps training pixels.

    Of n cases, about `HELD_BACK` go to validation (from two on) and as many to test (from three on), as long as no
    class loses its last training pixel. Cases whose classes cover most come first, so that as many classes as possible
    have validation pixels; ties are settled by lot. All slides of a case share a split.

    Args:
        pixels: (C,) labelled pixels per class of each slide.
        seed: Seed of the lot.
        cases: Case of each slide; every slide is its own case unless given.
        settled: Slides whose split is kept, such as from an earlier import; so is that of the other slides of
            their cases.
    """
    cases = cases or {name: name for name in pixels}
    kept: dict[str, Split] = {cases[name]: split for name, split in (settled or {}).items()}
    by_case: dict[str, NDArray[np.int64]] = {}
    for name in sorted(pixels):
        by_case[cases[name]] = by_case.get(cases[name], np.int64(0)) + pixels[name]
    names = sorted(by_case)
    rng = np.random.default_rng(seed)
    order = [names[i] for i in rng.permutation(len(names))]
    order.sort(key=lambda case: -int((by_case[case] > 0).sum()))
    splits: dict[str, Split] = {case: kept.get(case, "train") for case in names}
    remaining = np.sum(
        [by_case[case] for case in names if splits[case] == "train"] or [0 * pixels[min(pixels)]], axis=0
    )
    needed = remaining > 0
    n = len(names)
    held_back = max(1, round(HELD_BACK * n))
    wanted: dict[Split, int] = {"val": held_back if n > 1 else 0, "test": held_back if n > 2 else 0}
    for split, number in wanted.items():
        for case in order:
            if list(splits.values()).count(split) >= number:
                break
            left = remaining - by_case[case]
            free = splits[case] == "train" and case not in kept
            if free and by_case[case].any() and (left[needed] > 0).all():
                splits[case] = split
                remaining = left
    return {name: splits[cases[name]] for name in pixels}
