"""`dmmn-qp train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import ConfigFile, check_resumed, load_config, train_options
from dmmn_qp.cli.help import COMMON_PANEL, Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import (
    DATASET,
    MODELS,
    ConfigOption,
    DatasetOption,
    OverwriteOption,
    SlidesRootOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter
from dmmn_qp.training.options import TrainOptions


@app.command("train", cls=Command)
@with_options(TrainOptions)
def train_command(
    dataset: DatasetOption = DATASET,
    out: Annotated[
        Path | None,
        typer.Option(help="Model folder to write.", metavar="FOLDER", show_default="models/<architecture>-<n>"),
    ] = None,
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    show: Annotated[
        Path | None,
        typer.Option(
            "--show-batch",
            help="Train nothing; draw some patches into this PNG as they are, augmented, and deformed.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=COMMON_PANEL,
        ),
    ] = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the training interrupted last (or that of --out).",
            rich_help_panel=COMMON_PANEL,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the resolved options, counts, and an estimate; write nothing.",
            rich_help_panel=COMMON_PANEL,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Trains a network on a dataset and keeps the best epoch."""
    from dmmn_qp.training import preview, stage

    others = {"--config": config, "--show-batch": show, "--dry-run": dry_run, "--overwrite": overwrite}
    training = _resumed(dataset, out, given, others) if resume else _new(dataset, out, given, config)
    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    if show is not None:
        preview.show_batch(training.dataset, show, training.options, reporter, slides_roots=roots)
    elif dry_run:
        preview.estimate(training.dataset, training.options, reporter, slides_roots=roots)
    else:
        stage.train(*training, reporter, overwrite=overwrite, resume=resume, slides_roots=roots)
        _say_way_on(reporter, training, out)


class _Training(NamedTuple):
    """What is trained: a dataset, to which model folder, and how."""

    dataset: Path
    folder: Path
    options: TrainOptions


def _new(dataset: Path, out: Path | None, given: Given, config: Path | None) -> _Training:
    from dmmn_qp.folders.model import load_card, next_model_name

    options = train_options(load_config(config), given)
    if out is None:
        trained = options.architecture
        if options.start_from is not None:
            trained = load_card(options.start_from).network.architecture
        out = MODELS / next_model_name(MODELS, trained)
    return _Training(dataset, out, options)


def _resumed(dataset: Path, out: Path | None, given: Given, others: Mapping[str, object]) -> _Training:
    """Returns the training that was interrupted, on the dataset of then unless another is given.

    Raises:
        ConfigError: Something is given that it does not take.
    """
    from dmmn_qp.training.state import load_state, newest_interrupted

    check_resumed(given, [option for option, value in others.items() if value])
    folder = out or newest_interrupted(MODELS)
    state = load_state(folder)
    options = train_options(ConfigFile(train=state.options), given)
    known = Path(state.dataset)
    return _Training(known if dataset == DATASET and known.is_dir() else dataset, folder, options)


def _say_way_on(reporter: Reporter, training: _Training, out: Path | None) -> None:
    way_on = shown_option("--dataset", training.dataset, DATASET) + shown_option("--model", out, None)
    reporter.say(f"Wrote {training.folder}/  Next: dmmn-qp predict{way_on}")
