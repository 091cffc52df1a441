"""`dmmn-qp cohort`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import PREDICTIONS, OverwriteOption
from dmmn_qp.console import Reporter
from dmmn_qp.folders.names import COHORT


@app.command("cohort", cls=Command)
def cohort_command(
    predictions: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders made by predict.", metavar="FOLDER", show_default=f"{PREDICTIONS}/"),
    ] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            help="Areas to divide, such as tumour/stroma or necrosis/necrosis+tumour; repeatable.",
            metavar="A/B",
            show_default=False,
        ),
    ] = None,
    within: Annotated[
        list[float] | None,
        typer.Option(
            help="Distance from the tissue's outline within which the area of each class is told; repeatable.",
            metavar="UM",
            show_default="500, 1000 and 2000",
        ),
    ] = None,
    case_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression on slide names that finds the case, as for import: a table of cases as well.",
            metavar="REGEX",
            show_default=False,
        ),
    ] = None,
    tissue_min_area_um2: Annotated[
        float, typer.Option(help="Smaller parts of the tissue are dirt.", metavar="UM2")
    ] = 20_000,
    tissue_min_hole_um2: Annotated[
        float, typer.Option(help="Smaller holes in the tissue are tissue.", metavar="UM2")
    ] = 1_000_000,
    out: Annotated[Path, typer.Option(help="Folder to write into.", metavar="FOLDER")] = Path(COHORT),
    overwrite: OverwriteOption = False,
) -> None:
    """Makes one table of all predicted slides and classes, and a page with distributions and outliers.

    Areas, % of tissue, mean probability, ratios, and how far each class is from the outline of the tissue.
    """
    from dmmn_qp.collecting.options import WITHIN_UM, CohortRules
    from dmmn_qp.collecting.stage import collect

    folders = predictions or [PREDICTIONS]
    distances = tuple(within or WITHIN_UM)
    rules = CohortRules(tuple(ratio or ()), distances, case_pattern, tissue_min_area_um2, tissue_min_hole_um2)
    collect(folders, out, rules, Reporter(), overwrite=overwrite)
