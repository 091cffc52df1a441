"""The model folder while it is trained."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import OutputExistsError
from dmmn_qp.files import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.files.renaming import remove, remove_if_empty
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import CARD, ModelCard, save_model
from dmmn_qp.folders.provenance import now, training_provenance
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.reports.html import REPORT_PAGE
from dmmn_qp.specs import ClassMap
from dmmn_qp.training.log import EVENTS, HISTORY
from dmmn_qp.training.plan import TrainingPlan
from dmmn_qp.training.state import STATE, TrainingState, save_state

_REPLACED: Final = (RUN_FILE, REPORT_PAGE, HISTORY)
_EVENT_FILE: Final = re.compile(rf"{EVENTS}/events\.out\.tfevents\.[\w.-]+")


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a model folder that may not be written.

    Raises:
        OutputExistsError: It is another thing than a model, or a model or an interrupted training and not to be
            replaced.
    """
    if (out / STATE).is_file():
        if not overwrite:
            raise OutputExistsError(
                f'"{out}" holds an interrupted training; go on with --resume, or pass --overwrite to start anew'
            )
        return
    check_free(out, overwrite=overwrite, marker=CARD)


def make_model_folder(out: Path, state: TrainingState, *, overwrite: bool) -> None:
    """Makes the model folder, with a training in it that can be resumed.

    An earlier model stays there, whole, until this training has one: `save_as_model`.
    """
    check_out(out, overwrite=overwrite)
    if (out / CARD).is_file() or (out / STATE).is_file():
        found = sorted(path.relative_to(out).as_posix() for path in (out / EVENTS).glob("*") if path.is_file())
        state.replaced = [*_REPLACED, *filter(_is_of_a_training, found)]
        save_state(out, state)
        return
    with new_folder(out, overwrite=overwrite, marker=CARD) as folder:
        write_json(folder / RUN_FILE, state.run)
        save_state(folder, state)


def save_as_model(
    out: Path,
    plan: TrainingPlan,
    dataset: Dataset,
    module: SupervisedBranches,
    metrics: Metrics,
    state: TrainingState,
    epoch: int,
) -> None:
    """Writes the best model so far over the one before; what else there was of an earlier one goes then.

    Args:
        out: The model folder.
        plan: The training.
        dataset: Its dataset.
        module: The network.
        metrics: Its figures on the validation patches.
        state: The training's state.
        epoch: The epoch, from 1; 0 is the model that the training started from.
    """
    start: dict[str, Any] = {}
    fingerprints = {record.fingerprint for record in dataset.slides("train")}
    if plan.start is not None:
        start = {"started_from": {**plan.start.for_card(), "mean_iou": state.start_mean_iou}}
        fingerprints |= set(plan.start.known)  # its weights know these slides too
    card = ModelCard(
        name=out.name,
        network=plan.network,
        class_map=dataset.class_map,
        patch_spec=dataset.patch_spec,
        input=plan.convention,
        validation={
            "epoch": epoch,
            "mean_iou": metrics.mean_iou,
            "constant_mean_iou": metrics.constant_mean_iou,
            "mean_recall": metrics.mean_recall,
            "mean_precision": metrics.mean_precision,
            "iou": by_class(metrics.iou, dataset.class_map),
            **state.head,
        },
        provenance=training_provenance(state.run, fingerprints) | start,
        created=now(),
        licence=plan.licence,
        attribution=plan.attribution,
        accepted=plan.start is None,  # until it is compared with that one: `dmmn_qp.training.verdict`
    )
    save_model(out, card, module.stemmed)
    replace_files(out, state)


def replace_files(out: Path, state: TrainingState) -> None:
    """Removes what is left of the model that was in a folder before, and puts the new ``run.json`` there.

    Whoever wrote the state may have named any file: only what belongs to a training goes.
    """
    for name in filter(_is_of_a_training, state.replaced):
        if name == RUN_FILE:
            write_json(out / RUN_FILE, state.run)
        else:
            remove(out / name)
    remove_if_empty(out / EVENTS)
    state.replaced = []


def _is_of_a_training(name: object) -> bool:
    """Whether a path in a model's folder is that of a file that a training writes beside the model."""
    return isinstance(name, str) and (name in _REPLACED or _EVENT_FILE.fullmatch(name) is not None)


class Checkpoints:
    """The state of a training on disk: after each epoch, every few minutes, and when it is asked to stop."""

    def __init__(
        self, out: Path, state: TrainingState, snapshot: Callable[[], dict[str, Any]], *, minutes: float, writes: bool
    ) -> None:
        """Starts the clock.

        Args:
            out: The model folder.
            state: What is kept; updated by `save`.
            snapshot: Gives its tensors.
            minutes: Longest time between two states, beside those after each epoch.
            writes: Whether this process is the one that writes.
        """
        self._out, self._state, self._snapshot, self._writes = out, state, snapshot, writes
        self._minutes, self._before = minutes, state.seconds
        self._started = self._saved = time.monotonic()

    def begin(self, *, overwrite: bool) -> None:
        """Makes the model folder, with a training in it that can be resumed."""
        if self._writes:
            self._state.tensors = self._snapshot()
            make_model_folder(self._out, self._state, overwrite=overwrite)

    def elapsed(self) -> float:
        """Seconds of training so far, those before it was resumed too."""
        return self._before + time.monotonic() - self._started

    def is_due(self) -> bool:
        """Whether the last state is older than it may be."""
        return time.monotonic() - self._saved >= 60 * self._minutes

    def save(self, epoch: int, losses: list[float]) -> None:
        """Replaces the state by that after as many steps of an epoch as there are losses."""
        if self._writes:
            self._state.epoch, self._state.step, self._state.losses = epoch, len(losses), losses
            self._state.seconds = self.elapsed()
            self._state.tensors = self._snapshot()
            save_state(self._out, self._state)
        self._saved = time.monotonic()


def by_class(values: NDArray[np.float64], class_map: ClassMap) -> dict[str, float | None]:
    """Figures by class name; None where a class has no value."""
    return {
        name: None if math.isnan(v) else round(float(v), 6) for name, v in zip(class_map.names, values, strict=True)
    }
