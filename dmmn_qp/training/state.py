"""Where a training stands: all that it needs to go on as if it had never been stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any

import torch

from dmmn_qp.errors import ModelError
from dmmn_qp.files import new_file
from dmmn_qp.folders.model import CARD
from dmmn_qp.folders.model_glance import UNFINISHED
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training.averaging import WeightAverage

STATE = UNFINISHED
"""In the model's folder for as long as its training is not finished."""

_FORMAT = 1

CHANGEABLE = frozenset(("cache_mib", "device", "tensorboard", "threads", "workers"))
"""Options that may be given anew to a training that goes on; on another device, or with another number of threads, the
last digits of its sums are others.
"""

EARLIER: Mapping[str, Any] = {"weight_average": 0, "padding": "zeros", "corrections": 1.0, "balance_validation": False}
"""Options that earlier versions did not know, as what they did; a preset would have it begin halfway."""


@dataclass(slots=True)
class TrainingState:
    """A moment between two optimiser steps.

    Attributes:
        options: The resolved `TrainOptions`, as JSON values.
        run: What ``run.json`` says of the run: its id, start and so on.
        dataset: Path of the dataset.
        dataset_digest: `dmmn_qp.folders.dataset.dataset_digest` of it.
        epoch: Epoch that is under way, from 1.
        step: Steps done in it.
        losses: Their losses.
        best: Highest validation mIoU so far; -1 before the first.
        kept: What the report will say of the network that is the model now: `dmmn_qp.training.judging.as_kept`.
        start_mean_iou: Validation mIoU of the model that it started from, before the first step; None without one.
        history: Rows of ``history.csv``.
        seconds: Time spent so far.
        tensors: States of the network, the average of its weights, the optimiser, the schedule and torch's generator.
        inherited: What it takes over from the model that it started from: `dmmn_qp.training.fine_tuning.as_kept`.
        head: Of the head that is in a network on a pretrained encoder: its steps, and what self-training added.
        start: Tensors of the model that it started from, with outputs for the classes of the dataset.
        replaced: Files of an earlier model in the same folder, by path in it; they go when there is a new model.
    """

    options: dict[str, Any]
    run: dict[str, Any]
    dataset: str
    dataset_digest: str
    epoch: int = 1
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: float = -1.0
    kept: dict[str, Any] = field(default_factory=dict)
    start_mean_iou: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    tensors: dict[str, Any] = field(default_factory=dict)
    inherited: dict[str, Any] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    head: dict[str, Any] = field(default_factory=dict)
    start: dict[str, Any] = field(default_factory=dict)


def save_state(folder: Path, state: TrainingState) -> None:
    """Writes the state atomically: a kill or a full disk leaves the old one.

    Raises:
        OSError: It cannot be written.
    """
    with new_file(folder / STATE) as temporary, temporary.open("wb") as file:
        patient = _PatientFile(file)
        torch.save({"format": _FORMAT, **_fields_of(state)}, patient)  # type: ignore[arg-type]
        patient.check()


class _PatientFile:
    """A file that keeps its first error for later: an error while torch writes ends in its own words.

    Args:
        file: What is written to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        """Writes, or pretends to after an error."""
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Writes what is buffered."""
        self.write(b"")

    def check(self) -> None:
        """Raises `OSError` if anything could not be written."""
        if self._error is not None:
            raise self._error
        self._file.flush()


def _fields_of(state: TrainingState) -> dict[str, Any]:
    """The fields as they are; `dataclasses.asdict` would copy every tensor."""
    return {name: getattr(state, name) for name in TrainingState.__dataclass_fields__}


def load_state(folder: Path) -> TrainingState:
    """Reads the state of an interrupted training.

    Raises:
        ModelError: There is none, or it is damaged or of another version.
    """
    path = folder / STATE
    if not path.is_file():
        done = " (it has finished)" if (folder / CARD).is_file() else ""
        raise ModelError(
            f'"{folder}" holds no interrupted training{done}; name one with --out, or start one without --resume'
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise ValueError("another format")
        state = TrainingState(**{key: value for key, value in content.items() if key != "format"})
        state.options = {**EARLIER, **state.options}
        return state
    except (OSError, RuntimeError, ValueError, TypeError, EOFError, KeyError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ModelError(
            f'training state "{path}" is damaged or of another version ({reason}); start again with --overwrite'
        ) from error


def snapshot(
    module: SupervisedBranches,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    average: WeightAverage | None,
) -> dict[str, Any]:
    """States of everything that changes while training."""
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict() if schedule is not None else {},
        "average": average.state() if average is not None else {},
        "random": torch.get_rng_state(),
    }


def restore(
    state: TrainingState,
    module: SupervisedBranches,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    average: WeightAverage | None,
) -> None:
    """The counterpart of `snapshot`."""
    module.load_state_dict(state.tensors["module"])
    optimizer.load_state_dict(state.tensors["optimizer"])
    if schedule is not None:
        schedule.load_state_dict(state.tensors["schedule"])
    if average is not None:
        average.restore(state.tensors["average"])
    torch.set_rng_state(state.tensors["random"])
