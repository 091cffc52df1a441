"""`dmmn-qp clean`."""

from __future__ import annotations

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.console import Reporter


@app.command("clean", cls=Command)
def clean_command() -> None:
    """Removes what training keeps of places that an encoder has looked at; nothing of yours."""
    from dmmn_qp.features.cache import clear, usual_cache

    reporter = Reporter()
    folder = usual_cache(reporter).folder
    freed = 0 if folder is None else clear(folder)
    reporter.say(f"Removed {freed / 2**20:,.0f} MiB from {folder}" if freed else "Nothing to remove")
