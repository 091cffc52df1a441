"""The engine of several processes on this machine.

Each is a new interpreter, as with the start method "spawn": that works on every system, whatever threads and open files
there are. The program that was started is not loaded into them, so scripts need no guard. Each has a thread here, which
sends it one task after the other; what they are told ends up in one queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from dmmn_qp.engines.base import Done, Failed, Function, Outcomes, Progressed, Result, Task
from dmmn_qp.engines.child import READY
from dmmn_qp.engines.here import done_here
from dmmn_qp.engines.sending import TORN, packed, receive, send, unpacked, unpacked_error
from dmmn_qp.errors import WorkerLostError

SERVE: Final = "from dmmn_qp.engines.child import serve; serve()"
"""What a process runs."""

_HEARD_S: Final = 0.5
"""Longest time in which Ctrl-C is not heard, on systems where waiting for a queue is not interrupted."""


def run_in_processes(
    function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed
) -> Outcomes[Result]:
    """See `Engine`. Tasks for which no process can be begun are done in this one."""
    team = _Team(function, tasks, workers)
    outcomes: dict[int, Done[Result] | Failed] = {}
    try:
        for number, task in enumerate(tasks):
            while number not in outcomes and team.works():
                for about, word, what in team.heard():
                    if word == "progress":
                        progressed(about, what)
                    else:
                        outcomes[about] = what
            if number not in outcomes:
                outcomes[number] = done_here(function, task, partial(progressed, number))
            yield outcomes.pop(number)
    finally:
        team.end()


class _Team:
    """Processes that share tasks, each with its thread.

    Args:
        function: What they do.
        tasks: The tasks.
        workers: How many processes.
    """

    def __init__(self, function: Any, tasks: Sequence[Any], workers: int) -> None:
        self._function = packed(function)
        self._tasks = tasks
        self._left = deque(range(len(tasks)))
        self._words: SimpleQueue[tuple[int, str, Any]] = SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = False
        self._threads = [threading.Thread(target=self._lead, daemon=True) for _ in range(min(workers, len(tasks)))]
        for thread in self._threads:
            thread.start()

    def works(self) -> bool:
        """Whether anything may still be heard."""
        return any(thread.is_alive() for thread in self._threads) or not self._words.empty()

    def heard(self) -> Iterator[tuple[int, str, Any]]:
        """What is heard next: (number of the task, "progress" or "outcome", how much or what); nothing for a while."""
        with suppress(Empty):
            yield self._words.get(timeout=_HEARD_S)

    def end(self) -> None:
        """Ends all processes, whatever they do."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()
        for thread in self._threads:
            thread.join()

    def _lead(self) -> None:
        """Has tasks done, by a new process where one was lost; ends where there are none, or none can be begun."""
        while self._left and (process := self._begun()) is not None:
            try:
                while (number := self._next()) is not None and self._is_done_by(process, number):
                    pass
            finally:
                self._dismiss(process)

    def _next(self) -> int | None:
        """The number of a task that nobody has taken."""
        try:
            return None if self._ended else self._left.popleft()
        except IndexError:
            return None

    def _begun(self) -> subprocess.Popen[bytes] | None:
        """A new process that is ready; None where there cannot be one."""
        with self._lock:
            if self._ended:
                return None
            try:
                process = _start()
            except OSError:
                return None
            self._running.add(process)
        try:
            send(process.stdin, self._function)
            if receive(process.stdout) == READY:
                return process
        except TORN:
            pass
        self._dismiss(process)
        return None

    def _is_done_by(self, process: subprocess.Popen[bytes], number: int) -> bool:
        """Has a task done; whether the process can do another."""
        try:
            task = packed(self._tasks[number])
        except Exception as error:  # of any kind: what a task is made of says what it cannot
            return self._tell(number, Failed(error))
        try:
            send(process.stdin, task)
            while (answer := receive(process.stdout))[0] == "progress":
                self._words.put((number, *answer))
        except TORN:
            process.kill()
            return not self._tell(number, Failed(_lost(process.wait())))
        try:
            outcome = Done(unpacked(answer[1])) if answer[0] == "done" else Failed(unpacked_error(answer[1]))
        except Exception as error:  # of any kind: what a result is made of says what it cannot
            outcome = Failed(error)
        return self._tell(number, outcome)

    def _tell(self, number: int, outcome: Done[Any] | Failed) -> bool:
        self._words.put((number, "outcome", outcome))
        return True

    def _dismiss(self, process: subprocess.Popen[bytes]) -> None:
        """Ends a process that has nothing to do."""
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        with self._lock:
            self._running.discard(process)


def _start() -> subprocess.Popen[bytes]:
    """Begins a process; Ctrl-C does not reach it, only this one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    if sys.flags.utf8_mode:
        environment["PYTHONUTF8"] = "1"
    apart: dict[str, Any] = {"process_group": 0}
    if sys.platform == "win32":
        apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **apart
    )


def _lost(code: int) -> WorkerLostError:
    """The error of a process that ended; ``code`` is how, negative for a signal."""
    how = f"exit code {code}"
    with suppress(ValueError):
        how = signal.Signals(-code).name if code < 0 else how
    return WorkerLostError(how)
