"""What a process that predicts more than once keeps from one call to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from dmmn_qp.features.domain import FromTraining
from dmmn_qp.predicting.predictor import Predictor

_MOST: Final = 1000
"""Slides of which something is kept."""

Key = tuple[object, ...]
Value = TypeVar("Value")


class Kept:
    """The model that was used last, and what was found out about slides that have not changed since."""

    def __init__(self) -> None:
        self._made_of: Key | None = None
        self._predictors: list[Predictor] = []
        self._opened: OrderedDict[Key, None] = OrderedDict()
        self._distances: OrderedDict[Key, FromTraining] = OrderedDict()

    def predictors(self, made_of: Key, load: Callable[[], list[Predictor]]) -> list[Predictor]:
        """The model that is kept if it is the one that is wanted, else another one in its place.

        Args:
            made_of: What it depends on.
            load: Makes it.
        """
        if made_of != self._made_of:
            self._made_of, self._predictors = None, []  # the memory of one is given back before the other takes some
            self._predictors = load()
            self._made_of = made_of
        return self._predictors

    def never_opened(self, paths: Iterable[Path]) -> list[Path]:
        """The files that have not been opened as they are now."""
        return [path for path in paths if (key := _state_of(path)) is None or key not in self._opened]

    def note_opened(self, paths: Iterable[Path]) -> None:
        """Notes that files can be opened as they are now."""
        for path in paths:
            if (key := _state_of(path)) is not None:
                _keep(self._opened, key, None)

    def distance(self, key: Key, measure: Callable[[], FromTraining | None]) -> FromTraining | None:
        """How far a slide is from training slides, measured once for what it depends on."""
        found = self._distances.get(key) or measure()
        if found is not None:
            _keep(self._distances, key, found)
        return found


def _keep(known: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _MOST:
        known.popitem(last=False)


def _state_of(path: Path) -> Key | None:
    """What changes when a file does; None where it is not there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return str(path.absolute()), state.st_mtime_ns, state.st_size, state.st_ino
