"""A web server for tests, in this process: it answers for ranges, counts what it sends, and misbehaves on demand."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class WebServer:
    """What it was asked for, and how it answers.

    Attributes:
        root: The folder that it shows.
        url: Its address.
        asked: Path, as it was asked for, of each request.
        sent: Bytes of all answers.
        ranges: Whether it knows ranges.
        answers: Takes the number of a request, and says with which status it is answered instead of a file.
        redirects: Path -> where to.
        delay_s: How long it waits before each answer.
        headers: Those of the last request.
    """

    root: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    ranges: bool = True
    answers: Callable[[int], int | None] = lambda number: None
    redirects: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(root: Path, host: str = "127.0.0.1") -> Iterator[WebServer]:
    """Serves a folder on a free port of this machine, at its address of IPv4 or IPv6."""
    state = WebServer(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.headers = dict(self.headers.items())
            time.sleep(state.delay_s)
            path = unquote(urlsplit(self.path).path)
            status = state.answers(len(state.asked))
            if path in state.redirects:
                self._answer(302, b"moved", Location=state.redirects[path])
            elif status is not None:
                self._answer(status, b"no")
            elif not (file := state.root / path.lstrip("/")).is_file():
                self._answer(404, b"none")
            else:
                self._file(file)

        do_HEAD = do_GET  # noqa: N815 (so the library has it)

        def _file(self, path: Path) -> None:
            status = path.stat()
            size, tag = status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if not state.ranges or found is None:
                self._answer(200, path.read_bytes(), ETag=tag)
                return
            start, end = int(found[1]), min(int(found[2]) + 1, size)
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
            self._answer(206, data, ETag=tag, **{"Content-Range": f"bytes {start}-{end - 1}/{size}"})

        def _answer(self, status: int, data: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            state.sent += len(data)
            with suppress(OSError):  # whoever asked may want no more of it
                self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    server = Server((host, 0), Handler)
    state.url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
