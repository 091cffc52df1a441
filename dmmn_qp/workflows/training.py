"""The training of a round: anew from the last accepted model, or on where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, ModelError
from dmmn_qp.folders.model import load_card
from dmmn_qp.training.holding import held, held_new
from dmmn_qp.training.launch import processes_of
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.stage import train
from dmmn_qp.training.state import load_state
from dmmn_qp.workflows.steps import RoundRequest


def train_anew(asked: RoundRequest, start: Path | None, reporter: Reporter) -> Path:
    """Trains a new model.

    Args:
        asked: What the round is asked for.
        start: The model to start from; None for none.
        reporter: Where to report.

    Returns:
        The model's folder.

    Raises:
        ConfigError: Several processes are asked for.
    """
    options = asked.training.model_copy(update={"start_from": None if start is None else start.absolute()})
    _check_alone(options)
    architecture = options.architecture if start is None else load_card(start).network.architecture
    with held_new(asked.places.models, architecture) as folder:
        train(asked.places.dataset, folder, options, reporter, slides_roots=asked.slides_roots)
        reporter.say(f"Wrote {folder}/")
    return folder


def resume_training(asked: RoundRequest, folder: Path, digest: str) -> Callable[[Reporter], None] | None:
    """How an interrupted training goes on; None where it was on another dataset, or its state is damaged.

    Args:
        asked: What the round is asked for.
        folder: The model's folder.
        digest: Content of the dataset.
    """
    try:
        state = load_state(folder)
    except ModelError:
        return None
    if state.dataset_digest != digest:
        return None
    options = TrainOptions.model_validate(state.options)

    def go_on(reporter: Reporter) -> None:
        _check_alone(options)
        with held(folder) as place:
            train(asked.places.dataset, place, options, reporter, resume=True, slides_roots=asked.slides_roots)
            reporter.say(f"Wrote {place}/")

    return go_on


def _check_alone(options: TrainOptions) -> None:
    """Refuses several processes: each would begin the round anew.

    Raises:
        ConfigError: Several are asked for, or were launched.
    """
    if processes_of(options) > 1:
        raise ConfigError(
            "a round trains in one process; run dmmn-qp train with --devices by itself, then the round, which goes on "
            "with its model"
        )
