"""`dmmn-qp push`, `new-project` and `scripts`: predictions on their way back into QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import PREDICTIONS, QupathDirOption, SlidesRootOption, parsed_slides_roots
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError


@app.command("push", cls=Command)
def push_command(
    into: Annotated[Path, typer.Option(help="QuPath project to write into.", show_default=False)],
    predictions: Annotated[Path, typer.Argument(help="Folder made by predict.")] = PREDICTIONS,
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; repeatable.", metavar="NAME")] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Objects become children of those they lie in (resolve hierarchy).")
    ] = False,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Writes predictions into a QuPath project, through QuPath itself.

    Only unlocked objects of earlier predictions are replaced. Close the project in QuPath first.
    """
    from dmmn_qp.folders.predictions import predicted_polygons
    from dmmn_qp.pushing.stage import push

    if slide:
        known = predicted_polygons(predictions)
        for name in slide:
            if name not in known:
                raise ConfigError(f'--slide "{name}" is not in "{predictions}", which holds {", ".join(known)}')
    reporter = Reporter()
    push(
        predictions,
        into,
        reporter,
        slides=slide or None,
        slides_roots=parsed_slides_roots(slides_root),
        qupath_dir=qupath_dir,
        resolve=resolve,
    )


@app.command("new-project", cls=Command)
def new_project_command(
    out: Annotated[Path, typer.Option(help="The project's folder, empty or not yet there.", show_default=False)],
    predictions: Annotated[Path, typer.Argument(help="Folder made by predict.")] = PREDICTIONS,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Makes a QuPath project of predicted slides, through QuPath itself."""
    from dmmn_qp.pushing.new_project import new_project

    reporter = Reporter()
    path = new_project(predictions, out, reporter, slides_roots=parsed_slides_roots(slides_root), qupath_dir=qupath_dir)
    reporter.say(f"Wrote {path}  Open it in QuPath (File > Project > Open project).")


scripts_app = typer.Typer(no_args_is_help=True, help="The scripts that run in QuPath.")
app.add_typer(scripts_app, name="scripts")


@scripts_app.command("install", cls=Command)
def install_scripts_command(
    project: Annotated[Path, typer.Argument(help="project.qpproj or its folder.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace scripts that differ.")] = False,
) -> None:
    """Copies the scripts into a project, where QuPath lists them (Automate > Project scripts)."""
    from dmmn_qp.qupath.scripts import install_scripts

    reporter = Reporter()
    for item in install_scripts(project, overwrite=overwrite):
        reporter.say(f"{'Wrote' if item.written else 'Already there:'} {item.path}")
