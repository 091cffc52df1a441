"""What a worker of `RayEngine` does: it is an actor of Ray, and works in a thread while it is asked how far it is.

Ray loads this module on the worker's machine; what else goes there and back is bytes of `sending`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from typing import Any, Final

from dmmn_qp.engines.base import Preparing
from dmmn_qp.engines.sending import packed, packed_error, unpacked
from dmmn_qp.errors import ClusterError
from dmmn_qp.version import __version__

TOLD_S: Final = 1.0
"""So long a worker waits for the end of its task before it says how far it is."""

Answer = tuple[str, bytes]
"""("done", result) or ("failed", error as `packed_error` makes it)."""


class RayWorker:
    """Does one task after the other."""

    def __init__(self) -> None:
        self._function: Any = None
        self._changed = threading.Condition()
        self._progress = 0
        self._answer: Answer | None = None

    def begin(self, function: bytes, version: str, paths: list[str]) -> Answer:
        """Takes the function, and has it prepared.

        Args:
            function: The function.
            version: That of the program which asks.
            paths: Where that program finds modules; what of it is not here is passed over.

        Returns:
            What `Preparing.prepare` returns or raises.
        """
        try:
            if version != __version__:
                raise ClusterError(
                    f"{socket.gethostname()} has dmmn-qp {__version__}, and the command is of {version}; install the "
                    "same on all machines"
                )
            sys.path += [path for path in paths if path not in sys.path]
            self._function = unpacked(function)
            told = self._function.prepare() if isinstance(self._function, Preparing) else None
            return "done", packed(told)
        except Exception as error:  # of any kind: it is told to who asks
            return _failed(error)

    def take(self, task: bytes) -> None:
        """Begins a task."""
        self._progress, self._answer = 0, None
        threading.Thread(target=self._work, args=(task,), daemon=True).start()

    def heard(self) -> tuple[int, Answer | None]:
        """Waits a while for the end of the task.

        Returns:
            (how much more of it is done, the answer; None where it goes on).
        """
        with self._changed:
            self._changed.wait_for(lambda: self._answer is not None, TOLD_S)
            progress, self._progress = self._progress, 0
            return progress, self._answer

    def _work(self, task: bytes) -> None:
        try:
            answer = "done", packed(self._function(unpacked(task), self._advance))
        except Exception as error:  # of any kind: it is the task's, and told to who gave it
            answer = _failed(error)
        with self._changed:
            self._answer = answer
            self._changed.notify_all()

    def _advance(self, amount: int) -> None:
        with self._changed:
            self._progress += amount


def _failed(error: Exception) -> Answer:
    where = f"on {socket.gethostname()}, process {os.getpid()}:\n"
    error.add_note(where + "".join(traceback.format_exception(error)))
    return "failed", packed_error(error)
