"""Closing slides of openslide, which no signal may interrupt."""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openslide


def undisturbed(close: Callable[[], None]) -> None:
    """Closes a slide of openslide, or lets it go, where no signal is met, and waits for it.

    Python meets signals in the main thread. One that comes while a slide is closed there is lost where the slide was
    let go; else openslide does not learn that it is closed, and closes it once more, which ends the process.

    Args:
        close: Closes it.
    """
    closed = _thread.allocate_lock()
    closed.acquire()

    def close_and_say_so() -> None:
        try:
            close()
        finally:
            closed.release()

    try:
        _thread.start_new_thread(close_and_say_so, ())  # a signal may break the steps in which `threading` begins one
    except RuntimeError:  # none is begun any more when the process ends
        close()
    else:
        closed.acquire()


@contextmanager
def opened(path: Path) -> Iterator[openslide.OpenSlide]:
    """Gives a slide of openslide, open for as long.

    Raises:
        openslide.OpenSlideError: OpenSlide cannot open it.
    """
    slide = openslide.OpenSlide(str(path))
    try:
        yield slide
    finally:
        undisturbed(slide.close)
