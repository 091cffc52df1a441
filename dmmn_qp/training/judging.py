"""What the report of a training shows: figures and patches of the network that is kept, found while it is validated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dmmn_qp.reports.training_report import PatchVerdict

_WORST = 4
"""So many of the most wrong validation patches are shown."""


@dataclass(frozen=True, slots=True)
class JudgedPatch:
    """A patch that may be shown; its picture and its annotation are in the dataset.

    Attributes:
        number: Which of the validation patches.
        accuracy: Right part of its labelled pixels.
        predicted: (S, S) uint8 labels.
    """

    number: int
    accuracy: float
    predicted: NDArray[np.uint8]


class _Rank(NamedTuple):
    """What makes a patch the better example of a class, most important first.

    Attributes:
        leads: Whether no other class has more labelled pixels in it.
        right: Right part of its labelled pixels, or of those of the class where that is less.
        pixels: Labelled pixels of the class.
    """

    leads: bool
    right: float
    pixels: int


class ShownPatches:
    """Chooses among patches that pass by: the most wrong ones, and the most right one of each class.

    Attributes:
        worst: Patches that are not all right, the most wrong first.
        best: The best patch of each class that is annotated in one, by label.
    """

    def __init__(self) -> None:
        self.worst: list[JudgedPatch] = []
        self.best: dict[int, JudgedPatch] = {}
        self._ranks: dict[int, _Rank] = {}

    def add(self, number: int, verdict: PatchVerdict) -> None:
        """Looks at one patch more."""
        counts, right = (
            np.bincount(labels.ravel(), minlength=256)[1:]
            for labels in (verdict.truth, np.where(verdict.truth == verdict.predicted, verdict.truth, 0))
        )
        judged = JudgedPatch(number, verdict.accuracy, verdict.predicted.astype(np.uint8))
        if counts.any() and verdict.accuracy < 1:
            self.worst = sorted([*self.worst, judged], key=lambda patch: patch.accuracy)[:_WORST]
        for i in np.flatnonzero(counts):
            of_class = min(verdict.accuracy, float(right[i] / counts[i]))
            rank = _Rank(bool(counts[i] == counts.max()), of_class, int(counts[i]))
            label = int(i) + 1
            if label not in self._ranks or rank > self._ranks[label]:
                self._ranks[label], self.best[label] = rank, judged


def as_kept(epoch: int, confusion: NDArray[np.int64], shown: ShownPatches) -> dict[str, Any]:
    """What a training's state keeps for its report.

    Args:
        epoch: The epoch whose network is kept, from 1; 0 is the model that the training started from.
        confusion: (C, C) pixels on the validation patches.
        shown: The patches.
    """
    return {
        "epoch": epoch,
        "confusion": torch.from_numpy(confusion),
        "worst": [_as_values(patch) for patch in shown.worst],
        "best": {label: _as_values(patch) for label, patch in sorted(shown.best.items())},
    }


def _as_values(patch: JudgedPatch) -> dict[str, Any]:
    return {"number": patch.number, "accuracy": patch.accuracy, "predicted": torch.from_numpy(patch.predicted)}


def from_kept(values: Mapping[str, Any]) -> JudgedPatch:
    """A patch as `as_kept` keeps it."""
    return JudgedPatch(values["number"], values["accuracy"], values["predicted"].numpy())
