"""The pictures of an evaluation: whole slides, and the places where predictions are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmmn_qp.folders.counted_labels import CountedLabels
from dmmn_qp.labels.meeting import Meeting
from dmmn_qp.regions import Region
from dmmn_qp.reports.pictures import PALE, jpeg_of, labels_over_tissue
from dmmn_qp.slides.base import Slide, read_field, read_overview
from dmmn_qp.specs import LabelArray, PatchGrid

Colors = Mapping[str, tuple[int, int, int]]

RIGHT_COLOR: Final = (86, 180, 233)
WRONG_COLOR: Final = (213, 94, 0)
MISSING_COLOR: Final = (60, 60, 60)
"""Colours of right, wrong and not predicted pixels, which stay apart for the colour-blind and in grey."""

OTHER_COLOR: Final = (120, 120, 120)
"""Colour of a class that has none."""

_SIDE_PX: Final = 420
_GLASS: Final = 245
_OVERLAY: Final = np.array([(0, 0, 0), RIGHT_COLOR, WRONG_COLOR, MISSING_COLOR, *[(0, 0, 0)] * 252], np.uint8)


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture and what it shows."""

    caption: str
    jpeg: bytes


def pale(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour as it looks over glass in the pictures, for their legend."""
    red, green, blue = (round((1 - PALE) * value + PALE * 255) for value in color)
    return red, green, blue


def palette_of(values: Mapping[int, str], colors: Colors) -> NDArray[np.uint8]:
    """(256, 3) uint8: the colour of each value.

    Args:
        values: Class of each value.
        colors: Colour of each class.
    """
    palette = np.full((256, 3), OTHER_COLOR, np.uint8)
    for value, name in values.items():
        palette[value] = colors.get(name, OTHER_COLOR)
    return palette


def agreement_map(truth: LabelArray, predicted: LabelArray, meeting: Meeting) -> LabelArray:
    """(rows, columns) uint8: 0 where nothing counts, 1 right, 2 wrong, 3 not predicted."""
    true, found = meeting.numbers(truth, predicted)
    verdict = np.where(found == 0, 3, np.where(true == found, 1, 2))
    return np.where(true == 0, 0, verdict).astype(np.uint8)


class SlideDrawer:
    """Draws one slide with its labels, small.

    Args:
        opened: The slide; None where there is only what was labelled.
        truth: Its true labels.
        colors: Colour of each class.
    """

    def __init__(self, opened: Slide | None, truth: CountedLabels, colors: Colors) -> None:
        self._truth = truth.read_reduced(_SIDE_PX)
        self._true_values, self._colors = truth.values, colors
        rows, columns = self._truth.shape
        if opened is None:
            self._tissue = np.full((rows, columns, 3), _GLASS, np.uint8)
        else:
            overview = Image.fromarray(read_overview(opened, 2 * _SIDE_PX))
            self._tissue = np.asarray(overview.resize((columns, rows), Image.Resampling.BOX))

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) of the pictures."""
        return self._tissue.shape[1], self._tissue.shape[0]

    def tissue(self) -> Tile:
        """The slide alone."""
        return Tile("slide", jpeg_of(self._tissue))

    def truth(self, caption: str) -> Tile:
        """What is true, over the slide."""
        return Tile(caption, jpeg_of(self._over(self._truth, palette_of(self._true_values, self._colors))))

    def predicted(self, labels: CountedLabels, meeting: Meeting) -> tuple[Tile, Tile]:
        """A prediction over the slide, and where it is right."""
        found = labels.read_reduced(_SIDE_PX)
        verdict = agreement_map(self._truth, found, meeting)
        return (
            Tile("prediction", jpeg_of(self._over(found, palette_of(labels.values, self._colors)))),
            Tile("right and wrong", jpeg_of(self._over(verdict, _OVERLAY))),
        )

    def _over(self, labels: LabelArray, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return labels_over_tissue(self._tissue, labels, palette)


def draw_region(
    opened: Slide | None,
    grid: PatchGrid,
    target: Region,
    truth: CountedLabels,
    predicted: CountedLabels,
    meeting: Meeting,
    colors: Colors,
) -> list[Tile]:
    """Draws a place: what the network sees of it at each magnification, then truth, prediction and where it is right.

    Args:
        opened: The slide; None where there is only what was labelled.
        grid: The patch grid on it.
        target: The place in grid px, a target.
        truth: The slide's true labels.
        predicted: Its predicted labels.
        meeting: Which of them mean the same.
        colors: Colour of each class.
    """
    tiles = []
    finest = np.full((target.height, target.width, 3), _GLASS, np.uint8)
    if opened is not None:
        fields = [read_field(opened, grid, m, grid.field(target, m)) for m in range(len(grid.spec.mpps))]
        tiles = [Tile(f"{mpp:g} µm/px", jpeg_of(field)) for mpp, field in zip(grid.spec.mpps, fields, strict=True)]
        finest = fields[0]
    true, found = truth.read(target), predicted.read(target)
    shown = (
        ("truth", true, palette_of(truth.values, colors)),
        ("prediction", found, palette_of(predicted.values, colors)),
        ("right and wrong", agreement_map(true, found, meeting), _OVERLAY),
    )
    return tiles + [
        Tile(caption, jpeg_of(labels_over_tissue(finest, labels, palette))) for caption, labels, palette in shown
    ]
