"""`dmmn-qp train`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
from dmmn_qp.errors import ConfigError
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.training.options import TRAINING_PANEL, TrainOptions


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
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            help="Train so many models instead, each without a part of the cases, and judge it on these.",
            metavar="N",
            min=2,
            max=100,
            show_default=False,
            rich_help_panel=TRAINING_PANEL,
        ),
    ] = None,
    without_test: Annotated[
        bool,
        typer.Option(
            "--without-test",
            help="With --folds: leave slides of the split test out.",
            rich_help_panel=TRAINING_PANEL,
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
    from dmmn_qp.training import launch

    launch.launched()  # before anything is said: of several processes only the first one speaks
    reporter, place = Reporter(), _Place(dataset, out, parsed_slides_roots(slides_root), overwrite, take_over, resume)
    others: dict[str, object] = {"--config": config, "--show-batch": show, "--dry-run": dry_run}
    others |= {"--overwrite": overwrite, "--folds": folds, "--without-test": without_test}
    if folds is not None or without_test or (not resume and (show is not None or dry_run)):
        _instead(place, train_options(load_config(config), given), reporter, folds, show, others)
    else:
        start = _interrupted(given, others) if resume else _new(train_options(load_config(config), given))
        _train(place, start, reporter, accept=accept)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command reads and writes, and what it may do there."""

    dataset: Path
    out: Path | None
    roots: tuple[SlidesRoot, ...]
    overwrite: bool
    take_over: bool
    resume: bool


def _train(place: _Place, start: Start, reporter: Reporter, *, accept: bool) -> None:
    """Trains one model."""
    from dmmn_qp.training import stage

    with start(place.dataset, place.out, place.take_over) as training:
        stage.train(
            *training, reporter, slides_roots=place.roots, overwrite=place.overwrite, resume=place.resume, accept=accept
        )
    _say_way_on(reporter, training.dataset, training.folder, place.out)


def _instead(
    place: _Place,
    options: TrainOptions,
    reporter: Reporter,
    folds: int | None,
    show: Path | None,
    others: Mapping[str, object],
) -> None:
    """Trains nothing, but shows something; or trains a model for each fold."""
    if folds is None and others["--without-test"]:
        raise ConfigError("--without-test is about folds; pass --folds 5 too, or leave it out")
    if folds is None:
        _preview(place.dataset, show, options, reporter, place.roots)
        return
    if show is not None:
        raise ConfigError("--show-batch is about one training; leave out --folds")
    if place.resume:
        raise ConfigError("a cross-validation goes on by the command that began it; leave out --resume")
    from dmmn_qp.reports.fold_table import fold_lines, fold_table
    from dmmn_qp.workflows.folds import CROSS_VALIDATION, FoldsRequest, cross_validate, divide, say_folds

    out, without_test = place.out or CROSS_VALIDATION, bool(others["--without-test"])
    asked = FoldsRequest(place.dataset, out, folds, options, without_test, place.roots)
    if others["--dry-run"]:
        say_folds(divide(asked, reporter), reporter)
        return
    found = cross_validate(asked, reporter, overwrite=place.overwrite, take_over=place.take_over)
    reporter.table(*fold_table(found))
    for line in fold_lines(found):
        reporter.say(line)
    way_on = shown_option("--dataset", place.dataset, DATASET)
    reporter.say(f"Wrote {out}/ (folds.csv, and a model for each fold)  To train on all: dmmn-qp train{way_on}")


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
