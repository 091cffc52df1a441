"""What the stages report, as replies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console

from dmmn_qp.console import Reporter, Task
from dmmn_qp.text import printable

PROGRESS_S: Final = 0.1
"""Shortest time between two replies on the progress of a task; its beginning and end are always told."""

Tell = Callable[..., None]
"""Sends a reply: ``tell(event, **content)``."""


class LineReporter(Reporter):
    """Reports to whoever reads the replies.

    Args:
        tell: Sends a reply of the job that reports.
    """

    def __init__(self, tell: Tell) -> None:
        super().__init__(Console(quiet=True))
        self._tell = tell

    def say(self, text: str) -> None:
        """Sends a line of the log."""
        self._tell("log", text=self._prefix + printable(text))

    def heading(self, text: str) -> None:
        """Sends a line that begins a part."""
        self.say(text)

    def warn(self, text: str) -> None:
        """Sends a warning."""
        self._tell("warning", text=printable(text))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Sends a table, a line for each row."""
        for row in (header, *rows):
            self.say("  ".join(row))

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, after: float = 0) -> Iterator[Task]:
        """A task of which replies tell the progress."""
        del after
        task = _ToldTask(self, description, total, done, self._tell)
        task.tell("")
        yield task


class _ToldTask(Task):
    """A running task that tells how far it is."""

    def __init__(self, reporter: Reporter, description: str, total: int, done: int, tell: Tell) -> None:
        super().__init__(reporter, description, total, done)
        self._tell = tell
        self._told = 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Counts work as done."""
        self._done += amount
        if self._done >= self._total or time.monotonic() - self._told >= PROGRESS_S:
            self.tell(note)

    def tell(self, note: str) -> None:
        """Sends how far it is."""
        self._told = time.monotonic()
        content: dict[str, Any] = {"note": printable(note)} if note else {}
        self._tell("progress", done=self._done, total=self._total, text=printable(self._description), **content)
