"""How parts of files are fetched from web servers and from stores of objects: with patience, and from nowhere else.

Web servers are asked through aiohttp on fsspec's loop, stores through fsspec's file systems, which find credentials in
the environment as each store's own programs do. Nothing else of the package asks for slides over the network.
"""

from __future__ import annotations

import atexit
import importlib
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from dmmn_qp.errors import SlideError
from dmmn_qp.files.addresses import WEB
from dmmn_qp.files.patience import (
    ATTEMPTS,
    AgainError,
    changed,
    error_words,
    not_installed,
    patiently,
    too_large,
    unreachable,
)
from dmmn_qp.files.web_answers import REDIRECTS, Answer, answered, redirected

CONNECT_S, READ_S, WHOLE_S = 10.0, 30.0, 300.0
"""Longest time for a connection, between two pieces of an answer, and for an answer."""

LOOK_AGAIN_S = 20.0
"""After which time a store is asked whether a file that is read is still the same one."""

MOSTREDIRECTS: Final = 3
MOST_LISTED: Final = 100_000
_CONNECTIONS: Final = 16
_EXTRAS: Final = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}


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
    key = os.getpid(), "web" if protocol in WEB else protocol
    with _LOCK:
        if key not in _SERVERS:
            _SERVERS[key] = _WebServer() if protocol in WEB else _Store(protocol)
        return _SERVERS[key]


_SERVERS: Final[dict[tuple[int, str], Server]] = {}
_LOCK = threading.Lock()


def _renew_lock() -> None:
    global _LOCK  # noqa: PLW0603 (a fork may have come while another thread held it)
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _WebServer:
    """Web servers that answer requests for ranges."""

    def __init__(self) -> None:
        try:
            import aiohttp
            import fsspec.asyn
        except ImportError:
            raise not_installed("https", "fsspec and aiohttp", "remote") from None
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
            raise changed(shown)
        return answer.data

    def whole(self, address: str, shown: str, most_bytes: int) -> bytes | None:
        """See `Server`."""
        answer = self._ask(address, shown, 0, most_bytes)
        if answer is not None and answer.size > most_bytes:
            raise too_large(shown, most_bytes)
        return None if answer is None else answer.data

    def names(self, address: str, shown: str) -> Iterator[tuple[str, Facts]]:
        """See `Server`: web servers have no lists that can be relied on."""
        raise NotADirectoryError("folders on web servers cannot be listed")

    def _ask(self, address: str, shown: str, start: int, end: int) -> Answer | None:
        def ask() -> Answer | None:
            errors = self._aiohttp
            try:
                answer: Answer | None = self._sync(self._get, address, shown, start, end)
                return answer
            except (errors.ClientSSLError, errors.InvalidURL) as error:
                raise unreachable(shown, error_words(error)) from None
            except (errors.ClientError, TimeoutError, OSError) as error:
                raise AgainError(error_words(error) or "the server does not answer in time") from None

        return patiently(ask, shown)

    async def _get(self, address: str, shown: str, start: int, end: int) -> Answer | None:
        from yarl import URL

        headers = {"Range": f"bytes={start}-{end - 1}"}
        parts = URL(address, encoded=True)
        if parts.user:
            headers["Authorization"] = "Basic " + b64encode(f"{parts.user}:{parts.password or ''}".encode()).decode()
        here = address
        for _ in range(MOSTREDIRECTS + 1):
            url = URL(here, encoded=True).with_user(None)
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in REDIRECTS:
                    return await answered(response, shown, start, end)
                here = redirected(here, response.headers.get("Location", ""), shown)
        raise unreachable(shown, f"the server redirects more than {MOSTREDIRECTS} times")


class _Store:
    """A store of objects, through fsspec's file system for it."""

    def __init__(self, protocol: str) -> None:
        package, extra = _EXTRAS.get(protocol, ("adlfs", "az"))
        try:
            import fsspec

            importlib.import_module(package)
        except ImportError:
            raise not_installed(protocol, package, extra) from None
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if protocol == "s3":
            once = {"mode": "standard", "total_max_attempts": 1}  # `patiently` asks again, and nobody else
            options["config_kwargs"] = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": once}
        self._fs: Any = fsspec.filesystem(protocol, **options)
        self._attempts = 1  # gcsfs and adlfs ask again themselves, and cannot be told not to
        if protocol == "s3":
            self._attempts = ATTEMPTS
            self._fs.retries = 1  # of s3fs, around those of botocore
        self._passing: tuple[type[Exception], ...] = (TimeoutError, OSError)
        self._passing += _errors_of_s3() if protocol == "s3" else ()
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
                raise changed(shown)
        return data

    def whole(self, address: str, shown: str, most_bytes: int) -> bytes | None:
        """See `Server`."""
        data: bytes | None = self._ask(lambda: self._fs.cat_file(address, start=0, end=most_bytes + 1), shown)
        if data is not None and len(data) > most_bytes:
            raise too_large(shown, most_bytes)
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
                reason = f"you may not read it ({error_words(error)}); credentials are those of the environment"
                raise unreachable(shown, reason) from None
            except self._passing as error:
                raise AgainError(error_words(error)) from None
            except Exception as error:  # of any kind: each store has errors of its own
                reason = f"{error_words(error)} (credentials are those of the environment)"
                raise unreachable(shown, reason) from None

        return patiently(once, shown, self._attempts)


def _errors_of_s3() -> tuple[type[Exception], ...]:
    """Returns what s3fs and what is below it raise where a connection fails or breaks off."""
    from aiohttp import ClientError

    errors, parsers = (importlib.import_module(f"botocore.{name}") for name in ("exceptions", "parsers"))
    broken_off = errors.HTTPClientError, errors.IncompleteReadError, parsers.ResponseParserError
    return ClientError, errors.ConnectionError, *broken_off


def _facts_of(info: dict[str, Any]) -> Facts:
    named = (info.get(key) for key in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime"))
    return Facts(
        int(info.get("size") or 0), str(next(filter(None, named), "")), is_folder=info.get("type") == "directory"
    )
