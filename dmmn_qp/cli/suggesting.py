"""`dmmn-qp suggest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import load_config, predict_options, suggest_options
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import (
    DATASET,
    PREDICTIONS,
    ConfigOption,
    DatasetOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.folders.names import SUGGESTIONS
from dmmn_qp.suggesting.options import SuggestOptions


@app.command("suggest", cls=Command)
@with_options(SuggestOptions)
def suggest_command(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slides to predict where their uncertainty is missing, as for predict.",
            metavar="SLIDE",
            show_default="those of the dataset for training",
        ),
    ] = None,
    predictions: Annotated[Path, typer.Option(help="Folder made by predict.", metavar="FOLDER")] = PREDICTIONS,
    dataset: DatasetOption = DATASET,
    model: Annotated[
        Path | None, typer.Option(help="Model folder.", metavar="FOLDER", show_default="the newest in models/")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write into.", metavar="FOLDER")] = Path(SUGGESTIONS),
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    config: ConfigOption = None,
) -> None:
    """Says where to annotate next: the regions that the model would learn most from.

    Slides of which it is not known how unsure the model is are predicted first, into suggestions/predicted; your
    predictions stay as they are. Earlier suggestions in the folder are replaced.
    """
    from dmmn_qp.workflows.suggesting import predict_and_suggest

    file, roots, say = load_config(config), parsed_slides_roots(slides_root), Reporter()
    options, predicting = suggest_options(file, given), predict_options(file, {})
    predict_and_suggest(
        slides or [], predictions, dataset, out, options, say, model=model, predicting=predicting, slides_roots=roots
    )
