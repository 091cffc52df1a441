"""`dmmn-qp doctor`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command

if TYPE_CHECKING:
    from dmmn_qp.doctor.findings import Finding

_WIDEST: Final = 120


@app.command("doctor", cls=Command)
def doctor_command(
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Import, train and predict a tiny slide besides, in a temporary folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Says whether everything is there that the other commands need, and what to do about what is not."""
    from dmmn_qp.doctor import examine

    findings: list[Finding] = []
    for finding in examine(self_test=self_test):
        findings.append(finding)
        if not as_json:
            _say(finding)
    _conclude(findings, as_json=as_json)
    raise typer.Exit(int(any(finding.level == "fail" for finding in findings)))


def _say(finding: Finding) -> None:
    """Prints a finding: on a terminal within its width, in a log in one line."""
    from dmmn_qp.doctor.findings import COLORS

    width = min(_WIDEST, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None
    first, *others = finding.lines(width)
    typer.echo(f"{typer.style(f'{finding.level:<4}', fg=COLORS[finding.level])}  {first}")
    for line in others:
        typer.echo(f"{'':6}{line}")


def _conclude(findings: Sequence[Finding], *, as_json: bool) -> None:
    """Prints all for programs, or how many of each kind there were for people."""
    counts = {level: sum(finding.level == level for finding in findings) for level in ("ok", "warn", "fail")}
    if as_json:
        content = {**counts, "findings": [finding.as_json() for finding in findings]}
        typer.echo(json.dumps(content, indent=2, default=str))
        return
    verdict = "broken" if counts["fail"] else "fit for work"
    typer.echo(f"{counts['ok']} ok, {counts['warn']} warn, {counts['fail']} fail: {verdict}")
