"""A process of `dmmn-qp serve`, and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

ENDS = ("done", "failed", "cancelled", "refused")

Reply = dict[str, Any]


class Served:
    """Talks to a process."""

    def __init__(self, folder: Path, *words: str, before: str = "") -> None:
        code = f"{before}\nimport sys; from dmmn_qp.cli import run; sys.argv[0] = 'dmmn-qp'; run()"
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.patience = threading.Timer(120, self.process.kill)  # else a reply that never comes is waited for
        self.patience.daemon = True
        self.patience.start()
        self.hello = self.next()
        self.replies: list[Reply] = []

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def send(self, **request: Any) -> None:
        self.write(json.dumps(request).encode())

    def next(self) -> Reply:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it has ended"
        return json.loads(line)

    def until(self, request_id: object, *events: str) -> Reply:
        """The first reply to a request of one of some kinds; those before it are in `replies`."""
        self.replies = []
        while True:
            reply = self.next()
            self.replies.append(reply)
            if reply["id"] == request_id and reply["event"] in (events or ENDS):
                return reply

    def ask(self, **request: Any) -> Reply:
        self.send(**request)
        return self.until(request["id"])

    def end(self) -> tuple[int, str]:
        """Ends it by ending its requests; gives its exit code, and what it said beside the protocol."""
        assert self.process.stdin is not None and self.process.stderr is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
        return code, self.process.stderr.read().decode()
