"""`dmmn-qp serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.choices import Device
from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import import_options, load_config, predict_options, train_options
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import ConfigOption, SlidesRootOption, parsed_slides_roots


@app.command("serve", cls=Command)
def serve_command(
    project: Annotated[Path, typer.Argument(help="project.qpproj or its folder.", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option(help="Model folder.", metavar="FOLDER", show_default="the newest accepted one in models/"),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.", metavar="auto|cpu|cuda|mps")] = "auto",
    slides_root: SlidesRootOption = None,
    config: ConfigOption = None,
) -> None:
    """Answers requests of the window in QuPath, until that is closed; it is not meant to be typed.

    Requests and replies are lines of JSON on standard input and output. It works in the current folder, on the slides
    of the project alone.
    """
    from dmmn_qp.qupath.project import read_project
    from dmmn_qp.serving import lines, server
    from dmmn_qp.serving.actions import Place

    streams, file, given = lines.own_streams(), load_config(config), {"device": None if device == "auto" else device}
    options = import_options(file, {}), train_options(file, given), predict_options(file, given)
    place = Place(read_project(project).path, Path(), model, tuple(parsed_slides_roots(slides_root)), *options)
    server.Server(place, *streams).run()
