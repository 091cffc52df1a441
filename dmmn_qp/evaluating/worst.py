"""Where predictions are most wrong: the targets that hold most wrong pixels.

Both rasters of a slide are read once, tile by tile. Of them only sums of cells stay, 4 bytes for some 64 x 64 px, so
memory hardly grows with the slide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.folders.counted_labels import LabelOpener
from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    EvaluatedSlide,
    Evaluation,
    LabelSource,
    ModelEvaluation,
    TruthDescription,
    TruthKind,
    WorstRegion,
)
from dmmn_qp.labels.meeting import Meeting, pair_numbers
from dmmn_qp.regions import Region
from dmmn_qp.reports.evaluation_words import main_truth
from dmmn_qp.specs import MIN_LABELLED_FRACTION, PatchSpec
from dmmn_qp.vectors.sources import LabelSource as Labels

MOST: Final = 12
"""Regions that are listed of one model."""

_STEPS: Final = (4, 2, 1)
"""Windows begin at every so many parts of their side: as many as leave their corners where targets may begin."""

_ROWS_AT_ONCE, _COLUMNS_AT_ONCE = 512, 4096

Sums = NDArray[np.int32]
"""(rows, columns) int32: wrong pixels of each cell."""


@dataclass(frozen=True, slots=True)
class WrongWindow:
    """A window of a slide that holds many wrong pixels.

    Attributes:
        window: In grid px: a target, which leaves a slide that is smaller.
        pixels: Its pixels that count.
        wrong: Those of them that are wrong.
        true: The class that most of the pixels of its largest mistake are.
        predicted: What these were predicted as; `NOT_PREDICTED` for nothing.
    """

    window: Region
    pixels: int
    wrong: int
    true: str
    predicted: str


def with_worst_regions(evaluation: Evaluation, spec: PatchSpec, opener: LabelOpener | None = None) -> Evaluation:
    """Looks where each model is wrong most, against the most complete truth that there is.

    Args:
        evaluation: The evaluation.
        spec: How large a target is; regions are targets.
        opener: Opens the labels.

    Raises:
        DatasetError: A raster is missing or damaged.
    """
    truth = main_truth(evaluation)
    opener = opener or LabelOpener()
    models = tuple(
        m.model_copy(update={"worst": _worst_of(evaluation, m, truth, spec, opener)}) for m in evaluation.models
    )
    return evaluation.model_copy(update={"models": models})


def meeting_of(evaluation: Evaluation, truth: LabelSource, predicted: LabelSource) -> Meeting:
    """Which values of two rasters mean the same class, and which count, as the evaluation was made."""
    settings = evaluation.settings
    return Meeting.of(
        truth.values, predicted.values, exclude=settings.exclude, skip_unpredicted=settings.skip_unpredicted
    )


def _worst_of(
    evaluation: Evaluation, model: ModelEvaluation, truth: TruthDescription, spec: PatchSpec, opener: LabelOpener
) -> tuple[WorstRegion, ...]:
    """The worst regions of one model on all slides; of equal ones that of the first slide."""
    truths = {source.slide_id: source for source in truth.rasters}
    found: list[WorstRegion] = []
    for predicted in model.rasters:
        source = truths.get(predicted.slide_id)
        if source is not None:
            with opener.truth(source) as true, opener.predicted(model.predictions, predicted) as labels:
                windows = worst_windows(true, labels, meeting_of(evaluation, source, predicted), spec)
            found += [_region(w, evaluation.slide(predicted.slide_id), source, truth.kind) for w in windows]
    return tuple(sorted(found, key=lambda region: -region.wrong_mm2)[:MOST])


def _region(found: WrongWindow, slide: EvaluatedSlide, truth: LabelSource, kind: TruthKind) -> WorstRegion:
    """A window as it is told on disk: in level-0 px, and as an area of 1 um/px where the pixel size is not known."""
    scale, window = truth.downsample, found.window
    return WorstRegion(
        kind=kind,
        slide_id=slide.slide_id,
        x_px=round(window.x * scale),
        y_px=round(window.y * scale),
        width_px=max(1, round(window.width * scale)),
        height_px=max(1, round(window.height * scale)),
        true=found.true,
        predicted=found.predicted,
        pixels=found.pixels,
        wrong_pixels=found.wrong,
        wrong_mm2=found.wrong * slide.pixel_mm2,
    )


def cell_px(spec: PatchSpec) -> int:
    """Side of the cells in grid px: a part of a target's, and targets may begin at all of them."""
    multiple = 2 ** (len(spec.mpps) - 1)
    return next((spec.size_px // n for n in _STEPS if spec.size_px % (n * multiple) == 0), spec.size_px)


def wrong_in_cells(truth: Labels, predicted: Labels, meeting: Meeting, cell: int) -> Sums:
    """Counts the wrong pixels of a slide by square cells.

    Args:
        truth: Its true labels.
        predicted: Its predicted labels, of the same shape.
        meeting: Which of them mean the same.
        cell: Side of a cell in grid px.
    """
    rows, columns = truth.shape
    sums = np.zeros((-(-rows // cell), -(-columns // cell)), np.int32)
    wrong_pairs = meeting.wrong_pairs()
    at_once = (max(1, size // cell) * cell for size in (_ROWS_AT_ONCE, _COLUMNS_AT_ONCE))
    for tile in Region(0, 0, columns, rows).tiles(*at_once):
        wrong = np.take(wrong_pairs, pair_numbers(truth.read(tile), predicted.read(tile)))
        down, across = -(-tile.height // cell), -(-tile.width // cell)
        padded = np.zeros((down * cell, across * cell), np.bool_)
        padded[: tile.height, : tile.width] = wrong
        y, x = tile.y // cell, tile.x // cell
        of_rows = padded.reshape(down, cell, -1).sum(axis=1, dtype=np.int32)  # first down, which is faster
        sums[y : y + down, x : x + across] = of_rows.reshape(down, across, cell).sum(axis=2)
    return sums


def worst_windows(truth: Labels, predicted: Labels, meeting: Meeting, spec: PatchSpec) -> list[WrongWindow]:
    """Finds the targets of a slide that hold most wrong pixels, the worst first, at most `MOST`.

    They are at least a target's side apart, so that they show different places. Those of which less than a hundredth is
    wrong are left out.

    Args:
        truth: The slide's true labels.
        predicted: Its predicted labels, of the same shape.
        meeting: Which of them mean the same.
        spec: How large a target is.
    """
    cell, side = cell_px(spec), spec.size_px
    sums = wrong_in_cells(truth, predicted, meeting, cell)
    least = max(1, int(MIN_LABELLED_FRACTION * side**2))
    windows = (Region(column * cell, row * cell, side, side) for row, column in _worst(sums, side // cell, least))
    return [_described(truth, predicted, meeting, window) for window in windows]


def _worst(sums: Sums, side: int, least: int) -> list[tuple[int, int]]:
    """First cells, (row, column), of the windows of ``side`` x ``side`` cells; of equal ones the upper and left one."""
    padded = np.pad(sums, [(0, max(0, side - length)) for length in sums.shape])
    whole = np.pad(padded, ((1, 0), (1, 0))).cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    windows = whole[side:, side:] - whole[:-side, side:] - whole[side:, :-side] + whole[:-side, :-side]
    found: list[tuple[int, int]] = []
    while len(found) < MOST and windows.max() >= least:
        row, column = divmod(int(windows.argmax()), windows.shape[1])
        found.append((row, column))
        apart = 2 * side
        windows[max(0, row - apart + 1) : row + apart, max(0, column - apart + 1) : column + apart] = 0
    return found


def _described(truth: Labels, predicted: Labels, meeting: Meeting, window: Region) -> WrongWindow:
    """Counts in a window, and names its largest mistake."""
    true, found = meeting.numbers(truth.read(window), predicted.read(window))
    counts = np.zeros((len(meeting.names) + 1,) * 2, np.int64)
    np.add.at(counts, (true.ravel(), found.ravel()), 1)
    counts[0] = 0  # what does not count
    pixels = int(counts.sum())
    np.fill_diagonal(counts, 0)
    largest, taken_for = divmod(int(counts.argmax()), len(counts))
    names = (NOT_PREDICTED, *meeting.names)
    return WrongWindow(window, pixels, int(counts.sum()), names[largest], names[taken_for])
