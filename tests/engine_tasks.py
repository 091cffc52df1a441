"""What engines are asked to do in their tests; it is loaded in their processes too."""

import errno
import os
import signal
import threading
import time
from pathlib import Path


class UnpicklableError(Exception):
    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def work(task, advance):
    """Does what a task says, which is a word, or a word and what it is about."""
    word, about = task if isinstance(task, tuple) else (task, None)
    return {
        "square": lambda: about * about,
        "steps": lambda: [advance(1) for _ in range(about)] and about,
        "slow": lambda: time.sleep(about) or about,
        "process": os.getpid,
        "print": lambda: (print("noise"), os.write(1, b"noise")) and "printed",
        "wrong": lambda: raised(ValueError("no number")),
        "full": lambda: raised(OSError(errno.ENOSPC, "No space left on device", "/disk/file"), RuntimeError("closed")),
        "odd": lambda: raised(UnpicklableError(1, 2)),
        "function": lambda: lambda: None,
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "left": lambda: os._exit(3),
        "endless": lambda: endless(about),
    }[word]()


def raised(first, then=None):
    if then is None:
        raise first
    try:
        raise first
    except type(first):
        raise then from None if then is first else first


def endless(note):
    """Says in a file who it is, and goes on until it is ended."""
    Path(note, str(os.getpid())).touch()
    threading.Event().wait()
