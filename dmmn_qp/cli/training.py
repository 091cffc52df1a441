"""`dmmn-qp train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
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
    TakeOverOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter
from dmmn_qp.slides.finding import SlidesRoot
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
    take_over: TakeOverOption = False,
    accept: Annotated[
        bool,
        typer.Option(
            "--accept",
            help="With --from: let predict take the new model even if it is worse than the old one.",
            rich_help_panel=COMMON_PANEL,
        ),
    ] = False,
) -> None:
    """Trains a network on a dataset and keeps the best epoch."""
    from dmmn_qp.training import launch, stage

    launch.launched()  # before anything is said: of several processes only the first one speaks
    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    others = {"--config": config, "--show-batch": show, "--dry-run": dry_run, "--overwrite": overwrite}
    if not resume and (show is not None or dry_run):
        _preview(dataset, show, train_options(load_config(config), given), reporter, roots)
        return
    start = _interrupted(given, others) if resume else _new(train_options(load_config(config), given))
    with start(dataset, out, take_over) as training:
        stage.train(*training, reporter, slides_roots=roots, overwrite=overwrite, resume=resume, accept=accept)
    _say_way_on(reporter, training.dataset, training.folder, out)


class _Training(NamedTuple):
    """What is trained: a dataset, to which model folder, and how."""

    dataset: Path
    folder: Path
    options: TrainOptions


Start = Callable[[Path, Path | None, bool], AbstractContextManager[_Training]]
"""Holds a model's folder: given the dataset, the folder that the user named, and whether to take it over."""


def _preview(
    dataset: Path, show: Path | None, options: TrainOptions, reporter: Reporter, roots: Sequence[SlidesRoot]
) -> None:
    """Trains nothing, but draws patches into a picture, or says what a training would take."""
    from dmmn_qp.training import preview

    if show is not None:
        preview.show_batch(dataset, show, options, reporter, slides_roots=roots)
    else:
        preview.estimate(dataset, options, reporter, slides_roots=roots)


def _new(options: TrainOptions) -> Start:
    """Holds the folder of a new model, which is called after its network unless the user names it."""
    from dmmn_qp.folders.model import load_card
    from dmmn_qp.training.holding import held, held_new

    @contextmanager
    def start(dataset: Path, out: Path | None, take_over: bool) -> Iterator[_Training]:
        base = options.start_from
        architecture = options.architecture if base is None else load_card(base).network.architecture
        with held_new(MODELS, architecture) if out is None else held(out, take_over=take_over) as folder:
            yield _Training(dataset, folder, options)

    return start


def _interrupted(given: Given, others: Mapping[str, object]) -> Start:
    """Holds the folder of the training that was interrupted, on the dataset of then unless another is given."""
    from dmmn_qp.training.holding import held, held_interrupted
    from dmmn_qp.training.state import load_state

    check_resumed(given, [option for option, value in others.items() if value])

    @contextmanager
    def start(dataset: Path, out: Path | None, take_over: bool) -> Iterator[_Training]:
        with held_interrupted(MODELS, take_over=take_over) if out is None else held(out, take_over=take_over) as folder:
            state = load_state(folder)
            options = train_options(ConfigFile(train=state.options), given)
            known = Path(state.dataset)
            yield _Training(known if dataset == DATASET and known.is_dir() else dataset, folder, options)

    return start


def _say_way_on(reporter: Reporter, dataset: Path, folder: Path, out: Path | None) -> None:
    from dmmn_qp.folders.model import load_card
    from dmmn_qp.reports.html import REPORT_PAGE

    report = folder / REPORT_PAGE
    seen = f"; how good it is: {report}" if report.is_file() else ""
    if not load_card(folder).accepted:
        reporter.say(f"Wrote {folder}/, which is not accepted{seen}")
        return
    way_on = shown_option("--dataset", dataset, DATASET) + shown_option("--model", out, None)
    reporter.say(f"Wrote {folder}/{seen}  Next: dmmn-qp predict{way_on}")
