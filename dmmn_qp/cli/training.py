"""`dmmn-qp train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.choices import Freeze, Preset, ValidationSplit
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import ConfigFile, load_config, train_options
from dmmn_qp.cli.options import (
    DATASET,
    MODELS,
    ConfigOption,
    DatasetOption,
    DeviceOption,
    OverwriteOption,
    PrecisionOption,
    SlidesRootOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError


@app.command("train")
def train_command(
    dataset: DatasetOption = DATASET,
    out: Annotated[
        Path | None, typer.Option(help="Model folder to write; default models/<architecture>-<n>.", show_default=False)
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(
            help="fast: for small data, minutes on a CPU. paper: the paper's settings. official: those of its code. "
            "Default fast."
        ),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Which network; default dmmn-m3.")] = None,
    width: Annotated[
        int | None, typer.Option(help="Base width f; default the paper's, but 8 on a CPU with the preset fast.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs.")] = None,
    steps_per_epoch: Annotated[int | None, typer.Option(help="Optimiser steps of an epoch.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate; its peak with one-cycle.")] = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", help="Model folder to start from; classes are matched by name.")
    ] = None,
    freeze: Annotated[Freeze | None, typer.Option(help="With --from: part of the network to leave as it is.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read patches.")] = None,
    cache: Annotated[
        int | None,
        typer.Option(help="MiB of decoded tiles that each of these processes keeps; default 384.", metavar="MIB"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random; default 0.")] = None,
    device: DeviceOption = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes that share each batch, one on each GPU; default 1.")
    ] = None,
    precision: PrecisionOption = None,
    validate_on: Annotated[
        ValidationSplit | None,
        typer.Option(help="Whose patches choose the epoch to keep; train where there is no validation slide."),
    ] = None,
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
    from dmmn_qp.training.state import load_state, newest_interrupted

    flags = {
        "preset": preset,
        "architecture": architecture,
        "width": width,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "workers": workers,
        "cache_mib": cache,
        "seed": seed,
        "device": device,
        "devices": devices,
        "precision": precision,
        "validate_on": validate_on,
        "start_from": start_from and start_from.absolute(),  # a resumed training may begin in another folder
        "freeze": freeze,
    }
    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    if resume:
        changed = [name for name, value in flags.items() if value is not None and name not in ("device", "workers")]
        if changed or config is not None or overwrite or dry_run or show is not None:
            raise ConfigError(
                "--resume goes on as the training began; leave out all options but --out, --dataset, --slides-root, "
                "--device and --workers"
            )
        folder = out or newest_interrupted(MODELS)
        state = load_state(folder)
        options = train_options(ConfigFile(train=state.options), {"device": device, "workers": workers})
        dataset = dataset if dataset != DATASET or not Path(state.dataset).is_dir() else Path(state.dataset)
    else:
        options = train_options(load_config(config), flags)
        folder = out or MODELS / next_model_name(MODELS, options.architecture)
    if show is not None:
        show_batch(dataset, show, options, slides_roots=roots)
        reporter.say(f"Wrote {show}")
        return
    if dry_run:
        estimate(dataset, options, reporter, slides_roots=roots)
        return
    written = train(dataset, folder, options, reporter, overwrite=overwrite, resume=resume, slides_roots=roots)
    given = shown_option("--dataset", dataset, DATASET) + shown_option("--model", out, None)
    reporter.say(f"Wrote {written}/  Next: dmmn-qp predict{given}")
