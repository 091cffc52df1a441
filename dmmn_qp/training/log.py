"""What a training leaves to look at while it runs: ``history.csv`` and events for TensorBoard; it never stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.figures import pixels_of, plain_text
from dmmn_qp.files.failures import install_command
from dmmn_qp.files.tables import write_table
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.reports.training_report import CONSTANT_COLUMN, PatchVerdict, draw_verdict
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import printable
from dmmn_qp.training.state import TrainingState

if TYPE_CHECKING:
    from dmmn_qp.training.events import EventFile

HISTORY: Final = "history.csv"
EVENTS: Final = "events"
"""Folder of TensorBoard's files."""

_STEPS_BETWEEN_POINTS: Final = 10

_CELL_INCHES, _MOST_INCHES, _DPI = 0.75, 20.0, 90
_CELL_OF_NUMBERS = 0.4
"""Smallest cell in inches that has room for a number."""
_LONGEST_NAME = 40


def wants_events(asked: bool | None) -> bool:
    """Whether events for TensorBoard are written.

    Args:
        asked: What the user said; None writes them where TensorBoard is installed.

    Raises:
        ConfigError: They are asked for, and it is not.
    """
    installed = find_spec("tensorboard") is not None
    if asked and not installed:
        raise ConfigError(
            f"--tensorboard needs TensorBoard; {install_command('tensorboard')}, or pass --no-tensorboard: "
            f"{HISTORY} and the report have the same figures"
        )
    return installed if asked is None else asked


class TrainingLog:
    """Writes down the course of a training; goes on where an interrupted one was.

    What cannot be written is left out with a warning.

    Args:
        out: The model's folder.
        class_map: The classes.
        steps_per_epoch: Optimiser steps of an epoch.
        state: The training's state, whose history is written.
        reporter: Where to warn.
        events: Whether to write events for TensorBoard (`wants_events`).
    """

    def __init__(
        self,
        out: Path,
        class_map: ClassMap,
        steps_per_epoch: int,
        state: TrainingState,
        reporter: Reporter,
        *,
        events: bool,
    ) -> None:
        self._out = out
        self._class_map = class_map
        self._steps_per_epoch = steps_per_epoch
        self._state = state
        self._reporter = reporter
        self._with_events = events
        self._events: EventFile | None = None
        self.only_class: list[str | None] = []
        """Of each epoch: the class, where the network predicted a single one of several."""
        done = (state.epoch - 1) * steps_per_epoch + state.step
        if events:
            with reporter.optional(f'"{out / EVENTS}"'):
                from dmmn_qp.training.events import EventFile

                self._events = EventFile(out / EVENTS, purge_step=done or None)

    def step(self, epoch: int, step: int, loss: float, learning_rate: float) -> None:
        """Notes an optimiser step."""
        number = (epoch - 1) * self._steps_per_epoch + step
        if number % _STEPS_BETWEEN_POINTS == 0:
            self._add_figure("train/loss", loss, number)
            self._add_figure("train/learning rate", learning_rate, number)

    def epoch(self, epoch: int, metrics: Metrics, watched: Sequence[PatchVerdict]) -> None:
        """Notes an epoch whose row is the last of the history.

        Args:
            epoch: Its number, from 1.
            metrics: On the validation patches.
            watched: What the network makes of some of them.
        """
        names, number = self._class_map.names, epoch * self._steps_per_epoch
        predicted, true = metrics.confusion.sum(axis=0), metrics.confusion.sum(axis=1)
        alone = (true > 0).sum() > 1 and (predicted > 0).sum() == 1
        self.only_class.append(names[int(predicted.argmax())] if alone else None)
        with self._reporter.optional(f'"{self._out / HISTORY}"'):
            rows = self._state.history
            write_table(self._out / HISTORY, list(rows[-1]), ([row.get(key, "") for key in rows[-1]] for row in rows))
        for key, value in self._state.history[-1].items():
            if key.startswith("val_"):
                self._add_figure(f"validation/{key[4:]}", value, number)
        if not self._with_events:
            return
        with self._reporter.optional("the picture of the confusion matrix for TensorBoard"):
            matrix = draw_confusion(metrics.confusion, names)
            self._add(lambda events: events.picture("validation/confusion", matrix, number))
        with self._reporter.optional("the picture of validation patches for TensorBoard"):
            patches = np.concatenate([draw_verdict(verdict, self._class_map) for verdict in watched])
            self._add(lambda events: events.picture("validation/patches", patches, number))

    def close(self) -> None:
        """Closes the files."""
        self._add(lambda events: events.close())

    def _add_figure(self, tag: str, value: float, step: int) -> None:
        self._add(lambda events: events.scalar(tag, value, step))

    def _add(self, write: Callable[[EventFile], None]) -> None:
        """Adds events; none any more after an error, for what follows a torn one cannot be read."""
        events, self._events = self._events, None
        if events is not None:
            with self._reporter.optional(f'the rest of "{self._out / EVENTS}"'):
                write(events)
                self._events = events


def history_row(
    epoch: int,
    losses: Sequence[float],
    learning_rate: float,
    metrics: Metrics,
    seconds: float,
    names: Sequence[str],
) -> dict[str, float]:
    """An epoch as a row of ``history.csv``.

    Args:
        epoch: Its number, from 1.
        losses: Of its steps.
        learning_rate: At its end.
        metrics: On the validation patches.
        seconds: Since the training began.
        names: The classes.
    """
    return {
        "epoch": epoch,
        "loss": round(float(np.mean(losses)), 6),
        "learning_rate": learning_rate,
        "val_mean_iou": round(metrics.mean_iou, 6),
        CONSTANT_COLUMN: round(metrics.constant_mean_iou, 6),
        "val_mean_recall": round(metrics.mean_recall, 6),
        "val_mean_precision": round(metrics.mean_precision, 6),
        **{f"val_iou {name}": float(v) for name, v in zip(names, metrics.iou.round(6), strict=True)},
        "seconds": round(seconds, 1),
    }


def draw_confusion(confusion: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.uint8]:
    """The confusion matrix in % of the true class, as a picture: (rows, columns, 3) uint8.

    With many classes the cells get smaller, until they have no room for their numbers.
    """
    shares = 100 * confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    cell = min(_CELL_INCHES, _MOST_INCHES / len(names))
    side = 1.6 + cell * len(names)
    size = min(10.0, 40 * cell)  # points: a row of text needs more than its size, and 72 points are an inch
    texts = [printable(name, _LONGEST_NAME) for name in names]
    with plain_text():
        figure = Figure(figsize=(side + 0.6, side), dpi=_DPI, layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.ndindex(*shares.shape) if cell >= _CELL_OF_NUMBERS else ():
            color = "w" if shares[row, column] > 60 else "k"
            text = f"{shares[row, column]:.0f}"
            cell_text = axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
            cell_text.set_in_layout(False)  # it lies in its cell, and measuring thousands of them takes half a minute
        axes.set_xticks(range(len(names)), texts, rotation=35, ha="right", fontsize=size)
        axes.set_yticks(range(len(names)), texts, fontsize=size)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true, %")
        return pixels_of(figure)
