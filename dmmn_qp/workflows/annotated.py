"""The annotated places of a dataset's slides, predicted as `predict` predicts them, without the rest of the slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.errors import DatasetError
from dmmn_qp.folders.dataset import Dataset, SlideRecord
from dmmn_qp.folders.model import ModelCard
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.predicting.inference import BlockPrediction, predict_fields
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.predicting.slide import MOST_DECODERS
from dmmn_qp.regions import Region
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import UNLABELLED, LabelArray


class Labels(Protocol):
    """What of a slide is annotated."""

    def read(self, region: Region) -> LabelArray:
        """Labels of a window in grid px, 0 where none counts: (height, width) uint8."""


@dataclass(frozen=True, slots=True)
class LabelsInPatches:
    """The labels in the targets of some patches of a slide.

    Attributes:
        labels: All labels of the slide.
        patches: The patches.
        size_px: Side of a target in grid px.
    """

    labels: Labels
    patches: Sequence[PatchRef]
    size_px: int

    def read(self, region: Region) -> LabelArray:
        """Labels of a window, 0 outside the patches."""
        inside = np.zeros((region.height, region.width), np.bool_)
        for patch in self.patches:
            part = Region(patch.x, patch.y, self.size_px, self.size_px).intersection(region)
            if part is not None:
                inside[part.y - region.y : part.bottom - region.y, part.x - region.x : part.right - region.x] = True
        if not inside.any():
            return np.zeros(inside.shape, np.uint8)
        return np.where(inside, self.labels.read(region), UNLABELLED).astype(np.uint8)


def check_same_grid(dataset: Dataset, card: ModelCard) -> None:
    """Refuses a dataset whose masks lie on another grid than the model predicts on.

    Raises:
        DatasetError: It was imported with other magnifications or sizes.
    """
    own, needed = dataset.patch_spec, card.patch_spec
    if (own.mpps, own.size_px) != (needed.mpps, needed.size_px):
        raise DatasetError(
            f'dataset "{dataset.folder}" is of {own.mpps[0]:g} um/px and targets of {own.size_px} px, model '
            f'"{card.name}" of {needed.mpps[0]:g} um/px and {needed.size_px} px; import again with --mpps '
            f"{','.join(f'{mpp:g}' for mpp in needed.mpps)}"
        )


def predicted_annotations(
    dataset: Dataset,
    record: SlideRecord,
    labels: Labels,
    predictor: Predictor,
    slides_roots: Sequence[SlidesRoot] = (),
    *,
    logits: bool = False,
) -> Iterator[tuple[LabelArray, BlockPrediction]]:
    """Predicts the targets of a slide that hold annotations, block by block.

    Args:
        dataset: The dataset.
        record: The slide.
        labels: What of it counts as annotated.
        predictor: The model.
        slides_roots: Where to look for the slide if it has been moved.
        logits: Whether logits are wanted.

    Yields:
        Labels of a block, 0 where none counts, and what is predicted there.

    Raises:
        SlideError: The slide cannot be found or read.
    """
    opened = partial(dataset.open, record, slides_roots)
    with opened() as slide:
        info = slide.info
    grid = predictor.card.patch_spec.grid_of(info.mpp, record.slide_id)
    shape = grid.shape(info.width, info.height)
    layout, seen = predictor.layout(shape), predictor.card.input
    work = list(_annotated_blocks(labels, shape, predictor))
    if not work:
        return
    fields = [predictor.fields(grid, block, layout) for block, _ in work]
    workers = min(MOST_DECODERS, available_cores())
    with FieldReader(opened, grid, fields, seen.reduction, workers, seen.beyond) as reader:
        for (block, targets), pixels in zip(work, reader, strict=True):
            place = None if layout is None else (block, layout)
            found = predict_fields(pixels, targets, predictor, place, logits=logits)()
            yield labels.read(block), found


def _annotated_blocks(
    labels: Labels, shape: tuple[int, int], predictor: Predictor
) -> Iterator[tuple[Region, NDArray[np.bool_]]]:
    """The blocks of a slide that hold annotations, and (rows, columns) of their targets that do."""
    size = predictor.card.patch_spec.size_px
    whole = Region(0, 0, -(-shape[1] // size) * size, -(-shape[0] // size) * size)
    for whole_block in whole.tiles(predictor.block_targets * size, predictor.block_columns * size):
        block = whole_block
        labelled = labels.read(block) != UNLABELLED
        targets = labelled.reshape(block.height // size, size, block.width // size, size).any(axis=(1, 3))
        rows, columns = np.nonzero(targets)
        if not len(rows):
            continue
        if predictor.takes_any_block:
            top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
            targets = targets[top:bottom, left:right]
            width, height = int(right - left) * size, int(bottom - top) * size
            block = Region(block.x + int(left) * size, block.y + int(top) * size, width, height)
        yield block, targets
