"""The command line. A command translates its options and calls its stage, nothing else."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from dmmn_qp.cli.app import app, wants_tracebacks
from dmmn_qp.files.failures import line_of_library

# isort: off
# Each adds its commands to the program, in the order in which the help lists them.
try:
    from dmmn_qp.cli import importing, training, predicting, qupath, suggesting, loop, evaluating, comparing, models  # noqa: F401
    from dmmn_qp.cli import collecting, reproducing, cleaning, serving  # noqa: F401
except Exception as error:  # of any kind: libraries that do not fit each other raise ValueError and more
    broken: Exception | None = error
else:
    broken = None
from dmmn_qp.cli import doctor  # noqa: F401 (which says what is missing)
# isort: on

__all__ = ["app", "run"]

_WITHOUT_LIBRARIES = (["doctor"], ["--version"])


def run() -> None:
    """Runs the ``dmmn-qp`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names, and terminals, need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        if broken is not None and sys.argv[1:2] not in _WITHOUT_LIBRARIES:
            if wants_tracebacks():
                raise broken
            sys.exit(f"error: {line_of_library(broken)}")
        app(prog_name="dmmn-qp", args=sys.argv[1:])
    finally:
        _let_go(sys.stdout)
        _let_go(sys.stderr)


def _let_go(stream: object) -> None:
    """Writes out what is left; where nobody takes it any more, Python is not to complain at its end."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
