"""`dmmn-qp train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import ConfigFile, load_config, train_options
from dmmn_qp.cli.help import Command
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
from dmmn_qp.errors import ConfigError
from dmmn_qp.training.options import TrainOptions


@app.command("train", cls=Command)
@with_options(TrainOptions)
def train_command(
    dataset: DatasetOption = DATASET,
    out: Annotated[
        Path | None, typer.Option(help="Model folder to write; default models/<architecture>-<n>.", show_default=False)
    ] = None,
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    show: Annotated[
        Path | None,
        typer.Option(
            "--show-batch",
            help="Train nothing; draw some patches into this PNG as they are, augmented, and deformed.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training interrupted last (or that of --out).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved options, counts, and an estimate; write nothing.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Trains a network on a dataset and keeps the best epoch."""
    from dmmn_qp.folders.model import next_model_name
    from dmmn_qp.training.preview import estimate, show_batch
    from dmmn_qp.training.stage import train
    from dmmn_qp.training.state import CHANGEABLE, load_state, newest_interrupted

    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    if resume:
        if given.keys() - CHANGEABLE or config is not None or overwrite or dry_run or show is not None:
            raise ConfigError(
                "--resume goes on as the training began; leave out all options but --out, --dataset, --slides-root, "
                "--device and --workers"
            )
        folder = out or newest_interrupted(MODELS)
        state = load_state(folder)
        options = train_options(ConfigFile(train=state.options), given)
        dataset = dataset if dataset != DATASET or not Path(state.dataset).is_dir() else Path(state.dataset)
    else:
        options = train_options(load_config(config), given)
        folder = out or MODELS / next_model_name(MODELS, options.architecture)
    if show is not None:
        show_batch(dataset, show, options, slides_roots=roots)
        reporter.say(f"Wrote {show}")
        return
    if dry_run:
        estimate(dataset, options, reporter, slides_roots=roots)
        return
    written = train(dataset, folder, options, reporter, overwrite=overwrite, resume=resume, slides_roots=roots)
    way_on = shown_option("--dataset", dataset, DATASET) + shown_option("--model", out, None)
    reporter.say(f"Wrote {written}/  Next: dmmn-qp predict{way_on}")
