"""What web servers answer to a request for a part of a file, and where they may send to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from dmmn_qp.errors import SlideUnreachableError
from dmmn_qp.files.patience import AgainError, unreachable
from dmmn_qp.text import shorten

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PIECE: Final = 1 << 18
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes of a file, its whole size, and its version."""

    data: bytes
    size: int
    version: str


def redirected(here: str, location: str, shown: str) -> str:
    """Returns where a server sends to, if that is on the same one.

    Raises:
        SlideUnreachableError: It is on another one, or would no longer be encrypted.
    """
    there = ""
    try:
        there = urljoin(here, location)
        before, after = urlsplit(here), urlsplit(there)
        same = _host(before.hostname) == _host(after.hostname) and (
            (before.scheme, before.port) == (after.scheme, after.port)
            or (before.scheme, after.scheme, before.port, after.port) == ("http", "https", None, None)
        )
        host = after.hostname or ""
    except ValueError:
        same, host = False, ""
    if not location or not same:
        raise SlideUnreachableError(
            f'slide "{shown}" cannot be fetched: its server redirects to "{shorten(host, 80)}", which is not followed; '
            "name that address itself if you trust it"
        )
    return there


def _host(name: str | None) -> str | None:
    """The name of a server, or its number in the one way in which it is written."""
    try:
        return ip_address(name or "").compressed
    except ValueError:
        return name


async def answered(response: Any, shown: str, start: int, end: int) -> Answer | None:
    """Takes an answer to a request for the bytes from ``start`` to before ``end``."""
    status, headers = response.status, response.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if status in (404, 410):
        return None
    if status in _PASSING:
        raise AgainError(f"the server answers {status} {shorten(str(response.reason), 40)}")
    if status == 416 and start == 0:  # nothing is in it
        return Answer(b"", 0, version)
    if status == 206:
        told = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", "").strip())
        if told is None or int(told[1]) != start:
            raise unreachable(shown, "the server answers with another part than was asked for")
        size = int(told[3])
        return Answer(await _body(response, min(end, size) - start), size, version)
    if status == 200:
        length = headers.get("Content-Length", "")
        if start == 0 and length.isdecimal() and int(length) <= end:  # so small that it was asked for as a whole
            return Answer(await _body(response, int(length)), int(length), version)
        raise unreachable(shown, "the server sends whole files only, no ranges of them; copy the slide to a disk")
    if status in (401, 403):
        raise unreachable(shown, f"the server answers {status}, so you may not read it")
    raise unreachable(shown, f"the server answers {status} {shorten(str(response.reason), 40)}")


async def _body(response: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await response.content.read(min(_PIECE, count - len(data)))
        if not piece:
            raise AgainError("the connection ends in the middle")
        data += piece
    return bytes(data)
