"""`dmmn-qp evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.choices import Split
from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import DATASET, PREDICTIONS, DatasetOption, OverwriteOption
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, OutputExistsError
from dmmn_qp.files import write_json


@app.command("evaluate", cls=Command)
def evaluate_command(
    predictions: Annotated[Path, typer.Option(help="Folder made by predict.", metavar="FOLDER")] = PREDICTIONS,
    dataset: DatasetOption = DATASET,
    split: Annotated[Split, typer.Option(help="Which slides.", metavar="train|val|test")] = "test",
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of <slide>.png full label maps, to compare with as well; classes.csv (value,class) in it "
            "names their values, else they are numbered like the dataset's classes.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    class_maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Predicted class that has another name in the truth, such as tumor=Tumor; several may become one; "
            "repeatable. Classes of equal names meet without it, whatever their order.",
            metavar="PREDICTED=TRUTH",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="True class whose pixels do not count; repeatable.", metavar="NAME"),
    ] = None,
    skip_unpredicted: Annotated[
        bool,
        typer.Option(
            "--skip-unpredicted", help="Leave out pixels without a prediction; without it they count as missed."
        ),
    ] = False,
    mixed_models: Annotated[
        bool, typer.Option("--mixed-models", help="Take together slides that different models predicted.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for the figures.", metavar="FILE")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json.", metavar="FOLDER", show_default=False)
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Compares predictions with the annotations of held-back slides.

    Classes are compared by name. Only what people drew counts as annotated; predictions that they corrected or
    confirmed have tables of their own.
    """
    from dmmn_qp.evaluating.options import EvaluationRules
    from dmmn_qp.evaluating.stage import evaluate

    files = _files_to_write(json_file, out, overwrite=overwrite)
    reporter, rules = Reporter(), EvaluationRules(class_maps or (), exclude or (), skip_unpredicted, mixed_models)
    figures = evaluate(predictions, dataset, split, truth, reporter, rules)
    for path in files:
        write_json(path, figures)
        reporter.say(f"Wrote {path}")


def _files_to_write(json_file: Path | None, out: Path | None, *, overwrite: bool) -> list[Path]:
    """Checks where the figures go, at once and not after the work; returns the files."""
    from dmmn_qp.evaluating.stage import EVALUATION

    if out is not None and out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    if out is not None and (out / EVALUATION).exists() and not overwrite:
        raise OutputExistsError(
            f'"{out / EVALUATION}" exists; pass --overwrite to replace it or choose another folder with --out'
        )
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f'--json "{json_file}" is a folder; name a file, such as {json_file}/{EVALUATION}')
    return [path for path in (json_file, out and out / EVALUATION) if path is not None]
