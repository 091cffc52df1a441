"""The process behind a window in QuPath: it lives as long as whoever started it, and reads and writes lines."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, Final

from dmmn_qp.errors import ConfigError, DmmnQpError
from dmmn_qp.serving.actions import Actions, Outcome, Place
from dmmn_qp.serving.jobs import Job, Jobs, leave_at_once
from dmmn_qp.serving.lines import MAX_LINE_BYTES, LineTooLong, LineWriter, parse_object, read_lines
from dmmn_qp.serving.reporter import LineReporter
from dmmn_qp.serving.requests import PROTOCOL, Cancel, Request, readable_id, request_of
from dmmn_qp.text import printable
from dmmn_qp.version import __version__

GRACE_S: Final = (0.0, 10.0, 30.0)
"""After the end of its owner: when a job is asked to stop, when it is made to, and when the process leaves anyway."""

_PARENT_POLL_S: Final = 2.0

_IDS_KEPT: Final = 10_000
"""Ids of requests that are remembered, so that none is taken twice."""


class Server:
    """Answers requests.

    Args:
        place: Where it works.
        requests: What to read from.
        replies: What to write to.
    """

    def __init__(self, place: Place, requests: BinaryIO, replies: BinaryIO) -> None:
        self._place = place
        self._requests = requests
        self._writer = LineWriter(replies, self.end)
        self._jobs = Jobs()
        self._seen: deque[str | int] = deque(maxlen=_IDS_KEPT)
        self._over = threading.Event()
        self._over.set()  # until it runs
        actions = Actions(place)
        self._actions: dict[str, Callable[[Any, LineReporter], Outcome]] = {
            "load": actions.load,
            "predict": actions.predict,
            "import": actions.import_,
            "train": actions.train,
            "round": actions.round,
            "status": actions.status,
            "suggest": actions.suggest,
        }

    def run(self) -> None:
        """Answers until the requests end, nobody reads the replies, the parent has gone, or it is told to."""
        self._over.clear()
        for work in (self._read, self._watch_parent):
            threading.Thread(target=work, daemon=True).start()
        self._writer.send({"id": None, "event": "hello", **self._hello()})
        try:
            self._jobs.run()
        finally:
            self._over.set()

    def end(self) -> None:
        """Ends everything; of what runs, what goes on later is left."""
        if not self._jobs.has_ended:
            threading.Thread(target=self._leave, daemon=True).start()
        self._jobs.end()

    def _leave(self) -> None:
        """Becomes less patient with what does not end."""
        first, second, last = GRACE_S
        if self._over.wait(second - first):
            return
        self._jobs.end()
        if not self._over.wait(last - second):
            leave_at_once()

    def _watch_parent(self) -> None:
        """Ends with the parent. Where the system does not tell (Windows), the end of the requests does."""
        parent = os.getppid()
        while not self._over.wait(_PARENT_POLL_S):
            if os.getppid() != parent:
                self.end()
                return

    def _read(self) -> None:
        """Reads requests to their end."""
        for line in read_lines(self._requests):
            self._answer(line)
        self.end()

    def _answer(self, line: bytes | LineTooLong) -> None:
        """Answers a line, whatever is in it."""
        known = None
        try:
            if isinstance(line, LineTooLong):
                raise ConfigError(f"the line is longer than {MAX_LINE_BYTES} bytes; it was passed over")
            content = parse_object(line)
            known = readable_id(content)
            self._take(request_of(content))
        except (DmmnQpError, RecursionError) as error:
            self._writer.send({"id": known, "event": "refused", "text": printable(str(error), 500)})

    def _take(self, request: Request) -> None:
        """Answers a request, or makes a job of it."""
        if request.id in self._seen:
            raise ConfigError(f'id "{printable(str(request.id))}" was used before; take another one')
        self._seen.append(request.id)
        tell = partial(self._tell, request.id)
        if request.op in self._actions:
            work = partial(self._actions[request.op], request, LineReporter(tell))
            self._jobs.submit(Job(request.id, request.op, work, tell))
            return
        if isinstance(request, Cancel):
            self._jobs.cancel(request.job)
        content: Mapping[str, Any] = {"hello": self._hello, "jobs": self._listed}.get(request.op, dict)()
        tell("done", **content)
        if request.op == "shutdown":
            self.end()

    def _hello(self) -> dict[str, Any]:
        names = {"project": self._place.project.absolute(), "workspace": self._place.workspace.absolute()}
        return {"protocol": PROTOCOL, "version": __version__, "process": os.getpid(), **names, "jobs": [*self._actions]}

    def _listed(self) -> dict[str, Any]:
        return {"jobs": self._jobs.listed()}

    def _tell(self, request_id: str | int, event: str, **content: Any) -> None:
        self._writer.send({"id": request_id, "event": event, **content})
