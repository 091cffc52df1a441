"""`dmmn-qp clean`."""

from __future__ import annotations

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.console import Reporter
from dmmn_qp.files.paths import cache_folder


@app.command("clean", cls=Command)
def clean_command() -> None:
    """Removes what training keeps of places that an encoder has looked at; nothing of yours."""
    from dmmn_qp.features.cache import clear

    folder = cache_folder()
    freed = 0 if folder is None else clear(folder)
    Reporter().say(f"Removed {freed / 2**20:,.0f} MiB from {folder}" if freed else f"Nothing to remove in {folder}")
