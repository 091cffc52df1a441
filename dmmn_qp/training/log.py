"""What a training leaves to look at while it runs: ``history.csv`` and events for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from dmmn_qp.files.tables import write_table
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import printable
from dmmn_qp.training.state import TrainingState

HISTORY: Final = "history.csv"
EVENTS: Final = "events"
"""Folder of TensorBoard's files."""

_STEPS_BETWEEN_POINTS: Final = 10


class TrainingLog:
    """Writes down the course of a training; goes on where an interrupted one was.

    Args:
        out: The model's folder.
        class_map: The classes.
        steps_per_epoch: Optimiser steps of an epoch.
        state: The training's state; each epoch adds a row to its history.
    """

    def __init__(self, out: Path, class_map: ClassMap, steps_per_epoch: int, state: TrainingState) -> None:
        self._out = out
        self._class_map = class_map
        self._steps_per_epoch = steps_per_epoch
        self._state = state
        done = (state.epoch - 1) * steps_per_epoch + state.step
        self._events = SummaryWriter(str(out / EVENTS), purge_step=done or None)
        self.only_class: list[str | None] = []
        """Of each epoch: the class, where the network predicted a single one of several."""

    def step(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Notes an optimiser step."""
        number = (epoch - 1) * self._steps_per_epoch + step
        if number % _STEPS_BETWEEN_POINTS == 0:
            self._events.add_scalar("train/loss", loss, number)
            self._events.add_scalar("train/learning rate", learning_rate, number)

    def epoch(
        self,
        epoch: int,
        losses: Sequence[float],
        learning_rate: float,
        metrics: Metrics,
        seconds: float,
        patches: NDArray[np.uint8],
    ) -> dict[str, float]:
        """Notes an epoch and returns its row of ``history.csv``.

        Args:
            epoch: Its number, from 1.
            losses: Of its steps.
            learning_rate: At its end.
            metrics: On the validation patches.
            seconds: Since the training began.
            patches: Picture of what the network makes of some of them: (rows, columns, 3) uint8.
        """
        names, number = self._class_map.names, epoch * self._steps_per_epoch
        predicted, true = metrics.confusion.sum(axis=0), metrics.confusion.sum(axis=1)
        alone = (true > 0).sum() > 1 and (predicted > 0).sum() == 1
        self.only_class.append(names[int(predicted.argmax())] if alone else None)
        row = {
            "epoch": epoch,
            "loss": round(float(np.mean(losses)), 6),
            "learning_rate": learning_rate,
            "val_mean_iou": round(metrics.mean_iou, 6),
            "val_mean_recall": round(metrics.mean_recall, 6),
            "val_mean_precision": round(metrics.mean_precision, 6),
            **{f"val_iou {name}": float(v) for name, v in zip(names, metrics.iou.round(6), strict=True)},
            "seconds": round(seconds, 1),
        }
        self._state.history.append(row)
        write_table(self._out / HISTORY, list(row), ([before[key] for key in row] for before in self._state.history))
        for key, value in row.items():
            if key.startswith("val_"):
                self._events.add_scalar(printable(f"validation/{key[4:]}"), value, number)
        picture = draw_confusion(metrics.confusion, names)
        self._events.add_image("validation/confusion", picture, number, dataformats="HWC")
        self._events.add_image("validation/patches", patches, number, dataformats="HWC")
        self._events.flush()
        return row

    def close(self) -> None:
        """Closes the files."""
        self._events.close()


@rc_context({"text.parse_math": False})
def draw_confusion(confusion: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.uint8]:
    """The confusion matrix in % of the true class, as a picture: (rows, columns, 3) uint8."""
    names = [printable(name, 80) for name in names]
    shares = 100 * confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    side = 1.6 + 0.75 * len(names)
    figure = Figure(figsize=(side + 0.6, side), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(*shares.shape):
        dark = shares[row, column] > 60
        axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color="w" if dark else "k")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true, %")
    return as_pixels(figure)


def as_pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure as (rows, columns, 3) uint8."""
    content = BytesIO()
    figure.savefig(content, format="rgba", dpi=figure.dpi)
    width, height = (round(v) for v in figure.get_size_inches() * figure.dpi)
    return np.frombuffer(content.getvalue(), np.uint8).reshape(height, width, 4)[..., :3].copy()
