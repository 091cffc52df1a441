"""`dmmn-qp predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import load_config, predict_options
from dmmn_qp.cli.help import COMMON_PANEL, Command
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
    TakeOverOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError, PartlyPredictedError
from dmmn_qp.predicting.cluster_options import CLUSTER_PANEL
from dmmn_qp.predicting.options import PANELS, PredictOptions

if TYPE_CHECKING:
    from dmmn_qp.predicting.inputs import SlideToPredict
    from dmmn_qp.predicting.shards import Shard
    from dmmn_qp.slides.finding import SlidesRoot


@app.command("predict", cls=Command)
@with_options(PredictOptions, PANELS)
def predict_command(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slide files, folders of them, patterns such as 'scans/**/*.svs', tables slide,mpp,roi (.csv), "
            "addresses (https://, s3://, gs://, az://), projects (.qpproj), or slides of the dataset by name.",
            metavar="SLIDE",
            show_default="all of the dataset",
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder.", metavar="FOLDER", show_default="the newest in models/")
    ] = None,
    dataset: DatasetOption = DATASET,
    out: Annotated[Path, typer.Option(help="Folder to write into.", metavar="FOLDER")] = PREDICTIONS,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Search the folders in folders of slides too.")
    ] = False,
    roi: Annotated[
        Path | None,
        typer.Option(
            help="GeoJSON of the areas to predict, or a folder of <slide>.geojson for several slides.", metavar="FILE"
        ),
    ] = None,
    *,
    given: Given,
    slides_root: SlidesRootOption = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="QuPath project to write the polygons into as well, as push does.",
            metavar="PROJECT",
            show_default=False,
        ),
    ] = None,
    qupath_dir: QupathDirOption = None,
    config: ConfigOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an interrupted prediction or fail; without it, one made with other options begins again.",
            rich_help_panel=COMMON_PANEL,
        ),
    ] = False,
    take_over: TakeOverOption = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Predict one of N parts of the slides, such as 3/40, while others predict the others.",
            metavar="K/N",
            show_default=False,
            rich_help_panel=CLUSTER_PANEL,
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Segments whole slides and writes polygons for QuPath.

    Slides predicted before in the same way are skipped, and interrupted ones go on where they were. Where only options
    of the polygons differ, these are made anew from the labels; where others do, it is an error without --overwrite.
    """
    from dmmn_qp.folders.model import newest_model
    from dmmn_qp.predicting.inputs import slides_to_predict
    from dmmn_qp.predicting.stage import predict

    options, reporter, roots = predict_options(load_config(config), given), Reporter(), parsed_slides_roots(slides_root)
    part = _shard(shard, into, options)
    chosen = slides_to_predict(slides or [], dataset, roots, recursive=recursive, roi=roi, say=reporter.say)
    hand_on = _way_on(reporter) if into is None else _into_project(into, chosen, out, reporter, roots, qupath_dir)
    go = partial(predict, overwrite=overwrite, resume=resume, take_over=take_over, shard=part)
    try:
        hand_on(go(model or newest_model(MODELS), chosen, out, options, reporter))
    except PartlyPredictedError as error:
        hand_on(error.written)
        raise


def _shard(text: str | None, into: Path | None, options: PredictOptions) -> Shard | None:
    """Reads ``--shard``, before slides are searched for; that it goes together with the other options is checked.

    Raises:
        ConfigError: It is no shard, or does not go together with them.
    """
    from dmmn_qp.predicting.on_cluster import check_engine
    from dmmn_qp.predicting.shards import Shard

    check_engine(options, has_shard=text is not None)
    if text is not None and into is not None:
        raise ConfigError(
            "--into writes into a project, which other shards would do at the same time; leave it out, and use "
            "dmmn-qp push when all have ended"
        )
    return None if text is None else Shard.parse(text)


HandOn = Callable[[Mapping[str, Path]], None]
"""Takes the polygons of predicted slides, by slide; there may be none."""


def _way_on(reporter: Reporter) -> HandOn:
    """Says how predictions get into QuPath."""

    def say(written: Mapping[str, Path]) -> None:
        for polygons in [*written.values()][:1]:
            reporter.say(
                f"To review in QuPath: open the slide and drag {polygons} onto it, "
                "or for the whole project: dmmn-qp scripts install project.qpproj"
            )

    return say


def _into_project(
    project: Path,
    chosen: Sequence[SlideToPredict],
    out: Path,
    reporter: Reporter,
    roots: Sequence[SlidesRoot],
    qupath_dir: Path | None,
) -> HandOn:
    """Pushes predictions into a project; that this is possible is checked at once, and not after hours."""
    from dmmn_qp.predicting.request import input_of
    from dmmn_qp.pushing.stage import check_push, push

    check_push(project, {s.slide_id: input_of(s) for s in chosen if s.problem is None}, roots, qupath_dir)

    def push_all(written: Mapping[str, Path]) -> None:
        if written:
            push(out, project, reporter, slides=[*written], slides_roots=roots, qupath_dir=qupath_dir)

    return push_all
