"""`dmmn-qp predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import load_config, predict_options
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import (
    DATASET,
    MODELS,
    PREDICTIONS,
    ConfigOption,
    DatasetOption,
    OverwriteOption,
    QupathDirOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import PartlyPredictedError
from dmmn_qp.predicting.options import PredictOptions


@app.command("predict", cls=Command)
@with_options(PredictOptions)
def predict_command(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slide files, folders of them, patterns such as 'scans/**/*.svs', tables slide,mpp,roi (.csv), "
            "projects (.qpproj), or slides of the dataset by name; default all of the dataset.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder; default the newest in models/.", show_default=False)
    ] = None,
    dataset: DatasetOption = DATASET,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = PREDICTIONS,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Search the folders in the folders of slides too.")
    ] = False,
    roi: Annotated[
        Path | None,
        typer.Option(help="GeoJSON of the areas to predict, or a folder of <slide>.geojson for several slides."),
    ] = None,
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    into: Annotated[
        Path | None,
        typer.Option(help="QuPath project to write the polygons into as well, as push does.", show_default=False),
    ] = None,
    qupath_dir: QupathDirOption = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an interrupted prediction or fail; without it, one made with other options begins again.",
        ),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Segments whole slides and writes polygons for QuPath.

    Slides predicted before in the same way are skipped, and interrupted ones go on where they were. Where only options
    of the polygons differ, these are made anew from the labels; where others do, it is an error without --overwrite.
    """
    from dmmn_qp.folders.model import newest_model
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import input_of, predict
    from dmmn_qp.pushing.stage import check_push, push

    options = predict_options(load_config(config), given)
    reporter = Reporter()
    roots = parsed_slides_roots(slides_root)
    chosen = slides_to_predict(slides or [], dataset, roots, recursive=recursive, roi=roi, say=reporter.say)
    if into is not None:  # now, and not after hours
        check_push(into, {s.slide_id: input_of(s) for s in chosen if s.problem is None}, roots, qupath_dir)
    model = model or newest_model(MODELS)
    failed: PartlyPredictedError | None = None
    try:
        written = predict(model, chosen, out, options, reporter, overwrite=overwrite, resume=resume)
    except PartlyPredictedError as error:
        written, failed = error.written, error
    if into is not None and written:
        push(out, into, reporter, slides=[*written], slides_roots=roots, qupath_dir=qupath_dir)
    if failed is not None:
        raise failed
    if into is not None:
        return
    reporter.say(
        f"To review in QuPath: open the slide and drag {next(iter(written.values()))} onto it, "
        "or for the whole project: dmmn-qp scripts install project.qpproj"
    )
