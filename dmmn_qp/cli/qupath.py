"""`dmmn-qp push`, `new-project` and `scripts`: predictions on their way back into QuPath."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command, Group
from dmmn_qp.cli.options import (
    PREDICTIONS,
    PredictionsArgument,
    QupathDirOption,
    SlidesRootOption,
    parsed_slides_roots,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError


@app.command("push", cls=Command)
def push_command(
    into: Annotated[Path, typer.Option(help="QuPath project to write into.", metavar="PROJECT", show_default=False)],
    predictions: Annotated[Path, typer.Argument(help="Folder made by predict, suggest or evaluate.")] = PREDICTIONS,
    slide: Annotated[list[str] | None, typer.Option(help="Only this slide; repeatable.", metavar="NAME")] = None,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Objects become children of those they lie in (resolve hierarchy).")
    ] = False,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Writes predictions, suggested regions, or the worst ones of an evaluation, into a project, through QuPath itself.

    Only earlier ones of the same kind that nobody reviewed are replaced. Close the project in QuPath first.
    """
    from dmmn_qp.pushing.stage import push

    slides = called_slides(slide, predictions) if slide else None
    roots = parsed_slides_roots(slides_root)
    push(predictions, into, Reporter(), slides=slides, slides_roots=roots, qupath_dir=qupath_dir, resolve=resolve)


def called_slides(names: Sequence[str], predictions: Path) -> list[str]:
    """Finds the predicted slides that names stand for.

    Returns:
        Their names in file names.

    Raises:
        ConfigError: A name stands for none, or for several files.
    """
    from dmmn_qp.pushing.pushable import Pushable
    from dmmn_qp.slides.finding import path_of_text
    from dmmn_qp.slides.names import NamedSlide, SlideNames

    pushed = Pushable.of(predictions)
    known, inputs = [*pushed.files], pushed.inputs
    texts = [inputs[slide_id].path if slide_id in inputs else slide_id for slide_id in known]
    paths = [path_of_text(text) or PurePath(text) for text in texts]
    slides = SlideNames(NamedSlide(path, (slide_id,)) for path, slide_id in zip(paths, known, strict=True))
    found: list[str] = []
    for name in names:
        meant = [name] if name in known else [known[i] for i in slides.called(name, "--slide", ConfigError)]
        if not meant:
            raise ConfigError(f'--slide "{name}" is not in "{predictions}", which holds {", ".join(known)}')
        found += meant
    return found


@app.command("new-project", cls=Command)
def new_project_command(
    out: Annotated[
        Path,
        typer.Option(help="The project's folder, empty or not yet there.", metavar="FOLDER", show_default=False),
    ],
    predictions: PredictionsArgument = PREDICTIONS,
    slides_root: SlidesRootOption = None,
    qupath_dir: QupathDirOption = None,
) -> None:
    """Makes a QuPath project of predicted slides, through QuPath itself."""
    from dmmn_qp.pushing.new_project import new_project

    reporter, roots = Reporter(), parsed_slides_roots(slides_root)
    path = new_project(predictions, out, reporter, slides_roots=roots, qupath_dir=qupath_dir)
    reporter.say(f"Wrote {path}  Open it in QuPath (File > Project > Open project).")


scripts_app = typer.Typer(
    cls=Group, no_args_is_help=True, rich_markup_mode=None, help="The scripts that run in QuPath."
)
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
