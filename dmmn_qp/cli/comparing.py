"""`dmmn-qp compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.options import OverwriteOption, SlidesRootOption, parsed_slides_roots
from dmmn_qp.console import Reporter

_WHAT = "QuPath project, dataset, predictions, GeoJSON or label map (PNG, TIFF), or a folder of these."


@app.command("compare", cls=Command)
def compare_command(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help=_WHAT, show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Another of these.", show_default=False)],
    class_maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="Class of the second that has another name in the first, such as tumor=Tumor; repeatable.",
            metavar="SECOND=FIRST",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Class whose pixels do not count; repeatable.", metavar="NAME")
    ] = None,
    slides: Annotated[
        Path | None,
        typer.Option(help="Folder of the slides, for sizes and um/px that neither side says.", metavar="FOLDER"),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="um/px of level 0, where neither side says it.", metavar="UM", min=0.01, max=100),
    ] = None,
    grid_mpp: Annotated[
        float,
        typer.Option(help="um/px at which areas are compared with areas.", metavar="UM", min=0.01, max=100),
    ] = 0.5,
    min_area_um2: Annotated[
        float, typer.Option(help="Smaller areas of disagreement are not told.", metavar="UM2", min=0)
    ] = 1000.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for comparison.json and areas to jump to.", metavar="FOLDER", show_default="none"),
    ] = None,
    slides_root: SlidesRootOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Says how far two things agree, such as two pathologists' projects, or another tool's output and annotations.

    Slides and classes meet by their names. Only pixels that both label are compared; what one alone labels is told as
    an area. Label maps of different um/px are compared on the pixels of the finer.
    """
    from dmmn_qp.workflows.comparing import ComparisonRules, compare_into

    maps, left_out, roots = tuple(class_maps or ()), tuple(exclude or ()), parsed_slides_roots(slides_root)
    rules = ComparisonRules(maps, left_out, mpp, grid_mpp, min_area_um2, slides, roots)
    compare_into(first, second, rules, Reporter(), out, overwrite=overwrite)
