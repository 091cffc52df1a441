"""Open files, of which a process holds so many at a time: others are closed, and opened again when they are read."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, Generic, Self, TypeVar

from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, check_same

LEFT_TO_OTHERS: Final = 48
"""Files that a process may need besides."""

FILES_OF_A_SLIDE: Final = 4
"""Files that an open slide takes at most, those that it opens for a moment included."""

MOST: Final = 256
FEWEST: Final = 4

Thing = TypeVar("Thing")


def most_open() -> int:
    """Returns how many slides and masks a process may hold open, by the files that the system allows it."""
    try:
        import resource
    except ImportError:  # Windows, which allows thousands
        return MOST
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST
    return min(max(FEWEST, (allowed - LEFT_TO_OTHERS) // FILES_OF_A_SLIDE), MOST)


class _OpenThings:
    """What is open in this process, the least recently used first."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew, without closing anything: after a fork all is the parent's."""
        self._lock = threading.RLock()
        self._open: OrderedDict[int, tuple[Any, ExitStack]] = OrderedDict()

    @contextmanager
    def lent(self, key: int, open_it: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
        """Gives an open thing, which is not closed meanwhile."""
        with self._lock:
            if key not in self._open:
                while len(self._open) >= most_open():
                    _, (_, oldest) = self._open.popitem(last=False)
                    oldest.close()
                stack = ExitStack()
                self._open[key] = stack.enter_context(open_it()), stack
            self._open.move_to_end(key)
            yield self._open[key][0]

    def close(self, key: int) -> None:
        """Closes a thing, if it is open."""
        with self._lock:
            if key in self._open:
                self._open.pop(key)[1].close()

    def __len__(self) -> int:
        return len(self._open)


OPEN_THINGS: Final = _OpenThings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OPEN_THINGS.forget)


class OnDemand(Generic[Thing]):
    """What is open while it is used, and for as long after as there is room.

    Args:
        open_it: Opens it.
    """

    def __init__(self, open_it: Callable[[], AbstractContextManager[Thing]]) -> None:
        self._open_it = open_it
        self._close = weakref.finalize(self, OPEN_THINGS.close, id(self))

    def lent(self) -> AbstractContextManager[Thing]:
        """Gives it, open; others wait until it is given back."""
        return OPEN_THINGS.lent(id(self), self._open_it)

    def close(self) -> None:
        """Closes it."""
        OPEN_THINGS.close(id(self))


class SlideOnDemand:
    """A slide whose file is open while it is read, and for as long after as there is room.

    Args:
        open_it: Opens the slide.

    Raises:
        SlideError: It cannot be opened.
    """

    def __init__(self, open_it: Callable[[], Slide]) -> None:
        self._slide: OnDemand[Slide] = OnDemand(open_it)
        with self._slide.lent() as slide:
            self.info = slide.info

    def read_level(self, level: int, region: Region) -> RgbArray:
        """See `Slide.read_level`.

        Raises:
            SlideError: It is damaged, or another one than before.
        """
        with self._slide.lent() as slide:
            check_same(self.info, slide)
            return slide.read_level(level, region)

    def close(self) -> None:
        """Releases the file."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
