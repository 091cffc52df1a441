"""The program `dmmn-qp`, to which each group of commands adds its own."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from dmmn_qp.cli.help import Group
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.text import printable
from dmmn_qp.version import __version__


class _Program(Group):
    """Turns the package's errors into one line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DmmnQpError as error:
            typer.secho(f"error: {error}", fg="red", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            where = f' "{error.filename}"' if error.filename else ""
            typer.secho(f"error: {printable(f'{error.strerror or error}{where}')}", fg="red", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as stopped:
            typer.secho(printable(str(stopped)) or "stopped", fg="red", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a pathologist's partial annotations in QuPath to a trained segmentation model and back.",
    epilog="With no options every command works in the current folder: import writes dataset/, train reads it and "
    "writes models/<name>/, predict takes the newest model and writes predictions/.",
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
    # Set before torch is loaded. Its threads otherwise spin while they wait for each other, which makes training
    # several times slower as soon as anything else, such as the reader process, wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
