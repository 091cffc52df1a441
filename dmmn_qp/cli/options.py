"""Options that several commands have."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmmn_qp.cli.help import COMMON_PANEL
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE
from dmmn_qp.workflows import places

if TYPE_CHECKING:
    from dmmn_qp.slides.finding import SlidesRoot

DATASET, MODELS, PREDICTIONS = places.DATASET, places.MODELS, places.PREDICTIONS

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with the sections import, train, predict, suggest, evaluate, cohort; it knows more options "
        "than are listed here.",
        metavar="FILE",
        rich_help_panel=COMMON_PANEL,
    ),
]

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier output.", rich_help_panel=COMMON_PANEL)
]

TakeOverOption = Annotated[
    bool,
    typer.Option(
        "--take-over",
        help="Go on with what another machine works on, as its message says, but which has stopped.",
        rich_help_panel=COMMON_PANEL,
    ),
]

SlidesRootOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slides-root",
        help="Folder or address to search for moved slides, or OLD=NEW where a folder was renamed; repeatable.",
        metavar="FOLDER",
        rich_help_panel=COMMON_PANEL,
    ),
]

DatasetOption = Annotated[Path, typer.Option("--dataset", help="Dataset folder made by import.", metavar="FOLDER")]

PredictionsArgument = Annotated[Path, typer.Argument(help="Folder made by predict, or by suggest.")]

QupathDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of QuPath, for writing through it.",
        metavar="FOLDER",
        envvar=QUPATH_DIR_VARIABLE,
        show_default=False,
        rich_help_panel=COMMON_PANEL,
    ),
]


def parsed_slides_roots(texts: list[str] | None) -> tuple[SlidesRoot, ...]:
    """Reads each ``--slides-root``."""
    from dmmn_qp.slides.finding import parse_slides_root

    return tuple(parse_slides_root(text) for text in texts or ())


def shown_option(option: str, value: Path | None, default: Path | None) -> str:
    """Returns `` --option value`` where the value is not the default, for a command shown to the user."""
    return "" if value == default else f" {option} {shlex.quote(str(value))}"
