"""A model's folder while it is trained: of one training alone, from before its first file to its end.

Of several processes of one training, the first holds it for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from dmmn_qp.errors import InUseError, ModelError
from dmmn_qp.files.locks import locked
from dmmn_qp.files.renaming import clear_away, remove, remove_if_empty
from dmmn_qp.folders.model import next_model_name
from dmmn_qp.training.checks import explained
from dmmn_qp.training.launch import is_first_process, launched
from dmmn_qp.training.state import STATE

_DOING: Final = "a training"
_WAY_OUT: Final = "wait for its end, or choose another folder with --out"
_LEFT_INSIDE: Final = re.compile(r"\.[0-9a-f]{8}\.part\..+")
"""Files that a killed training was writing."""


@contextmanager
def held(out: Path, *, take_over: bool = False) -> Iterator[Path]:
    """Holds a model's folder for a training.

    Args:
        out: The folder; it need not exist.
        take_over: Whether a training on another machine that shows no end is passed over.

    Yields:
        The folder.

    Raises:
        InUseError: Another training, or what else makes a model, is at work in it.
    """
    if not is_first_process():
        yield out
        return
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    try:
        with ExitStack() as stack:
            with explained(out):  # a full disk has no room for a lock either
                out.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(out, _DOING, _WAY_OUT, take_over=take_over))
            _remove_leftovers(out)
            yield out
    finally:
        for folder in made:
            remove_if_empty(folder)


@contextmanager
def held_new(models: Path, architecture: str) -> Iterator[Path]:
    """Holds the first free name ``<architecture>-<n>`` among models.

    Yields:
        The folder, which is not there yet.
    """
    if not is_first_process():
        yield models / next_model_name(models, architecture)
        return
    for n in count(1):
        folder = models / f"{architecture}-{n}"
        if folder.exists():
            continue
        with ExitStack() as stack:
            try:
                stack.enter_context(held(folder))
            except InUseError:
                continue
            if folder.exists():  # it was made, and let go of, a moment ago
                continue
            yield folder
            return


@contextmanager
def held_interrupted(models: Path, *, take_over: bool = False) -> Iterator[Path]:
    """Holds the folder among models in which a training was interrupted last; one that is running is none.

    Yields:
        The folder.

    Raises:
        ModelError: There is none.
        InUseError: All that are unfinished are running.
    """
    states = [path for path in models.glob(f"*/{STATE}") if not path.parent.name.startswith(".")]
    folders = [path.parent for path in sorted(states, key=_age_of, reverse=True)]
    if not folders:
        raise ModelError(f'no interrupted training in "{models}"; name one with --out, or start one without --resume')
    if launched() is not None:  # all of them must choose the same one
        folders = folders[:1]
    running: InUseError | None = None
    for folder in folders:
        with ExitStack() as stack:
            try:
                stack.enter_context(held(folder, take_over=take_over))
            except InUseError as error:
                running = running or error
                continue
            yield folder
            return
    assert running is not None
    raise running


def _age_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # a training has ended meanwhile
        return 0


def _remove_leftovers(out: Path) -> None:
    """Removes what a killed training was writing; whoever holds the folder knows that nobody writes it."""
    if out.is_dir():
        for path in out.iterdir():
            if _LEFT_INSIDE.fullmatch(path.name):
                remove(path)
    beside = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.part")
    for path in out.parent.iterdir():
        if beside.fullmatch(path.name):
            clear_away(path)
