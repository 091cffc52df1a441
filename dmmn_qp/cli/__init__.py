"""The command line. A command translates its options and calls its stage, nothing else."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress

from dmmn_qp.cli.app import app
from dmmn_qp.text import words_of

# isort: off
# Each adds its commands to the program, in the order in which the help lists them.
broken: Exception | None = None
try:
    from dmmn_qp.cli import importing, training, predicting, qupath, suggesting, loop, evaluating, comparing, models  # noqa: F401
    from dmmn_qp.cli import collecting, reproducing, cleaning, serving  # noqa: F401
except (ImportError, OSError) as error:  # a library is missing or does not fit: doctor says which
    broken = error
from dmmn_qp.cli import doctor  # noqa: E402, F401 (which says what is missing)
# isort: on

__all__ = ["app", "run"]


def run() -> None:
    """Runs the ``dmmn-qp`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names, and terminals, need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        if broken is not None and sys.argv[1:2] not in _WITHOUT_LIBRARIES:
            sys.exit(f"error: a library cannot be loaded ({words_of(broken)}); dmmn-qp doctor says more")
        app(prog_name="dmmn-qp", args=sys.argv[1:])
    finally:
        _let_go(sys.stdout)
        _let_go(sys.stderr)


_WITHOUT_LIBRARIES = (["doctor"], ["--version"])


def _let_go(stream: object) -> None:
    """Writes out what is left; where nobody takes it any more, Python is not to complain at its end."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
