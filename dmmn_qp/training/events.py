"""A file of events for TensorBoard, written in the thread of the training, so that an error is met where it happens.

TensorBoard is an extra: `log.py` imports this file only where it is installed.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

_VERSION = "brain.Event:2"


class EventFile:
    """Events in a folder, beside those of the parts of a training that were interrupted.

    Args:
        folder: The folder; it is made.
        purge_step: Steps from this one on in earlier files do not count any more; None where there are no earlier ones.

    Raises:
        OSError: The file cannot be written; so do all methods.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time_ns() // 1000}.{os.getpid()}"
        self._file = path.open("wb", buffering=0)  # what was buffered would raise where nobody catches it
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version=_VERSION))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Adds a figure."""
        summary = scalar(tag, value)  # type: ignore[no-untyped-call]
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Adds a picture of shape (rows, columns, 3)."""
        summary = image(tag, pixels, dataformats="HWC")  # type: ignore[no-untyped-call]
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
