"""How parts of files are fetched from web servers and from stores of objects: with patience, and from nowhere else.

Web servers are asked through aiohttp on fsspec's loop, stores through fsspec's file systems, which find credentials in
the environment as each store's own programs do. Nothing else of the package asks for slides over the network.
"""

from __future__ import annotations

import atexit
import importlib
import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from dmmn_qp.errors import SlideChangedError, SlideError, SlideUnreachableError
from dmmn_qp.text import shorten, words_of

ATTEMPTS = 5
"""How often a server is asked for one thing."""

FIRST_WAIT_S = 0.5
"""How long is waited after the first failure; after each further one twice as long."""

CONNECT_S, READ_S, WHOLE_S = 10.0, 30.0, 300.0
"""Longest time for a connection, between two pieces of an answer, and for an answer."""

LOOK_AGAIN_S = 20.0
"""After which time a store is asked whether a file that is read is still the same one."""

MOST_REDIRECTS: Final = 3
MOST_LISTED: Final = 100_000
_CONNECTIONS: Final = 16
_PIECE: Final = 1 << 18
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_EXTRAS: Final = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
_WEB: Final = frozenset({"http", "https"})

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of a file.

    Attributes:
        size: Bytes.
        version: What differs when the file becomes another one (ETag, else the time of its last change).
        is_folder: Whether it is a folder.
    """

    size: int
    version: str
    is_folder: bool = False


class Server(Protocol):
    """A way to fetch files; ``address`` may hold secrets, ``shown`` is the same for messages.

    All raise `SlideUnreachableError` where there is no answer, or a refusal.
    """

    def facts(self, address: str, shown: str) -> Facts | None:
        """What is known of a file; None where there is none."""
        ...

    def read(self, address: str, shown: str, start: int, end: int, facts: Facts) -> bytes:
        """The bytes from ``start`` to before ``end``; `SlideChangedError` where it is not the file of ``facts``."""
        ...

    def whole(self, address: str, shown: str, most_bytes: int) -> bytes | None:
        """A small file; None where there is none, `SlideError` where it is not small."""
        ...

    def names(self, address: str, shown: str) -> Iterator[tuple[str, Facts]]:
        """What is in a folder."""
        ...


def server_of(protocol: str) -> Server:
    """Returns how files of a protocol are fetched, in this process.

    Raises:
        SlideError: The packages for it are not installed.
    """
    key = os.getpid(), "web" if protocol in _WEB else protocol
    with _LOCK:
        if key not in _SERVERS:
            _SERVERS[key] = _WebServer() if protocol in _WEB else _Store(protocol)
        return _SERVERS[key]


_SERVERS: Final[dict[tuple[int, str], Server]] = {}
_LOCK = threading.Lock()


def _renew_lock() -> None:
    global _LOCK  # noqa: PLW0603 (a fork may have come while another thread held it)
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _AgainError(Exception):
    """What may pass: it is worth asking again."""


def _patiently(ask: Callable[[], Result], shown: str) -> Result:
    """Asks again where that may help, after longer and longer waits.

    Raises:
        SlideUnreachableError: It does not help.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            return ask()
        except _AgainError as error:
            reason = str(error)
    raise SlideUnreachableError(
        f'slide "{shown}" cannot be fetched: {reason}, {ATTEMPTS} times; check the network and the server, and repeat '
        "the command"
    )


def _unreachable(shown: str, reason: str) -> SlideUnreachableError:
    return SlideUnreachableError(f'slide "{shown}" cannot be fetched: {reason}; check the address')


def _changed(shown: str) -> SlideChangedError:
    return SlideChangedError(
        f'slide "{shown}" was changed on its server while it was read; repeat the command when it is there to its end'
    )


def _words(error: BaseException) -> str:
    """Returns what an error says, without what may be secret in an address that it quotes."""
    text = re.sub(r"\?[^\s\"'<>]*", "", words_of(error) if isinstance(error, Exception) else str(error))
    return shorten(re.sub(r"//[^/@\s]*@", "//", text), 200)


class _WebServer:
    """Web servers that answer requests for ranges."""

    def __init__(self) -> None:
        try:
            import aiohttp
            import fsspec.asyn
        except ImportError:
            raise _not_installed("https", "fsspec and aiohttp", "remote") from None
        self._aiohttp: Any = aiohttp
        self._loop = fsspec.asyn.get_loop()
        self._sync: Callable[..., Any] = partial(fsspec.asyn.sync, self._loop)
        self._session: Any = self._sync(self._begun)
        self._of_process = os.getpid()
        atexit.register(self._end)

    def _end(self) -> None:
        if os.getpid() == self._of_process:  # else it is that of another process, which this one was forked from
            with suppress(Exception):
                self._sync(self._session.close, timeout=1)

    async def _begun(self) -> Any:
        timeout = self._aiohttp.ClientTimeout(total=WHOLE_S, connect=CONNECT_S, sock_read=READ_S)
        return self._aiohttp.ClientSession(
            connector=self._aiohttp.TCPConnector(limit=_CONNECTIONS),
            timeout=timeout,
            auto_decompress=False,
            trust_env=True,  # proxies and .netrc
            cookie_jar=self._aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )

    def facts(self, address: str, shown: str) -> Facts | None:
        """See `Server`: the first byte is asked for, because signed addresses often allow nothing else."""
        answer = self._ask(address, shown, 0, 1)
        return None if answer is None else Facts(answer.size, answer.version)

    def read(self, address: str, shown: str, start: int, end: int, facts: Facts) -> bytes:
        """See `Server`."""
        answer = self._ask(address, shown, start, end)
        if answer is None or (answer.size, answer.version) != (facts.size, facts.version):
            raise _changed(shown)
        return answer.data

    def whole(self, address: str, shown: str, most_bytes: int) -> bytes | None:
        """See `Server`."""
        answer = self._ask(address, shown, 0, most_bytes)
        if answer is not None and answer.size > most_bytes:
            raise _too_large(shown, most_bytes)
        return None if answer is None else answer.data

    def names(self, address: str, shown: str) -> Iterator[tuple[str, Facts]]:
        """See `Server`: web servers have no lists that can be relied on."""
        raise NotADirectoryError("folders on web servers cannot be listed")

    def _ask(self, address: str, shown: str, start: int, end: int) -> _Answer | None:
        def ask() -> _Answer | None:
            errors = self._aiohttp
            try:
                answer: _Answer | None = self._sync(self._get, address, shown, start, end)
                return answer
            except (errors.ClientSSLError, errors.InvalidURL) as error:
                raise _unreachable(shown, _words(error)) from None
            except (errors.ClientError, TimeoutError, OSError) as error:
                raise _AgainError(_words(error) or "the server does not answer in time") from None

        return _patiently(ask, shown)

    async def _get(self, address: str, shown: str, start: int, end: int) -> _Answer | None:
        from yarl import URL

        headers = {"Range": f"bytes={start}-{end - 1}"}
        parts = URL(address, encoded=True)
        if parts.user:
            headers["Authorization"] = "Basic " + b64encode(f"{parts.user}:{parts.password or ''}".encode()).decode()
        here = address
        for _ in range(MOST_REDIRECTS + 1):
            url = URL(here, encoded=True).with_user(None)
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await _answered(response, shown, start, end)
                here = _redirected(here, response.headers.get("Location", ""), shown)
        raise _unreachable(shown, f"the server redirects more than {MOST_REDIRECTS} times")


@dataclass(frozen=True, slots=True)
class _Answer:
    """Bytes of a file, its whole size, and its version."""

    data: bytes
    size: int
    version: str


def _redirected(here: str, location: str, shown: str) -> str:
    """Returns where a server sends to, if that is on the same one.

    Raises:
        SlideUnreachableError: It is on another one, or would no longer be encrypted.
    """
    there = urljoin(here, location)
    try:
        before, after = urlsplit(here), urlsplit(there)
        same = before.hostname == after.hostname and (
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


async def _answered(response: Any, shown: str, start: int, end: int) -> _Answer | None:
    """Takes an answer to a request for the bytes from ``start`` to before ``end``."""
    status, headers = response.status, response.headers
    version = headers.get("ETag") or headers.get("Last-Modified") or ""
    if status in (404, 410):
        return None
    if status in _PASSING:
        raise _AgainError(f"the server answers {status} {shorten(str(response.reason), 40)}")
    if status == 416 and start == 0:  # nothing is in it
        return _Answer(b"", 0, version)
    if status == 206:
        told = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", "").strip())
        if told is None or int(told[1]) != start:
            raise _unreachable(shown, "the server answers with another part than was asked for")
        size = int(told[3])
        return _Answer(await _body(response, min(end, size) - start), size, version)
    if status == 200:
        length = headers.get("Content-Length", "")
        if start == 0 and length.isdecimal() and int(length) <= end:  # so small that it was asked for as a whole
            return _Answer(await _body(response, int(length)), int(length), version)
        raise _unreachable(shown, "the server sends whole files only, no ranges of them; copy the slide to a disk")
    if status in (401, 403):
        raise _unreachable(shown, f"the server answers {status}, so you may not read it")
    raise _unreachable(shown, f"the server answers {status} {shorten(str(response.reason), 40)}")


async def _body(response: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await response.content.read(min(_PIECE, count - len(data)))
        if not piece:
            raise _AgainError("the connection ends in the middle")
        data += piece
    return bytes(data)


class _Store:
    """A store of objects, through fsspec's file system for it."""

    def __init__(self, protocol: str) -> None:
        package, extra = _EXTRAS.get(protocol, ("adlfs", "az"))
        try:
            import fsspec

            importlib.import_module(package)
        except ImportError:
            raise _not_installed(protocol, package, extra) from None
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol == "s3":
            options["config_kwargs"] = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
        self._fs: Any = fsspec.filesystem(protocol, **options)
        self._looked: dict[str, float] = {}

    def facts(self, address: str, shown: str) -> Facts | None:
        """See `Server`."""
        info = self._ask(lambda: self._fs.info(address), shown)
        return None if info is None else _facts_of(info)

    def read(self, address: str, shown: str, start: int, end: int, facts: Facts) -> bytes:
        """See `Server`."""
        data: bytes | None = self._ask(lambda: self._fs.cat_file(address, start=start, end=end), shown)
        last = self._looked.setdefault(address, time.monotonic())
        if time.monotonic() - last > LOOK_AGAIN_S or data is None or len(data) != end - start:
            self._looked[address] = time.monotonic()
            if self.facts(address, shown) != facts or data is None or len(data) != end - start:
                raise _changed(shown)
        return data

    def whole(self, address: str, shown: str, most_bytes: int) -> bytes | None:
        """See `Server`."""
        data: bytes | None = self._ask(lambda: self._fs.cat_file(address, start=0, end=most_bytes + 1), shown)
        if data is not None and len(data) > most_bytes:
            raise _too_large(shown, most_bytes)
        return data

    def names(self, address: str, shown: str) -> Iterator[tuple[str, Facts]]:
        """See `Server`."""
        found = self._ask(lambda: self._fs.ls(address, detail=True), shown) or []
        if len(found) > MOST_LISTED:
            raise SlideError(f'folder "{shown}" holds {len(found):,} files, too many; name one with fewer')
        for info in sorted(found, key=lambda info: str(info["name"])):
            name = str(info["name"]).rstrip("/").rpartition("/")[2]
            if name and name != "..":
                yield name, _facts_of(info)

    def _ask(self, ask: Callable[[], Any], shown: str) -> Any:
        def once() -> Any:
            try:
                return ask()
            except FileNotFoundError:
                return None
            except PermissionError as error:
                reason = f"you may not read it ({_words(error)}); credentials are those of the environment"
                raise _unreachable(shown, reason) from None
            except (TimeoutError, OSError) as error:
                raise _AgainError(_words(error)) from None
            except Exception as error:  # of any kind: each store has errors of its own
                reason = f"{_words(error)} (credentials are those of the environment)"
                raise _unreachable(shown, reason) from None

        return _patiently(once, shown)


def _facts_of(info: dict[str, Any]) -> Facts:
    named = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime"))
    return Facts(
        int(info.get("size") or 0), str(next(filter(None, named), "")), is_folder=info.get("type") == "directory"
    )


def _too_large(shown: str, most_bytes: int) -> SlideError:
    return SlideError(
        f'"{shown}" has more than {most_bytes:,} bytes, so it is no sound part of a slide; write it again'
    )


def _not_installed(protocol: str, package: str, extra: str) -> SlideError:
    return SlideError(
        f'slides at {protocol}:// need {package}, not installed here; pip install "dmmn-qp[{extra}]", or copy them to '
        "a disk"
    )
