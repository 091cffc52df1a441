"""What this machine, and the container on it, has for this process: cores, memory, shared memory, open files."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")
"""Where the files of the system are looked for."""


def cores_of_machine() -> int:
    """CPU cores that this process may use: those that it is bound to, but not more than a container's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = core_quota()
    return bound if quota is None else max(1, min(bound, ceil(quota)))


def core_quota() -> float | None:
    """The share of time that a container has, in cores (``docker run --cpus 1.5``); None for all."""
    quotas = []
    for group in _groups():
        found = _words(group / "cpu.max")
        if len(found) < 2:
            found = [*_words(group / "cpu/cpu.cfs_quota_us"), *_words(group / "cpu/cpu.cfs_period_us")]
        with suppress(ValueError, IndexError, ZeroDivisionError):
            quota, period = float(found[0]), float(found[1])
            quotas += [quota / period] if quota > 0 else []
    return min(quotas, default=None)


def memory_bytes() -> tuple[int, int] | None:
    """(all, free) memory of the machine, or of the container where that has less; None where it is not known."""
    whole, free = _system_memory() or (None, None)
    if whole is None or free is None:
        return None
    for group in _groups():
        limit = _number(_words(group / "memory.max") or _words(group / "memory/memory.limit_in_bytes"))
        used = _number(_words(group / "memory.current") or _words(group / "memory/memory.usage_in_bytes"))
        if limit is not None:  # version 1 says a huge number where there is none
            whole, free = min(whole, limit), max(0, min(free, limit - (used or 0)))
    return whole, free


def shared_memory_bytes() -> tuple[int, int] | None:
    """(all, free) bytes of ``/dev/shm``; None where the system keeps shared memory elsewhere."""
    with suppress(OSError, AttributeError):
        found = os.statvfs(ROOT / "dev" / "shm")
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return None


def open_files_limit() -> int | None:
    """How many files this process may have open; None where there is no such limit, or it is not known."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # which Windows has not

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return None if limit in (resource.RLIM_INFINITY, -1) else int(limit)
    return None


def busy_cores() -> float | None:
    """How many cores have been busy in the last minute; None where the system does not say."""
    with suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def _system_memory() -> tuple[int, int] | None:
    """(all, free) memory of the machine."""
    if sys.platform == "win32":
        return _windows_memory()
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = (ROOT / "proc" / "meminfo").read_text("ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.count(":") == 1}
        return kib["MemTotal"] * 1024, kib.get("MemAvailable", kib.get("MemFree", 0)) * 1024
    with suppress(OSError, ValueError, AttributeError, KeyError):
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return pages, pages  # macOS tells what is free in no file
    return None


def _windows_memory() -> tuple[int, int] | None:
    """(all, free) memory, as Windows tells it."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            *((name, ctypes.c_uint64) for name in ("whole", "free", "a", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    with suppress(AttributeError, OSError):
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined, unused-ignore]
            return int(status.whole), int(status.free)
    return None


def _groups() -> list[Path]:
    """The folder of this process's control group, and of each that this one is in; the limits of all of them count."""
    root = ROOT / "sys" / "fs" / "cgroup"
    with suppress(OSError, StopIteration, IndexError):
        lines = (ROOT / "proc" / "self" / "cgroup").read_text("utf-8", "replace").splitlines()
        own = next(line.split(":", 2)[2] for line in lines if line.startswith("0:"))
        parts = [part for part in own.split("/") if part]
        if ".." not in parts:
            return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return [root]


def _words(path: Path) -> list[str]:
    """The words of a file of the system; none where there is none."""
    with suppress(OSError):
        return path.read_text("ascii", "replace").split()
    return []


def _number(words: list[str]) -> int | None:
    return int(words[0]) if words and words[0].isdecimal() else None
