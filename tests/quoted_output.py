"""What docs/getting-started.md quotes of what the program prints."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPOSITORY

_PAGE = REPOSITORY / "docs" / "getting-started.md"
_TIME = re.compile(r"\d+ min \d+ s|\d+ s\b")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def demo_commands() -> list[tuple[str, list[str]]]:
    """Each command of the demo, and the lines that are quoted of it; ``...`` among them is left out."""
    demo = _PAGE.read_text("utf-8").split("## The demo")[1].split("## Your own project")[0]
    parts = re.split(r"^```console\n(.*)\n```", demo, flags=re.MULTILINE)[1:]
    quoted = [re.findall(r"^```text\n(.*?)^```", after, re.MULTILINE | re.DOTALL) for after in parts[1::2]]
    return [
        (command, [line for block in blocks for line in block.splitlines() if line.strip() != "..."])
        for command, blocks in zip(parts[::2], quoted, strict=True)
    ]


def check_quoted(quoted: list[str], printed: str, *, exactly: bool = False) -> None:
    """Checks that lines are printed, in their order; times may differ, and what a network computes by a little."""
    rest = iter(printed.splitlines())
    for line in quoted:
        assert any(_is_same(line, other, exactly=exactly) for other in rest), f"stale: {line!r}; printed:\n{printed}"


def _is_same(quoted: str, printed: str, *, exactly: bool) -> bool:
    if exactly:
        return quoted == printed
    lines = [_TIME.sub("TIME", line) for line in (quoted, printed)]
    words = {re.sub(" +", " ", _NUMBER.sub("#", line)) for line in lines}
    one, other = ([float(n.replace(",", "")) for n in _NUMBER.findall(line)] for line in lines)
    return len(words) == 1 and one == pytest.approx(other, rel=0.05, abs=0.02)
