"""The ledger of benchmarks: how figures came about, so that ``dmmn-qp reproduce`` can tell whether they still come out.

Each benchmark with ``--out FOLDER`` leaves FOLDER/run.json: the command, code, libraries, kind of machine, and its
figures by name. ``benchmarks/ledger/`` keeps those of figures that the documents quote, one file a benchmark.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.provenance import describe_run, source_digest
from dmmn_qp.workflows.benchmarks import (
    BENCHMARKS,
    FIGURES,
    MACHINE,
    SOURCES,
    STAGE,
    BenchmarkOptions,
    machine,
    programs,
)

LEDGER = Path(__file__).parent / "ledger"
"""The figures that the documents quote."""


def write_run(out: Path, benchmark: str, given: argparse.Namespace, figures: Mapping[str, float], started: str) -> None:
    """Writes how figures came about.

    Args:
        out: The folder, which is made if it is not there.
        benchmark: Name of the program.
        given: Its arguments.
        figures: What came of it, by name.
        started: When it began, see `now`.
    """
    values = {name: getattr(given, name) for name in BENCHMARKS[benchmark]}
    options = BenchmarkOptions.model_validate(
        {
            "benchmark": benchmark,
            "given": {name: str(value) if isinstance(value, Path) else value for name, value in values.items()},
        }
    )
    told = {FIGURES: dict(figures), MACHINE: machine(), SOURCES: source_digest(programs())}
    command = ["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]
    out.mkdir(parents=True, exist_ok=True)
    run = describe_run(STAGE, options.model_dump(mode="json"), started, command=command, **told)
    write_json(out / RUN_FILE, run)
