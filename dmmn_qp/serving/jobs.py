"""Jobs: one after the other in the main thread, with a bounded queue before it; each can be stopped."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from dmmn_qp.errors import ConfigError, InUseError
from dmmn_qp.files.failures import line_of
from dmmn_qp.text import printable

MOST_WAITING: Final = 16
"""Jobs that may wait; more are refused."""

_POLL_S: Final = 0.5
"""How often the main thread looks up, where the system does not wake it."""

_STOPPED: Final = "stopped; nothing half-finished is left under its name"

JobId = str | int
Work = Callable[[], Mapping[str, Any]]


@dataclass(slots=True)
class Job:
    """What was asked for.

    Attributes:
        id: Of the request.
        op: What it is.
        work: Does it; what it returns is told when it is done.
        tell: Sends a reply: ``tell(event, **content)``.
        is_cancelled: Whether it is to be stopped.
    """

    id: JobId
    op: str
    work: Work
    tell: Callable[..., None] = field(repr=False)
    is_cancelled: bool = False


class Jobs:
    """Runs jobs in the order in which they came.

    A job is stopped as Ctrl-C stops a command: the stages know that, and leave behind what goes on or nothing. Only
    the main thread of a process can be stopped so; it is the one that runs the jobs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._ended = False
        self._asked = False
        self._stoppable = False

    @property
    def has_ended(self) -> bool:
        """Whether no more jobs are run."""
        return self._ended

    def submit(self, job: Job) -> int:
        """Puts a job into the queue, and says so before its first reply.

        Returns:
            How many run or wait before it.

        Raises:
            InUseError: Too many wait, or the process is about to end.
            ConfigError: Another one that runs or waits has its id.
        """
        with self._changed:
            if self._ended:
                raise InUseError("the process is about to end; start it again")
            if any(other.id == job.id for other in self._all()):
                raise ConfigError(f'id "{printable(str(job.id))}" is that of a job that runs or waits; take another')
            if len(self._all()) > MOST_WAITING:
                raise InUseError(f"{MOST_WAITING} jobs wait already; ask again when one is done")
            before = len(self._all())
            job.tell("accepted", before=before)
            self._waiting.append(job)
            self._changed.notify_all()
        return before

    def cancel(self, job_id: JobId) -> None:
        """Stops a job: one that waits at once, one that runs at its next step.

        Raises:
            ConfigError: No job that runs or waits has this id.
        """
        with self._changed:
            job = next((job for job in self._all() if job.id == job_id), None)
            if job is None:
                raise ConfigError(f'no job "{printable(str(job_id), 80)}" runs or waits; it may be done already')
            job.is_cancelled = True
            if job is self._running:
                self._interrupt()
                return
            self._waiting.remove(job)
        job.tell("cancelled", text="stopped before it began")

    def listed(self) -> list[dict[str, Any]]:
        """The jobs, the one that runs first."""
        with self._changed:
            return [{"id": job.id, "op": job.op, "running": job is self._running} for job in self._all()]

    def end(self) -> None:
        """Ends `run`: what waits is forgotten, what runs is stopped. Repeated, the latter is stopped more roughly."""
        with self._changed:
            self._ended = True
            self._waiting.clear()
            if self._running is not None:
                self._running.is_cancelled = True
                self._interrupt()
            self._changed.notify_all()

    def run(self) -> None:
        """Runs jobs until `end`; in the main thread."""
        with self._signals():
            while (job := self._next()) is not None:
                self._do(job)

    def _all(self) -> list[Job]:
        return [*([self._running] if self._running else []), *self._waiting]

    def _next(self) -> Job | None:
        """The next job, as soon as there is one; None at the end."""
        with self._changed:
            self._running, self._asked = None, False  # what `cancel` sent before is met by now
            while not self._waiting and not self._ended:
                self._changed.wait(_POLL_S)
            if self._ended:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _do(self, job: Job) -> None:
        """Does a job and tells what came of it, whatever that is."""
        try:
            event, content = self._outcome(job)
        except KeyboardInterrupt as stopped:
            self._stoppable = False  # before anything is called, in which another signal could be met
            event, content = "cancelled", {"text": printable(str(stopped)) or _STOPPED}
        finally:
            self._stoppable = False
        with self._changed:
            self._ended |= event == "cancelled" and not job.is_cancelled  # a stage met a signal from elsewhere itself
            self._running = None
        job.tell(event, **content)

    def _outcome(self, job: Job) -> tuple[str, dict[str, Any]]:
        self._stoppable = True
        if job.is_cancelled:  # before it could be interrupted
            raise KeyboardInterrupt
        try:
            return "done", dict(job.work())
        except SystemExit:
            return "failed", {"text": "the job ended by itself; look at standard error"}
        except Exception as error:
            return "failed", {"text": printable(line_of(error))}

    def _interrupt(self) -> None:
        """Does to the main thread what Ctrl-C does; a real signal, where there are some, ends waiting too."""
        self._asked = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stops the job that was cancelled, if it still runs; a signal from elsewhere ends everything."""
        if number != signal.SIGINT or not self._asked:
            self._ended = True
            self._waiting.clear()
            if self._running is not None:
                self._running.is_cancelled = True
        if self._stoppable and self._running is not None and self._running.is_cancelled:
            raise KeyboardInterrupt

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def leave_at_once() -> None:
    """Ends the process with what it started, when it does not end by itself."""
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)
