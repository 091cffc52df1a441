"""What a process and its workers say to each other: those that it began, over their pipes, or those of Ray.

This is the only place where we pickle anything: functions, tasks, results and errors are Python's own objects, and both
ends are the same program. Nothing that comes from a file or a user is ever read here; from the network comes what a
cluster of Ray brings, and that could run any program anyway.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from itertools import pairwise
from typing import IO, Any, Final

TORN: Final = (OSError, EOFError, pickle.UnpicklingError)
"""Errors of `receive` where the other end has ended, or says something else."""


def packed(value: Any) -> bytes:
    """A value as bytes; raises an error of some kind where it cannot be sent."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Any:
    """The value of `packed` at the other end."""
    return pickle.loads(data)  # noqa: S301 (of this program, by its own pipe or by Ray)


def send(pipe: IO[bytes] | None, value: Any) -> None:
    """Sends a value."""
    assert pipe is not None
    data = packed(value)
    pipe.write(len(data).to_bytes(_LENGTH, "little") + data)
    pipe.flush()


def receive(pipe: IO[bytes] | None) -> Any:
    """The next value that is sent.

    Raises:
        EOFError: There is none.
    """
    assert pipe is not None
    length = pipe.read(_LENGTH)
    data = pipe.read(int.from_bytes(length, "little")) if len(length) == _LENGTH else b""
    if not data:
        raise EOFError("the other process has ended")
    return unpacked(data)


_LENGTH: Final = 8  # bytes


def packed_error(error: Exception) -> bytes:
    """An error with what it was raised for; each that cannot be sent is said in words."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return packed([_whole(cause) for cause in causes])


def unpacked_error(data: bytes) -> Exception:
    """The error of `packed_error` at the other end, linked to its causes."""
    causes: list[BaseException] = unpacked(data)
    for error, cause in pairwise(causes):
        error.__cause__ = cause
    first = causes[0]
    return first if isinstance(first, Exception) else RuntimeError(str(first))


def _whole(error: BaseException) -> BaseException:
    """An error that arrives as it is."""
    with suppress(Exception):
        unpacked(packed(error))
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
