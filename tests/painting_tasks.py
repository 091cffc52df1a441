"""Painting that goes wrong for some slides, in whatever process it runs: those whose name begins with a word."""

import errno
import itertools
import os
import signal
import threading
import time
from pathlib import Path

from dmmn_qp.errors import SlideError
from dmmn_qp.importing.painting import paint_slide


def ended():
    os.kill(os.getpid(), signal.SIGKILL)


def wrong(error):
    raise error


HOW = {
    "refused": lambda: wrong(SlideError('slide "refused" is refused; do without')),
    "odd": lambda: wrong(ZeroDivisionError("by nothing")),
    "large": lambda: wrong(MemoryError()),
    "full": lambda: wrong(OSError(errno.ENOSPC, "No space left on device", "/there/full")),
    "killed": ended,
}


def writing_for_s(seconds, folder):
    """Writes one file after the other, as what goes on while another process fails."""
    until = time.monotonic() + seconds
    for number in itertools.count():
        Path(folder, "masks").mkdir(parents=True, exist_ok=True)
        Path(folder, "masks", f"{number}.tif").write_bytes(b"whole")
        if time.monotonic() > until:
            return


def paint(item, advance, *, labelling, folder):
    """As `paint_slide`, which leaves half a mask of what goes wrong."""
    for word, happens in HOW.items():
        if item.record.slide_id.startswith(word):
            if folder is not None:
                (folder / "masks" / f"{item.record.slide_id}.tif").write_bytes(b"half")
                (folder / "annotations" / f".01234567.part.{item.record.slide_id}.geojson").write_bytes(b"half")
            happens()
    if item.record.slide_id.startswith("long"):
        writing_for_s(5, folder)
    return paint_slide(item, advance, labelling=labelling, folder=folder)


def endless(item, advance, *, labelling, folder):
    del advance, labelling
    Path(folder, "masks", item.record.slide_id).write_text(str(os.getpid()))
    threading.Event().wait()
