"""One at a time: who works on a file or folder, on this machine or on another one that shares the disk.

Two files beside what is locked, ``.<name>.lock`` and ``.<name>.holder.json``; whoever comes to an end removes both. The
first is locked through the operating system, which frees it however a process ends. The second says who holds it, for
the message, and for machines between which such locks do not reach, as on many network drives: it is touched every half
minute, and a holder on another machine counts until ten minutes without it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from filelock import FileLock, Timeout

from dmmn_qp.errors import InUseError
from dmmn_qp.files.failures import naming
from dmmn_qp.files.renaming import remove, rename
from dmmn_qp.text import shorten

HEARTBEAT_S: Final = 30.0
STALE_S: Final = 600.0
WAIT_S: Final = 120.0
"""How long a short lock is waited for: its holder only writes a table."""

_TRY_S: Final = 0.1
"""How long one that is held is tried: a file that was removed just now is no sign that somebody holds it."""

_POLL_S: Final = 0.02
_LOOK_S: Final = 0.5

REMOVES_WHAT_IS_OPEN: Final = os.name == "posix"
"""Whether the system removes a file that is open; Windows does not."""

_MAX_HOLDER_BYTES: Final = 4096

_TAKE_OVER: Final = ", or pass --take-over if that machine has stopped"
_STOPPED: Final = "; a machine without a sign of life for ten minutes counts as stopped"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who works on something.

    Attributes:
        doing: What it does, such as ``a training``.
        pid: Its process.
        host: Its machine.
        since: When it began, ISO 8601.
        key: What tells it from every other one.
    """

    doing: str
    pid: int
    host: str
    since: str
    key: str

    @classmethod
    def here(cls, doing: str) -> Self:
        """This process."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(doing, os.getpid(), socket.gethostname(), now, uuid4().hex)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Who is noted in a file; None where nobody is, or nobody can tell."""
        try:
            content = json.loads(path.read_bytes()[:_MAX_HOLDER_BYTES])
            texts = (str(content[name]) for name in ("doing", "host", "since", "key"))
            doing, host, since, key = (shorten(text, 80) for text in texts)
            return cls(doing, int(content["pid"]), host, since, key)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()


@contextmanager
def locked(
    target: Path, doing: str, way_out: str, *, take_over: bool | None = None, where: Path | None = None
) -> Iterator[None]:
    """Holds a file or folder while something works on it. One thread enters and leaves.

    Args:
        target: What is worked on; it need not exist, but its folder must.
        doing: What is done, as ``a training``, for the message to others.
        way_out: What another one can do meanwhile, for the message.
        take_over: Whether a holder on another machine that shows no end is passed over; None where the user cannot say
            so, and has to wait until it counts as stopped.
        where: Where that is, for the message; ``target`` unless given.

    Raises:
        InUseError: Another one works on it.
        OSError: The folder cannot be written.
    """
    me, note = Holder.here(doing), target.with_name(f".{target.name}.holder.json")
    lock = _acquired(target, note, where or target, way_out)
    try:
        _claim(where or target, note, me, way_out, reaches=lock is not None, take_over=take_over)
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(note, stop), name="heartbeat", daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            if Holder.read(note) == me:
                remove(note)
    finally:
        if lock is not None:
            _release(lock)


def is_held(target: Path) -> bool:
    """Whether something works on a file or folder, by its last sign of life; it changes nothing and waits for nothing.

    Args:
        target: What may be worked on; it need not exist.
    """
    try:
        age_s = time.time() - target.with_name(f".{target.name}.holder.json").stat().st_mtime
    except OSError:
        return False
    return age_s < 3 * HEARTBEAT_S


def has_note(target: Path) -> bool:
    """Whether somebody is noted as working on a file or folder, though it may have been killed since."""
    return target.with_name(f".{target.name}.holder.json").exists()


def is_deserted(target: Path, silence_s: float = 3 * HEARTBEAT_S) -> bool:
    """Whether nobody works on a file or folder any more; waits until the holder shows that it does, or is silent.

    Args:
        target: What was worked on.
        silence_s: So long without a sign of life means that the holder is no more: less than `STALE_S`, for where it is
            likely.
    """
    note = target.with_name(f".{target.name}.holder.json")
    first = _touched(note)
    while True:
        try:
            lock = _acquired(target, note, target, "")
        except InUseError:
            is_free = False  # a process that ends just now, or one that works
        else:
            holder, age_s = Holder.read(note), _age_s(note)
            is_free = age_s is None or age_s > silence_s or (holder is not None and holder.is_here and lock is not None)
            if lock is not None:
                _release(lock)
        if is_free or _touched(note) not in (first, None):
            return is_free
        time.sleep(_LOOK_S)


def _touched(note: Path) -> int | None:
    """When a note was last touched, in ns; None where there is none."""
    try:
        return note.stat().st_mtime_ns
    except OSError:
        return None


@contextmanager
def briefly_locked(target: Path) -> Iterator[None]:
    """Holds a file for the moment in which it is read, changed and written again; waits for others that do.

    Raises:
        InUseError: They do not come to an end.
    """
    note = target.with_name(f".{target.name}.holder.json")
    lock = _acquired(target, note, target, "try again when it has ended", timeout_s=WAIT_S)
    try:
        yield  # without a lock where the disk has none: what one writes at a time is whole even so
    finally:
        if lock is not None:
            _release(lock)


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _acquired(target: Path, note: Path, where: Path, way_out: str, *, timeout_s: float = _TRY_S) -> FileLock | None:
    """The operating system's lock; None where the disk has none."""
    lock = FileLock(_lock_path(target))
    try:
        lock.acquire(timeout=timeout_s, poll_interval=_POLL_S)
    except Timeout:
        raise InUseError(_message(where, Holder.read(note), way_out)) from None
    except (OSError, NotImplementedError):
        return None
    return lock


def _release(lock: FileLock) -> None:
    """Removes the file, while it is held, and lets go: who has opened it meanwhile sees that it has no name any more,
    and tries again. Windows removes no file that is open; there the lock does it itself.
    """
    try:
        if REMOVES_WHAT_IS_OPEN:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
    finally:
        lock.release()


def _claim(target: Path, note: Path, me: Holder, way_out: str, *, reaches: bool, take_over: bool | None) -> None:
    """Notes who holds it now, unless somebody else does.

    Args:
        target: What is locked, for the message.
        note: Where the holder is noted.
        me: The new holder.
        way_out: What to do else.
        reaches: Whether the operating system's lock is held, so that no process of this machine has it.
        take_over: Whether a holder on another machine does not count.
    """
    text = json.dumps(asdict(me))
    for _ in range(3):
        try:
            with naming(target), note.open("x", encoding="utf-8") as file:
                file.write(text)
            return
        except FileExistsError:
            pass
        except OSError as error:  # a full disk
            remove(note)  # nobody could tell whose it is
            raise OSError(error.errno, error.strerror, str(note)) from error
        other = Holder.read(note)
        age = _age_s(note)
        ended = (other is not None and other.is_here and reaches) or bool(take_over) or age is None or age > STALE_S
        if not ended:
            if other is not None and not other.is_here:
                way_out += _STOPPED if take_over is None else _TAKE_OVER
            raise InUseError(_message(target, other, way_out, age))
        retired = note.with_name(f"{note.name}.{uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            rename(note, retired)
            remove(retired)
    raise InUseError(_message(target, Holder.read(note), way_out))


def _age_s(note: Path) -> float | None:
    """Seconds since the last sign of life, by the clock of the disk: those of two machines may differ."""
    probe = note.with_name(f"{note.name}.{uuid4().hex[:8]}")
    try:
        probe.touch()
        return probe.stat().st_mtime - note.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        remove(probe)


def _beat(note: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with suppress(OSError):
            os.utime(note)


def _message(target: Path, holder: Holder | None, way_out: str, age_s: float | None = None) -> str:
    if holder is None:
        return f'another process works on "{target}"; {way_out}'
    if holder.is_here:
        return (
            f'{holder.doing} is running in "{target}" (process {holder.pid} on {holder.host}, since {holder.since}); '
            f"{way_out}"
        )
    seen = "" if age_s is None else f", last seen {max(0, round(age_s))} s ago"
    return (
        f'{holder.doing} is running in "{target}" (process {holder.pid} on {holder.host}, since {holder.since}{seen}); '
        f"{way_out}"
    )
