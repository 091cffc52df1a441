"""The command line. A command translates its options and calls its stage, nothing else."""

from __future__ import annotations

import io
import sys

from dmmn_qp.cli.app import app

# isort: off
# Each adds its commands to the program, in the order in which the help lists them.
from dmmn_qp.cli import importing, training, predicting, qupath, evaluating, models  # noqa: F401
# isort: on

__all__ = ["app", "run"]


def run() -> None:
    """Runs the ``dmmn-qp`` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names, and terminals, need not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="dmmn-qp", args=sys.argv[1:])
