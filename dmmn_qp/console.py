"""Telling the user what happens: a progress bar on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from typing import Any, TextIO, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID
from rich.progress import Task as BarTask
from rich.table import Column, Table
from rich.text import Text

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.text import kind_of, names_text, printable, shorten

LINE_INTERVAL_S = 20.0
"""Longest silence in a log while a task runs."""

WIDEST_TABLE = 1000
"""Characters that a table in a log may be wide."""

_LONGEST_REASON = 300
"""Characters of an error that are shown in a warning."""

_WIDEST_BAR, _NARROWEST_BAR, _SHORTEST_DESCRIPTION = 40, 4, 4
_COUNT_AND_TIME = 18
"""Columns that ``100/100 0:01:23`` takes with the blanks around."""


def _plain(text: str) -> str:
    """A text as Rich prints it as it is: names come from files of others."""
    return escape(printable(text))


class Task:
    """A running task that can be advanced."""

    def __init__(self, reporter: Reporter, description: str, total: int, done: int = 0, after: float = 0) -> None:
        self._reporter = reporter
        self._after = after
        self._description = description
        self._total = total
        self._done = self._done_before = done
        self._started = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._bar_task: TaskID | None = None

    @property
    def seconds_per_unit(self) -> float:
        """Mean time of the units counted so far; 0 before the first."""
        counted = self._done - self._done_before
        return (time.monotonic() - self._started) / counted if counted else 0.0

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Counts work as done.

        Args:
            amount: How much.
            note: What to show beside it, such as the loss; of several things, with two blanks between them, the last
                ones are left out where there is no room.
        """
        self._done += amount
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, advance=amount, note=_plain(note))
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_INTERVAL_S and self._done < self._total:
            self._last_line = now
            eta = self.seconds_per_unit * (self._total - self._done + self._after)
            until = f"  ETA {duration(eta)}" if eta else ""  # nothing is known of it before the first
            self._reporter.say(f"  {self._description}: {self._done}/{self._total}  {note}{until}".rstrip())


class _Unfailing:
    """A stream that never stops the work: what cannot be written is lost.

    A terminal may be gone, the reader of a pipe have ended, the disk of a log be full. What the encoding of a stream
    has not is written as an escape.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            with suppress(OSError, ValueError):
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError):
            return 0
        return len(text)

    def flush(self) -> None:
        """Passes on what was written."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Reporter:
    """Prints messages, warnings and progress; of several processes that work together, only the first does.

    What cannot be printed stops nothing.

    Args:
        console: Where to; standard output unless given.
    """

    def __init__(self, console: Console | None = None) -> None:
        quiet = any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK"))
        output, errors = (cast(TextIO, _Unfailing(stream)) for stream in (sys.stdout, sys.stderr))
        self._console = console or Console(file=output, highlight=False, soft_wrap=True, quiet=quiet)
        self._errors = Console(file=errors, highlight=False, soft_wrap=True, quiet=quiet)
        self._left_out: set[str] = set()
        self._of_kind: dict[str, list[tuple[str, str]]] = {}
        self._prefix = ""

    def as_comments(self) -> Reporter:
        """A reporter that prints to the same place, each line a comment of TOML."""
        other = copy(self)
        other._prefix = "# "
        return other

    def _print(self, shown: str | Table, **how: bool) -> None:
        if not self._prefix:
            self._console.print(shown, **how)  # type: ignore[arg-type]
            return
        with self._console.capture() as captured:
            self._console.print(shown, **how)  # type: ignore[arg-type]
        for line in captured.get().splitlines():
            self._console.out(f"{self._prefix}{line}".rstrip(), highlight=False)

    def say(self, text: str) -> None:
        """Prints a line as it is, whatever is in it."""
        self._print(_plain(text))

    def heading(self, text: str) -> None:
        """Prints a line that begins a part."""
        self._print(f"[bold]{_plain(text)}[/bold]")

    def warn(self, text: str) -> None:
        """Prints a warning to standard error."""
        self._errors.print(f"[yellow]warning:[/yellow] {_plain(text)}")

    def warn_of(self, subject: str, text: str, between: str = ": ") -> None:
        """Prints a warning of one of many slides; those of a kind that was printed are counted (`counting_warnings`).

        Args:
            subject: The slide.
            text: What is said of it.
            between: What stands between them.
        """
        said = self._of_kind.setdefault(kind_of(text), [])
        said.append((subject, text))
        if len(said) == 1:
            self.warn(f"{subject}{between}{text}")

    @contextmanager
    def counting_warnings(self) -> Iterator[None]:
        """Runs work on many slides; says at its end, an error too, of how many besides each kind of warning was."""
        try:
            yield
        finally:
            for (first, text), *others in self._of_kind.values():
                if others:
                    names = names_text(list(dict.fromkeys(name for name, _ in others)))
                    self.warn(f"{len(others)} more like that of {first} ({shorten(text)}): {names}")
            self._of_kind.clear()

    @contextmanager
    def optional(self, what: str) -> Iterator[None]:
        """Runs a block that only shows the work, such as a picture or a log: an error of any kind is a warning.

        The work goes on behind the block. Each thing is warned of once.

        Args:
            what: What the block makes, as the subject of a sentence.
        """
        try:
            yield
        except Exception as error:
            if what not in self._left_out:
                self._left_out.add(what)
                self.warn(f"{what} is left out, all else goes on ({_reason(error)})")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table, its first column to the left and the others to the right.

        On a terminal that is too narrow for it, cells are wrapped; in a log it is as wide as it needs.
        """
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column, title in enumerate(header):
            table.add_column(_plain(title), justify="right" if column else "left")
        for row in rows:
            table.add_row(*(_plain(cell) for cell in row))
        if not self._console.is_terminal:
            table.width = self._console.measure(table, options=self._console.options.update(width=WIDEST_TABLE)).maximum
        self._print(table, crop=False, soft_wrap=False)

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, after: float = 0) -> Iterator[Task]:
        """A task of ``total`` units: a bar that vanishes when it is done, or now and then a line.

        Args:
            description: What is being done.
            total: Number of units.
            done: How many of them were done before.
            after: What the user waits for besides, in such units: the remaining time is that of all.
        """
        task = Task(self, description, total, done, after)
        if not self._console.is_terminal:
            yield task
            return
        with Progress(*_columns(self._console), console=self._console, transient=True) as bar:
            task._bar, task._bar_task = (
                bar,
                bar.add_task(_plain(description), total=total, completed=done, note="", after=after),
            )
            yield task


def _columns(console: Console) -> tuple[ProgressColumn, ...]:
    """What is being done, a bar, count, remaining time, and what else is to be said of it.

    Where there is no room for all, the bar becomes shorter, notes go, the last ones first, and the end of a long
    description; count and time stay.
    """
    bar_width = min(_WIDEST_BAR, max(_NARROWEST_BAR, console.width // 4))
    longest = max(_SHORTEST_DESCRIPTION, min(console.width // 2, console.width - bar_width - _COUNT_AND_TIME))
    kept = Column(no_wrap=True)
    return (
        _Description(longest),
        BarColumn(bar_width=bar_width, table_column=kept.copy()),
        MofNCompleteColumn(table_column=kept.copy()),
        _Remaining(table_column=kept.copy()),
        _Notes(),
    )


class _Description(ProgressColumn):
    """What is being done, which may be the name of a slide."""

    def __init__(self, longest: int) -> None:
        super().__init__(Column(no_wrap=True))
        self._longest = longest

    def render(self, task: BarTask) -> Text:
        text = Text.from_markup(task.description)
        text.truncate(self._longest, overflow="ellipsis")
        return text


class _Remaining(ProgressColumn):
    """The time until all is done, with what comes after the task."""

    max_refresh = 0.5

    def render(self, task: BarTask) -> Text:
        if not task.speed or task.remaining is None:
            return Text("-:--:--", style="progress.remaining")
        seconds = int((task.remaining + task.fields["after"]) / task.speed)
        minutes, hours = seconds // 60 % 60, seconds // 3600
        return Text(f"{hours}:{minutes:02d}:{seconds % 60:02d}", style="progress.remaining")


class _Notes(ProgressColumn):
    """What else is to be said, as much of it as there is room for."""

    def render(self, task: BarTask) -> _Fitting:
        return _Fitting(Text.from_markup(task.fields["note"]).plain.split("  "))


class _Fitting:
    """The first parts of a line that fit."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, Text("  ".join(self._parts)).cell_len)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = Text()
        for part in self._parts:
            longer = Text("  ").join((shown, Text(part))) if shown else Text(part)
            if longer.cell_len > options.max_width:
                break
            shown = longer
        yield shown


def _reason(error: Exception) -> str:
    """An error in one line, without the temporary name of a file; one that nobody foresaw, with its kind."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())[:_LONGEST_REASON]
    return text if text and isinstance(error, OSError | DmmnQpError) else f"{type(error).__name__}: {text}".rstrip(": ")


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"
