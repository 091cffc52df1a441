"""`dmmn-qp cohort`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import cohort_options, load_config
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import PREDICTIONS, ConfigOption, OverwriteOption, SlidesRootOption, parsed_slides_roots
from dmmn_qp.collecting.options import CohortOptions
from dmmn_qp.console import Reporter
from dmmn_qp.folders.names import COHORT


@app.command("cohort", cls=Command)
@with_options(CohortOptions)
def cohort_command(
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders made by predict.", metavar="FOLDER", show_default=f"{PREDICTIONS}/"),
    ] = None,
    *,
    given: Given,
    out: Annotated[Path, typer.Option(help="Folder to write into.", metavar="FOLDER")] = Path(COHORT),
    project: Annotated[
        Path | None,
        typer.Option(
            help="QuPath project: a table of its annotations and TMA cores as well.",
            metavar="PROJECT",
            show_default="none",
        ),
    ] = None,
    slides_root: SlidesRootOption = None,
    config: ConfigOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Makes one table of all predicted slides and classes, and a page with distributions and outliers.

    Areas, % of tissue, mean probability, ratios, and how far each class is from the outline of the tissue.
    """
    from dmmn_qp.collecting.stage import collect

    options = cohort_options(load_config(config), given)
    folders, roots = predictions or [PREDICTIONS], parsed_slides_roots(slides_root)
    collect(folders, out, options, Reporter(), overwrite=overwrite, project=project, slides_roots=roots)
