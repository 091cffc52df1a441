"""What a process of `run_in_processes` does: it takes tasks from standard input, and answers on standard output.

What it is sent comes from the process that began it, and what it answers goes there: no file is read this way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Any, Final

from dmmn_qp.engines.sending import packed, packed_error, receive, send, unpacked

TOLD_S: Final = 0.1
"""Shortest time between two words on the progress of a task."""

READY: Final = ("ready", None)
"""The first answer. Each task is answered with any number of ("progress", how much more), and at last with ("done",
result) or ("failed", error as `packed_error` makes it).
"""


def serve() -> None:
    """Does tasks until there are no more, or until nobody is there who wants them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who began it ends it
    given, answers = _pipes()
    tasks: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_take, args=(given, tasks), daemon=True).start()
    function = unpacked(tasks.get())
    send(answers, READY)
    while True:
        send(answers, _outcome(function, tasks.get(), answers))


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the other process; what libraries print goes to standard error instead."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, answers


def _take(given: IO[bytes], tasks: SimpleQueue[bytes]) -> None:
    """Takes what is sent, at any time: the end of it ends this process, in the middle of a task too."""
    with suppress(Exception):
        while True:
            tasks.put(receive(given))
    os._exit(0)


def _outcome(function: Any, task: bytes, answers: IO[bytes]) -> tuple[str, bytes]:
    """The answer to a task."""
    done, told = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, told
        done += amount
        if time.monotonic() - told >= TOLD_S:
            send(answers, ("progress", done))
            done, told = 0, time.monotonic()

    try:
        answer = packed(function(unpacked(task), advance))
    except Exception as error:  # of any kind: it is the task's, and told to who gave it
        error.add_note("in another process:\n" + "".join(traceback.format_exception(error)))
        return "failed", packed_error(error)
    send(answers, ("progress", done))
    return "done", answer
