"""`dmmn-qp round` and `status`: the loop of annotating, training, predicting and reviewing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import ConfigFile, import_options, load_config, predict_options, train_options
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import (
    DATASET,
    PREDICTIONS,
    ConfigOption,
    DatasetOption,
    QupathDirOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.workflows.places import Places

if TYPE_CHECKING:
    from dmmn_qp.workflows.steps import RoundRequest

SourceArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="SOURCE",
        help="project.qpproj, or what the dataset was made of.",
        show_default="what the dataset was made of",
    ),
]

PredictionsOption = Annotated[Path, typer.Option("--predictions", help="Folder of predictions.", metavar="FOLDER")]


@app.command("round", cls=Command)
def round_command(
    source: SourceArgument = None,
    dataset: DatasetOption = DATASET,
    predictions: PredictionsOption = PREDICTIONS,
    push: Annotated[
        bool,
        typer.Option("--push", help="Write the predictions into the project, which is closed in QuPath meanwhile."),
    ] = False,
    all_images: Annotated[
        bool,
        typer.Option("--all-images", help="Predict every image of the project, not only those annotated or predicted."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands that it stands for.")] = False,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <slide>.geojson files, for slides without a project.",
            metavar="FOLDER",
            show_default="that of the import before",
        ),
    ] = None,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Goes round the loop: imports, trains, predicts and pushes, each where something changed.

    Options of the import before, and of the training before, are kept where the configuration file does not say
    otherwise. Training starts from the last accepted model. Stopped anywhere, the same command goes on.
    """
    from dmmn_qp.workflows.round import plan_round, run_round

    reporter = Reporter()
    asked = _asked(source, Places(dataset, predictions), slides_root, config)
    asked = replace(asked, push=push, all_images=all_images, qupath_dir=qupath_dir)
    asked = replace(asked, annotations=annotations or asked.annotations)
    if not dry_run:
        run_round(asked, reporter)
        return
    for step in plan_round(asked):
        reporter.say(step.command if step.skipped is None else f"# skipped: {step.name} ({step.skipped})")


def _asked(
    named: Sequence[Path] | None, places: Places, slides_root: list[str] | None, config: Path | None
) -> RoundRequest:
    """What a round is asked for, with the options of the stages of before.

    Raises:
        ConfigError: There is no dataset that tells its source, and none is named, or an option is wrong.
    """
    from dmmn_qp.folders.model_glance import glance_models, newest
    from dmmn_qp.workflows.earlier import earlier_import, only_project
    from dmmn_qp.workflows.steps import RoundRequest

    file, earlier = load_config(config), earlier_import(places.dataset)
    sources = tuple(named or earlier.sources or filter(None, [only_project(Path())]))
    if not sources:
        raise ConfigError("no project is named, and no dataset tells one; run dmmn-qp round project.qpproj")
    model = newest(glance_models(places.models))
    trained = {} if model is None else (model.configuration or {})
    kept = {
        name: value for name, value in trained.items() if name in TrainOptions.model_fields and name not in _OF_A_RUN
    }
    return RoundRequest(
        sources=sources,
        annotations=earlier.annotations,
        places=places,
        importing=import_options(ConfigFile.model_validate({"import": {**earlier.options, **file.import_}}), {}),
        training=train_options(ConfigFile(train=file.train or kept), {}),
        predicting=predict_options(file, {}),
        slides_roots=parsed_slides_roots(slides_root or [*earlier.slides_roots]),
    )


_OF_A_RUN: Final = frozenset({"start_from", "device", "devices", "workers", "threads", "cache_mib", "compile"})
"""Options of a training that the next one does not take over."""


@app.command("status", cls=Command)
def status_command(
    source: SourceArgument = None,
    dataset: DatasetOption = DATASET,
    predictions: PredictionsOption = PREDICTIONS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says where the work stands, and what to type next."""
    import json

    from dmmn_qp.workflows.status import work_status

    status, reporter = work_status(Path(), source or (), Places(dataset, predictions)), Reporter()
    for line in [json.dumps(status.as_json(), indent=2)] if as_json else status.lines():
        typer.echo(line) if as_json else reporter.say(line)
