"""Lines of JSON on two streams: bounded when they are read, whole when they are written."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final

from dmmn_qp.errors import ConfigError
from dmmn_qp.text import shorten

MAX_LINE_BYTES: Final = 2**20
"""Longest line that is read; the rest of a longer one is passed over."""

_CHUNK_BYTES: Final = 2**16


class LineTooLong:
    """Stands for a line that was passed over."""


def read_lines(stream: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[bytes | LineTooLong]:
    """Reads lines until the stream ends; what follows the last line end is no line.

    Args:
        stream: Unbuffered, or with ``read1``; of a pipe each piece is taken as it comes.
        limit: Most bytes of a line, its end not counted. No more than these and one piece are held.

    Yields:
        A line without its end, or a `LineTooLong` in place of one.
    """
    read = getattr(stream, "read1", stream.read)
    begun, too_long = bytearray(), False
    while piece := _piece(read):
        *ends, rest = piece.split(b"\n")
        for end in ends:
            too_long = too_long or len(begun) + len(end) > limit
            yield LineTooLong() if too_long else bytes(begun + end)
            begun, too_long = bytearray(), False
        too_long = too_long or len(begun) + len(rest) > limit
        begun = bytearray() if too_long else begun + rest


def _piece(read: Callable[[int], bytes | None]) -> bytes:
    """The next bytes; none at the end, which a broken stream is too."""
    try:
        return read(_CHUNK_BYTES) or b""
    except (OSError, ValueError):
        return b""


def parse_object(line: bytes) -> dict[str, Any]:
    """Reads a line as an object of JSON.

    Raises:
        ConfigError: It is not UTF-8, no JSON, nested too deep, holds what is no number, or is no object.
    """
    try:
        found = json.loads(line.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError:
        raise ConfigError("the line is not UTF-8; write it so") from None
    except RecursionError:
        raise ConfigError("the line is nested too deep; no request is") from None
    except ValueError as error:
        raise ConfigError(f"the line is no JSON ({shorten(str(error))}); write an object in one line") from None
    if not isinstance(found, dict):
        raise ConfigError("the line is no object of JSON; write one such as {...}")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shorten(text, 20)} is too large")
    return number


class LineWriter:
    """Writes objects as lines, from any thread. A reader that has gone is no error: who wants to know is called once.

    Args:
        stream: Where to.
        on_closed: Called when nobody reads any more.
    """

    def __init__(self, stream: BinaryIO, on_closed: Callable[[], None] = lambda: None) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._closed = False
        self.on_closed = on_closed

    def send(self, content: Mapping[str, Any]) -> None:
        """Writes one object; paths and what else JSON has not are written as text."""
        line = json.dumps(content, allow_nan=False, default=str).encode("ascii") + b"\n"
        with self._lock:
            if self._closed:
                return
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                self._closed = True
        if self._closed:
            self.on_closed()


def own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Takes standard input and output for the protocol alone, so that nothing else can read or write between its lines.

    What libraries and their child processes print goes to standard error from now on, and they read nothing. No child
    inherits the two streams, so that the end of this process is seen at once.

    Returns:
        What to read requests from, and what to write replies to.
    """
    sys.stdout.flush()
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb", buffering=0), os.fdopen(replies, "wb")
