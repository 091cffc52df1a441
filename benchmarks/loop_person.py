"""A person who corrects a predicted window by the truth, and the minutes that it takes: a model with fixed constants.

The seconds are an estimate that was fixed before anything was measured with them. They are those of a person who is
used to QuPath, and say nothing of thinking about hard cases; for comparing ways of choosing they need only be in
proportion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from math import pi

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.drawn import Labels
from dmmn_qp.folders.person_time import PersonSeconds

Mask = NDArray[np.bool_]

TOLERANCE_UM = 2.0
"""Half the width of a wrong strip along a border that nobody would correct."""

LEAST_UM2 = 100.0
"""Smallest thing that is drawn, or corrected."""

SHOWN_UM2 = 200.0
"""Smaller objects are not shown: they are part of what is around them, as in the polygons of ``predict``."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a person did.

    Attributes:
        looked_at: Predicted objects that were looked at: those left as they were cost no more than this.
        reclassified: Those that got another class.
        reshaped: Those that got another outline.
        drawn: Areas that were drawn.
        drawn_mm: Length of their outlines.
    """

    looked_at: int = 0
    reclassified: int = 0
    reshaped: int = 0
    drawn: int = 0
    drawn_mm: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def seconds(self) -> float:
        """How long it took."""
        return 60 * PersonSeconds().minutes(**asdict(self))


def correction(predicted: Labels, truth: Labels, mpp: float) -> Work:
    """Corrects a window, whichever way is quickest.

    Every predicted object is looked at. One that is mostly something else may get that class. What is wrong of it then,
    and is more than a strip along its border, is drawn over, part by part, or its outline is changed, once for all
    parts. Where it would be quicker to draw the whole window afresh, that is done.

    Args:
        predicted: (rows, columns) what is shown; 0 is nothing.
        truth: (rows, columns) what is right; 0 is unknown, and never wrong.
        mpp: um/px.
    """
    corrected = Work()
    for label, where, mask in objects_of(predicted):
        whole = np.zeros(truth.shape, np.bool_)
        whole[where] = mask
        corrected += _of_object(whole, label, truth, mpp)
    corrected += drawing(np.where(predicted == 0, truth, np.uint8(0)), mpp)
    return min(corrected, drawing(truth, mpp), key=lambda work: work.seconds)


def drawing(labels: Labels, mpp: float) -> Work:
    """Draws every connected area of a class, but for the smallest."""
    drawn = [part for _, _, part in objects_of(labels) if np.count_nonzero(part) * mpp**2 >= LEAST_UM2]
    return Work(drawn=len(drawn), drawn_mm=sum(outline_mm(part, mpp) for part in drawn))


def _of_object(mask: Mask, label: int, truth: Labels, mpp: float) -> Work:
    """Corrects one predicted object."""
    counts = np.bincount(truth[mask], minlength=256)
    counts[0] = 0
    majority = int(counts.argmax())
    ways = [Work(looked_at=1) + _outline(mask & (truth != label) & (truth > 0), truth, mpp)]
    if majority not in (0, label):
        rest = mask & (truth != majority) & (truth > 0)
        ways.append(Work(looked_at=1, reclassified=1) + _outline(rest, truth, mpp))
    return min(ways, key=lambda work: work.seconds)


def _outline(wrong: Mask, truth: Labels, mpp: float) -> Work:
    """Puts right what is wrong of an object's outline."""
    parts = drawing(np.where(_opened(wrong, TOLERANCE_UM / mpp), truth, np.uint8(0)), mpp)
    return min(parts, Work(reshaped=int(parts.drawn > 0)), key=lambda work: work.seconds)


def objects_of(labels: Labels) -> Iterator[tuple[int, tuple[slice, slice], Mask]]:
    """Label, bounding box and mask within it of each connected area of a label."""
    for label in np.unique(labels[labels > 0]):
        ids, _ = ndimage.label(labels == label)
        for number, where in enumerate(ndimage.find_objects(ids), start=1):
            yield int(label), where, ids[where] == number


def outline_mm(mask: Mask, mpp: float) -> float:
    """Length of a mask's outlines, holes included: pixels' edges are 4 / pi times as long as a smooth line."""
    padded = np.pad(mask, 1)
    edges = np.count_nonzero(padded[1:] != padded[:-1]) + np.count_nonzero(padded[:, 1:] != padded[:, :-1])
    return float(edges * mpp / 1000 * pi / 4)


def shown(labels: Labels, mpp: float) -> Labels:
    """Labels without objects that are too small to be shown: each of their pixels is what is nearest of the others."""
    large = np.zeros(labels.shape, np.bool_)
    for label in np.unique(labels):
        ids, _ = ndimage.label(labels == label)
        enough = np.bincount(ids.ravel()) * mpp**2 >= SHOWN_UM2
        enough[0] = False
        large |= enough[ids]
    if large.all() or not large.any():
        return labels
    rows, columns = ndimage.distance_transform_edt(~large, return_distances=False, return_indices=True)
    return labels[rows, columns]


def _opened(mask: Mask, radius_px: float) -> Mask:
    """A mask without what a disc does not fit into; beyond its border it goes on."""
    r = max(1, round(radius_px))
    y, x = np.ogrid[-r : r + 1, -r : r + 1]
    disc = (np.hypot(y, x) <= r).astype(np.uint8)
    padded = np.pad(mask, 2 * r, mode="edge").astype(np.uint8)
    return cv2.morphologyEx(padded, cv2.MORPH_OPEN, disc)[2 * r : -2 * r, 2 * r : -2 * r] > 0
