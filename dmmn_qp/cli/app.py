"""The program `dmmn-qp`, to which each group of commands adds its own."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, Final

import typer

from dmmn_qp.cli.help import Group
from dmmn_qp.engines.cores import settle_libraries
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.files.failures import line_of
from dmmn_qp.text import printable
from dmmn_qp.version import __version__

settle_libraries(is_ours="dmmn_qp.api" not in sys.modules)  # before any of them is loaded

DEBUG_VARIABLE: Final = "DMMN_QP_DEBUG"
"""With 1 in it, errors that are not ours keep their traceback."""

STOPPED: Final = "stopped; nothing half-finished is left under its name, repeat the command"

_OF_TYPER: Final = ("click", "typer")


def wants_tracebacks() -> bool:
    """Whether errors that are not ours are to end in a traceback."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


class _Program(Group):
    """Turns errors of all kinds into one line and exit code 1: the only place where they reach the user."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # whoever read the output is gone: there is nobody to tell
        except KeyboardInterrupt as stopped:
            typer.secho(printable(str(stopped)) or STOPPED, fg="red", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] in _OF_TYPER:
                raise  # usage, help, exit codes
            if wants_tracebacks() and not isinstance(error, DmmnQpError):
                raise
            typer.secho(f"error: {printable(line_of(error))}", fg="red", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a pathologist's partial annotations in QuPath to a trained segmentation model and back.",
    epilog="In the current folder import SOURCE writes dataset/; without options train reads it and writes "
    "models/<name>/, and predict takes the newest model and writes predictions/.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dmmn-qp {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Takes the options that concern all commands."""
    del version
