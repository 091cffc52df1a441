"""Predicts a whole slide to arrays, as the stage does but without its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dmmn_qp.outputs.writers import WRITERS, Writer
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.predicting.slide import predict_blocks
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.once import FieldReader
from tests.conftest import invoke


def writing(suffix: str, write: Callable) -> Writer:
    """The writer of a suffix, which writes in another way."""
    return replace(WRITERS[suffix], write=write)


class SwitchedOffError(BaseException):
    """Nothing of the program catches it: as if the machine were switched off."""


def switched_off(*command: object) -> None:
    """Runs a command that must be switched off."""
    with pytest.raises(SwitchedOffError):
        invoke(*command)


def no_picture(path, predicted):
    """An overview that takes no time."""
    path.write_bytes(b"")


def predict_whole(reopen: Callable[[], Slide], *predictors: Predictor) -> dict[str, np.ndarray]:
    """What a model says of a slide: kind -> (rows, columns) or (C, rows, columns) uint8; each pixel is given once."""
    first = predictors[0]
    with reopen() as slide:
        info = slide.info
    size, grid = first.card.patch_spec.size_px, first.card.patch_spec.grid_of(info.mpp)
    rows, columns = grid.shape(info.width, info.height)
    whole = Region(0, 0, -(-columns // size) * size, -(-rows // size) * size)
    blocks = list(whole.tiles(first.block_targets * size, first.block_columns * size))
    layout = first.layout((rows, columns))
    found: dict[str, np.ndarray] = {}
    given = np.zeros((whole.height, whole.width), int)
    fields = [first.fields(grid, b, layout) for b in blocks]
    with FieldReader(reopen, grid, fields, first.card.input.reduction, beyond=first.card.input.beyond) as reader:
        targets = (np.ones((b.height // size, b.width // size), np.bool_) for b in blocks)
        for block, result in predict_blocks(zip(blocks, targets, reader, strict=False), predictors, layout):
            place = (..., slice(block.y, block.bottom), slice(block.x, block.right))
            given[place] += 1
            for kind, array in result.arrays().items():
                whole_array = np.zeros((*array.shape[:-2], *given.shape), np.uint8)
                found.setdefault(kind, whole_array)[place] = array
    assert (given == 1).all()
    return {kind: array[..., :rows, :columns] for kind, array in found.items()}
