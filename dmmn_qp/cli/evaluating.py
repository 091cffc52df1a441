"""`dmmn-qp evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.choices import Split
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import evaluate_options, import_options, load_config, predict_options
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import (
    DATASET,
    ConfigOption,
    DatasetOption,
    OverwriteOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.evaluating.options import EvaluateOptions


@app.command("evaluate", cls=Command)
@with_options(EvaluateOptions)
def evaluate_command(
    predictions: Annotated[
        list[Path] | None,
        typer.Option(help="Folder made by predict; repeatable.", metavar="FOLDER", show_default="predictions"),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="Model folder to compare: what it has not predicted, it predicts first; repeatable.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    dataset: DatasetOption = DATASET,
    split: Annotated[Split, typer.Option(help="Which slides.", metavar="train|val|test")] = "test",
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            help="QuPath project with a test set from elsewhere, in place of a dataset: all of its annotated slides "
            "are for test; repeatable.",
            metavar="PROJECT",
            show_default=False,
        ),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <slide>.png full label maps, to compare with as well; classes.csv (value,class) in it "
            "names their values, else they are numbered like the dataset's classes.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures in few keys, for scripts.", metavar="FILE")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for evaluation.json, kept unless --overwrite is given.",
            metavar="FOLDER",
            show_default="evaluation, replaced",
        ),
    ] = None,
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    config: ConfigOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compares predictions, of one model or several, with the annotations of held-back slides.

    Classes are compared by name. Only what people drew counts as annotated; predictions that they corrected or
    confirmed have tables of their own.
    """
    from dmmn_qp.workflows.evaluating import EvaluationFiles, EvaluationRequest, evaluate_into

    file, roots = load_config(config), parsed_slides_roots(slides_root)
    options, predicting = evaluate_options(file, given), predict_options(file, {}).on_this_machine()
    folders, models = tuple(predictions or ()), tuple(model or ())
    projects, importing = tuple(annotations or ()), import_options(file, {})
    request = EvaluationRequest(dataset, split, folders, models, truth, options, predicting, roots, projects, importing)
    evaluate_into(request, EvaluationFiles(out, json_file, overwrite), Reporter())
