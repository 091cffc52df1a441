"""`dmmn-qp import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.config import import_options, load_config
from dmmn_qp.cli.help import COMMON_PANEL, Command
from dmmn_qp.cli.model_options import Given, with_options
from dmmn_qp.cli.options import (
    DATASET,
    ConfigOption,
    OverwriteOption,
    SlidesRootOption,
    parsed_slides_roots,
    shown_option,
)
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import typed_place
from dmmn_qp.importing.options import ImportOptions


@app.command("import", cls=Command)
@with_options(ImportOptions)
def import_command(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="project.qpproj, or several; or slides or their address (then with --annotations).",
            show_default=False,
        ),
    ],
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of <slide>.geojson files, for slides without a project.", metavar="FOLDER"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Dataset folder to write.", metavar="FOLDER")] = DATASET,
    slides_root: SlidesRootOption = None,
    *,
    given: Given,
    config: ConfigOption = None,
    overwrite: OverwriteOption = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; say what should be mended, and exit with 1 on an error.",
            rich_help_panel=COMMON_PANEL,
        ),
    ] = False,
) -> None:
    """Reads annotations and makes a dataset of masks and patches."""
    from dmmn_qp.importing.stage import import_annotations

    options, reporter = import_options(load_config(config), given), Reporter()
    places, roots = [*map(typed_place, source)], parsed_slides_roots(slides_root)
    done = import_annotations(
        places, out, options, reporter, annotations=annotations, slides_roots=roots, overwrite=overwrite, check=check
    )
    if check:
        raise typer.Exit(int(any(finding.severity == "error" for finding in done.findings)))
    way_on = _way_on(out, is_validated=done.is_validated)
    reporter.say(f"Wrote {out}/ (masks and annotations open in QuPath). Next: {way_on}")


def _way_on(out: Path, *, is_validated: bool) -> str:
    """The command that trains on a dataset, which has to say how where no slide is for validation."""
    return f"dmmn-qp train{shown_option('--dataset', out, DATASET)}{'' if is_validated else ' --validate-on train'}"
