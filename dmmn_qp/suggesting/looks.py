"""What places look like: vectors of the tissue at windows and at annotated places, and their distances.

With a network that is built on a pretrained encoder, a vector holds what it sees; else the colour of the tissue alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.features.tissue import SIDE_PX, TissueDescriber, magnification_of
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.specs import PatchGrid

MOST_PLACES: Final = 120
"""Annotated places that are looked at, at most."""

Vectors = NDArray[np.float64]
"""(places, numbers) float64; NaN where hardly any tissue is."""


def vectors_at(
    describer: TissueDescriber, slide: Slide, grid: PatchGrid, centres_px: Iterable[tuple[float, float]]
) -> Vectors:
    """Looks at places of a slide: at squares of `SIDE_PX` at about 1 um/px.

    Places whose centres are the same are looked at once.

    Args:
        describer: What looks.
        slide: The slide.
        grid: The patch grid on it.
        centres_px: (x, y) of their centres in level-0 px.
    """
    magnification = magnification_of(grid.spec)
    scale = grid.downsample_of(magnification)
    rows, columns = grid.whole_shape(slide.info.width, slide.info.height, magnification)
    height, width = min(rows, SIDE_PX), min(columns, SIDE_PX)
    nothing, seen, tiles = np.full(describer.numbers, np.nan), {}, []
    for x, y in centres_px:
        left, top = (round(at / scale - side / 2) for at, side in ((x, width), (y, height)))
        tiles.append(Region(min(max(left, 0), columns - width), min(max(top, 0), rows - height), width, height))
    for tile in dict.fromkeys(tiles):
        vector = describer.vector(slide, grid, tile)
        seen[tile] = nothing if vector is None else vector
    return np.array([seen[tile] for tile in tiles]).reshape(len(tiles), describer.numbers)


def label_of(patch: PatchRef) -> int:
    """The label that most of a patch has."""
    return int(np.argmax(patch.label_counts[1:])) + 1


def annotated_places(patches: Sequence[PatchRef], most: int = MOST_PLACES) -> list[PatchRef]:
    """Patches that stand for what is annotated for training: as many of each class, spread over slides.

    Args:
        patches: All patches.
        most: How many at most.
    """
    of_training = sorted((p for p in patches if p.split == "train"), key=lambda p: (p.slide_id, p.y, p.x))
    by_class: dict[int, list[PatchRef]] = {}
    for patch in of_training:
        by_class.setdefault(label_of(patch), []).append(patch)
    each = max(1, most // max(1, len(by_class)))
    chosen = []
    for label in sorted(by_class):
        found = by_class[label]
        places = np.unique(np.linspace(0, len(found) - 1, min(each, len(found))).round().astype(int))
        chosen += [found[k] for k in places]
    return chosen


def scaled(windows: Vectors, annotated: Vectors) -> tuple[Vectors, Vectors]:
    """Both with numbers of about the same spread, so that none of them counts for all."""
    both = np.concatenate([windows, annotated])
    known = both[~np.isnan(both).any(axis=1)]
    if len(known) < 2:
        return windows, annotated
    spread = np.maximum(known.std(axis=0), 1e-3 * max(float(np.abs(known).max()), 1e-6))
    return (windows - known.mean(axis=0)) / spread, (annotated - known.mean(axis=0)) / spread


def distances(
    windows: Vectors, predicted: Sequence[str], annotated: Vectors, classes: Sequence[str]
) -> NDArray[np.float64]:
    """How unlike what is annotated as its predicted class each window looks.

    It is the distance to the nearest place of that class, divided by that to the nearest of any other: below 1 for what
    looks like its class, about 1 for what looks like nothing that is annotated, and above where it looks like another
    class. So it tells errors, which the plain distance does not: glass and fat are far from everything, and right.

    Args:
        windows: (windows, numbers).
        predicted: The class that most of each is predicted as.
        annotated: (places, numbers).
        classes: The class of each.

    Returns:
        (windows,), infinite where nothing is annotated of the class; NaN where it is not known, everywhere if less than
        two classes are annotated.
    """
    seen = ~np.isnan(annotated).any(axis=1)
    known, of_place = annotated[seen], np.array(classes, object)[seen]
    if len(set(of_place.tolist())) < 2 or not len(windows):
        return np.full(len(windows), np.nan)
    apart = np.sqrt(np.square(windows[:, None] - known[None]).mean(axis=2))
    is_own = np.array(predicted, object)[:, None] == of_place[None]
    own, other = (np.where(mask, apart, np.inf).min(axis=1) for mask in (is_own, ~is_own))
    return np.asarray(np.where(np.isnan(windows).any(axis=1), np.nan, own / np.maximum(other, 1e-9)))
