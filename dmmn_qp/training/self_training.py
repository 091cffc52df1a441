"""Learning from tissue that nobody drew on: what the head is sure of there becomes labels of its next round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.training.cells import CELLS, Cells, CellSource, Place

LEAST_PROBABILITY = 0.9
"""What the head is less sure of stays out."""

LEAST_OF_A_CLASS = 1000
"""So many cells of each class may be added; more only where more of it were drawn."""


@dataclass(frozen=True, slots=True)
class Added:
    """What a round of self-training added.

    Attributes:
        cells: The cells.
        looked_at: Cells that were open to it.
        sure: How many of these the head was sure of.
    """

    cells: Cells
    looked_at: int
    sure: int


def sure_cells(
    source: CellSource,
    network: DmmnP,
    open_cells: Mapping[Place, NDArray[np.bool_]],
    drawn: Sequence[int],
    rng: np.random.Generator,
    advance: Callable[[], None] = lambda: None,
) -> Added:
    """Labels what a network is sure of among cells that nobody drew on.

    Args:
        source: Gives their maps.
        network: The network with the head of the last round.
        open_cells: Which cells of which tiles may be labelled: (CELLS, CELLS).
        drawn: Cells of each class that were drawn.
        rng: Source of chance.
        advance: Told when a tile is done.
    """
    labels: dict[Place, LabelArray] = {}
    device = network.output.weight.device
    sure = 0
    for place, maps in source.seen(list(open_cells), advance):
        with torch.inference_mode():
            chances = network.of_cells([m.to(device) for m in maps], CELLS, CELLS)[0].softmax(0)
            probability, found = (values.cpu().numpy() for values in chances.max(0))
        taken = open_cells[place] & (probability >= LEAST_PROBABILITY)
        sure += int(taken.sum())
        labels[place] = np.where(taken, found + 1, UNLABELLED).astype(np.uint8)
    most = [max(LEAST_OF_A_CLASS, count) for count in drawn]
    cells = source.cells(labels, len(drawn), rng, most)
    return Added(cells, sum(int(mask.sum()) for mask in open_cells.values()), sure)
