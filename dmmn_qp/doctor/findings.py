"""What a check found, and how it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final, Literal

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.text import printable, words_of

Level = Literal["ok", "warn", "fail"]

Check = Callable[[], Iterable["Finding"]]

COLORS: Final[dict[Level, str]] = {"ok": "green", "warn": "yellow", "fail": "red"}

_INDENT: Final = 6
"""Columns that the level takes."""

_LONGEST: Final = 600
_NARROWEST: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        subject: What was looked at.
        level: ``ok``; ``warn`` where something is slower or missing that not everybody needs; ``fail`` where the
            commands cannot do their work.
        text: What was found.
        way_out: What to do; empty where nothing has to be done.
        figures: What was measured, for programs.
    """

    subject: str
    level: Level
    text: str
    way_out: str = ""
    figures: tuple[tuple[str, Any], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        said = {"subject": self.subject, "level": self.level, "text": printable(self.text, _LONGEST)}
        return {**said, "way_out": printable(self.way_out, _LONGEST), "figures": dict(self.figures)}

    def lines(self, width: int | None) -> list[str]:
        """The same for people, without the level, which has a column of its own.

        Args:
            width: Of the terminal, within which lines are broken; None for one line, as for a log.
        """
        said = printable(f"{self.subject}: {self.text}", _LONGEST)
        parts = [said, f"-> {printable(self.way_out, _LONGEST)}"] if self.way_out else [said]
        if width is None:
            return ["  ".join(parts)]
        room = max(_NARROWEST, width - _INDENT)
        return [line for part in parts for line in wrap(part, room, break_on_hyphens=False)]


def isolated(subject: str, check: Check) -> Iterator[Finding]:
    """What a check finds; its own failure is a finding too.

    Args:
        subject: What is looked at.
        check: The check.
    """
    try:
        yield from check()
    except DmmnQpError as error:
        yield Finding(subject, "fail", str(error))
    except Exception as error:  # of any kind: what is broken is what is looked for
        yield Finding(subject, "fail", f"cannot be looked at ({words_of(error)})", "see the lines about libraries")


def in_gib(count: float) -> str:
    """``1.5 GiB``, ``64 MiB``."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
