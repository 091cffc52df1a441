"""Memory, shared memory and open files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmmn_qp.doctor.findings import Finding, in_gib
from dmmn_qp.engines.cores import default_readers
from dmmn_qp.machine import memory_bytes, open_files_limit, shared_memory_bytes

LITTLE_MEMORY: Final = 4 * 2**30
"""A training takes about 2 GiB, a prediction less, and the system wants some."""

SHARED_OF_A_READER: Final = 64 * 2**20
"""A reading process keeps a few batches ready; one of 8 patches with their surroundings takes some MiB."""

FEW_FILES: Final = 1024


def check_memory() -> Iterator[Finding]:
    """Memory of the machine, or of the container."""
    found = memory_bytes()
    if found is None:
        yield Finding("memory", "ok", "this system does not say how much there is")
        return
    whole, free = found
    text, figures = f"{in_gib(free)} free of {in_gib(whole)}", (("bytes", whole), ("free_bytes", free))
    if free < LITTLE_MEMORY:
        way_out = "close other programs, or train with --workers 0 --batch-size 4"
        yield Finding("memory", "warn", f"{text}; a training takes about 2 GiB", way_out, figures)
    else:
        yield Finding("memory", "ok", text, figures=figures)


def check_shared_memory() -> Iterator[Finding]:
    """Room for what reading processes hand over."""
    found = shared_memory_bytes()
    if found is None:
        yield Finding("shared memory", "ok", "this system keeps it in its memory")
        return
    readers = max(1, default_readers())
    (whole, free), needed = found, readers * SHARED_OF_A_READER
    text, figures = f"{in_gib(free)} free of {in_gib(whole)} in /dev/shm", (("bytes", whole), ("free_bytes", free))
    if free < needed:
        text += f"; {readers} reading process{'es' if readers > 1 else ''} of a training may want {in_gib(needed)}"
        way_out = (
            "in Docker, pass --shm-size 2g; else patches go through pipes, which is slower, or train with --workers 0"
        )
        yield Finding("shared memory", "warn", text, way_out, figures)
    else:
        yield Finding("shared memory", "ok", text, figures=figures)


def check_open_files() -> Iterator[Finding]:
    """How many files a process may have open."""
    limit = open_files_limit()
    text = "no limit" if limit is None else f"at most {limit:,}"
    if limit is not None and limit < FEW_FILES:
        way_out = "before the command: ulimit -n 4096"
        yield Finding("open files", "warn", f"{text}, which many slides may need", way_out, (("limit", limit),))
    else:
        yield Finding("open files", "ok", text, figures=(("limit", limit),))
