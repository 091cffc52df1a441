"""What a process of `run_in_processes` does: it takes tasks from standard input, and answers on standard output.

What it is sent comes from the process that began it, and what it answers goes there: no file is read this way.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from itertools import pairwise
from queue import SimpleQueue
from typing import IO, Any, Final

TOLD_S: Final = 0.1
"""Shortest time between two words on the progress of a task."""

READY: Final = ("ready", None)
"""The first answer. Each task is answered with any number of ("progress", how much more), and at last with ("done",
result) or ("failed", error as `sendable` makes it).
"""


def serve() -> None:
    """Does tasks until there are no more, or until nobody is there who wants them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    given, answers = _pipes()
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_take, args=(given, tasks), daemon=True).start()
    function = pickle.loads(tasks.get())  # noqa: S301 (of the process that began this one)
    _say(answers, READY)
    while True:
        _say(answers, _outcome(function, tasks.get(), answers))


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the other process; what libraries print goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def _take(given: IO[bytes], tasks: SimpleQueue[bytes]) -> None:
    """Takes what is sent, at any time: the end of it ends this process, in the middle of a task too."""
    with suppress(Exception):
        while True:
            tasks.put(pickle.load(given))  # noqa: S301 (bytes, of the process that began this one)
    os._exit(0)


def _say(answers: IO[bytes], answer: tuple[str, Any]) -> None:
    pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
    answers.flush()


def _outcome(function: Any, task: bytes, answers: IO[bytes]) -> tuple[str, bytes]:
    """The answer to a task."""
    done, told = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, told
        done += amount
        if time.monotonic() - told >= TOLD_S:
            _say(answers, ("progress", done))
            done, told = 0, time.monotonic()

    try:
        result = function(pickle.loads(task), advance)  # noqa: S301 (of the process that began this one)
        answer = pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return "failed", sendable(error)
    _say(answers, ("progress", done))
    return "done", answer


def sendable(error: Exception) -> bytes:
    """An error with what it was raised for, pickled; each that cannot be is said in words."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    error.add_note("in another process:\n" + "".join(traceback.format_exception(error)))
    return pickle.dumps([_whole(cause) for cause in causes])


def _whole(error: BaseException) -> BaseException:
    """An error that can be pickled and read again."""
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def received(data: bytes) -> Exception:
    """The error that `sendable` made fit to be sent, linked to its causes."""
    causes: list[BaseException] = pickle.loads(data)  # noqa: S301 (of a process that this one began)
    for error, cause in pairwise(causes):
        error.__cause__ = cause
    first = causes[0]
    return first if isinstance(first, Exception) else RuntimeError(str(first))
