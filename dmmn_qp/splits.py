"""Which slide is for training, validation or test. A slide is never divided."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import DatasetError
from dmmn_qp.specs import Split

HELD_BACK = 0.2
"""Part of the slides that goes to each of validation and test when the split is drawn."""

_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def split_of_word(word: str, slide: str) -> Split:
    """What a user wrote -> a split.

    Raises:
        DatasetError: The word is none of train, val or test.
    """
    split = _WORDS.get(word.strip().lower())
    if split is None:
        raise DatasetError(
            f'slide "{slide}" has split "{word}", which is none of train, val and test; mend it in QuPath (image '
            "metadata) or pass another --split-key"
        )
    return split


def draw_splits(pixels: Mapping[str, NDArray[np.int64]], seed: int) -> dict[str, Split]:
    """Draws a split for every slide so that each class keeps training pixels.

    Of n slides, about `HELD_BACK` go to validation (from two slides on) and as many to test (from three on), as long
    as no class loses its last training pixel. Candidates whose classes cover most come first, so that as many
    classes as possible have validation pixels; ties are drawn.

    Args:
        pixels: (C,) labelled pixels per class of each slide.
        seed: Seed of the draw.
    """
    names = sorted(pixels)
    rng = np.random.default_rng(seed)
    order = [names[i] for i in rng.permutation(len(names))]
    order.sort(key=lambda name: -int((pixels[name] > 0).sum()))
    splits: dict[str, Split] = dict.fromkeys(names, "train")
    remaining = np.sum([pixels[name] for name in names], axis=0)
    needed = remaining > 0
    n = len(names)
    wanted: list[Split] = ["val"] * (max(1, round(HELD_BACK * n)) if n > 1 else 0)
    wanted += ["test"] * (max(1, round(HELD_BACK * n)) if n > 2 else 0)
    for split in wanted:
        for name in order:
            left = remaining - pixels[name]
            if splits[name] == "train" and pixels[name].any() and (left[needed] > 0).all():
                splits[name] = split
                remaining = left
                break
    return splits
