"""`dmmn-qp clean`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.text import shorten

if TYPE_CHECKING:
    from dmmn_qp.workflows.cleaning import Removable


@app.command("clean", cls=Command)
def clean_command(
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Finished parts of unfinished predictions too; these begin again.")
    ] = False,
    earlier: Annotated[
        bool, typer.Option("--earlier", help="Replaced polygons in earlier/ too, by which corrections are counted.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; nothing is removed without --yes.")] = False,
) -> None:
    """Removes what can be made again, after showing it: what encoders saw, and what killed commands left here."""
    from dmmn_qp.workflows.cleaning import find_removable

    found = find_removable(Path(), strips=unfinished, earlier=earlier)
    if as_json:
        _print_json(found, yes=yes)
    elif not found:
        Reporter().say("Nothing to remove")
    elif _agreed(found, yes=yes):
        freed = sum(item.size_bytes for item in _removed(found))
        Reporter().say(f"Removed {freed / 2**20:,.0f} MiB")


def _show(found: Sequence[Removable]) -> None:
    """Prints what would be removed, by what it is."""
    from dmmn_qp.workflows.cleaning import WHAT

    reporter = Reporter()
    for kind, what in WHAT.items():
        mine = [item for item in found if item.kind == kind]
        if mine:
            reporter.say(f"{sum(item.size_bytes for item in mine) / 2**20:,.1f} MiB {what}:")
        for item in mine:
            reporter.say(f"  {item.size_bytes / 2**20:>8,.1f} MiB  {item.path}")


def _agreed(found: Sequence[Removable], *, yes: bool) -> bool:
    """Shows what would be removed; whether it may be.

    Raises:
        ConfigError: Nobody is there to be asked.
    """
    _show(found)
    if yes:
        return True
    if not _can_ask():
        raise ConfigError("nothing was removed, because nobody can be asked here; pass --yes")
    return typer.confirm("Remove it?")


def _can_ask() -> bool:
    """Whether somebody types here."""
    return sys.stdin is not None and sys.stdin.isatty()


def _removed(found: Sequence[Removable]) -> list[Removable]:
    """Removes what no command holds; what cannot be removed is warned of."""
    from dmmn_qp.workflows.cleaning import remove

    reporter, gone = Reporter(), []
    for item in found:
        try:
            if remove(item):
                gone.append(item)
            else:
                reporter.warn(f'"{shorten(str(item.path), 200)}" stays: a command works on it')
        except OSError as error:
            reporter.warn(f'"{shorten(str(item.path), 200)}" cannot be removed ({error.strerror or error})')
    return gone


def _print_json(found: Sequence[Removable], *, yes: bool) -> None:
    gone = _removed(found) if yes else []
    items = [{**item.as_json(), "removed": item in gone} for item in found]
    typer.echo(json.dumps({"items": items, "freed_bytes": sum(item.size_bytes for item in gone)}, indent=2))
