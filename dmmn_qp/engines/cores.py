"""How many cores there are to compute with, and how many threads take them."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from dmmn_qp.machine import cores_of_machine

MOST_THREADS: Final = 1024
"""Most threads that an option may ask for; more is a slip of the pen."""

_MOST_READERS: Final = 8

THREADS_VARIABLE: Final = "OMP_NUM_THREADS"
"""By which clusters, containers and launchers such as torchrun say how many threads may compute."""

_WAITING: Final = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""What OpenMP, of GNU and of LLVM, reads when torch loads it, and never again.

Its threads otherwise spin while they wait for each other, and so take the core that the one needs for which they wait:
beside any other work that makes a training many times slower.
"""

_OF_NUMPY: Final = {"OPENBLAS_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}
"""The same for NumPy, whose threads are of use to nothing here: its matrices are small, and who reads patches has a
process each.
"""

_OF_APPLE: Final = {"PYTORCH_ENABLE_MPS_FALLBACK": "1"}
"""What Apple's GPUs lack is computed on the processor."""


@dataclass(frozen=True, eq=False, slots=True)
class _Limit:
    """What a block of `limited_to` wants."""

    threads: int


_limits: Final[list[_Limit]] = []
"""Those in force, in the order in which they began, in whatever thread."""


def settle_libraries(environment: MutableMapping[str, str] = os.environ, *, is_ours: bool = True) -> None:
    """Tells libraries that are loaded later what to do with their threads, unless the user has said so.

    Args:
        environment: The variables to set.
        is_ours: Whether the process is all ours; in a notebook, how NumPy computes is not for us to say.
    """
    for name, value in {**_WAITING, **_OF_APPLE, **(_OF_NUMPY if is_ours else {})}.items():
        environment.setdefault(name, value)


def available_cores() -> int:
    """CPU cores for this process's own threads and processes: those that it may use, but not more than `limited_to`."""
    return min([cores_of_machine(), *(limit.threads for limit in _limits[-1:])])


def default_threads(processes: int = 1, *, beside_readers: bool = False) -> int:
    """Threads that compute where nobody says how many.

    As many as there are cores, but beside processes that read patches one fewer: threads that learn wait for each other
    thousands of times in a step, so one that has to share its core holds up all. It goes by the machine, never by how
    busy it is, because sums of another number of threads differ in their last digits: the same command is to compute
    the same.

    Args:
        processes: How many processes of this machine compute together.
        beside_readers: Whether others read for them.
    """
    named = os.environ.get(THREADS_VARIABLE, "").partition(",")[0].strip()
    if named.isdecimal() and 0 < int(named) <= MOST_THREADS:
        return int(named)
    cores = cores_of_machine()
    return max(1, (cores - beside_readers) // processes)


def default_readers() -> int:
    """Processes that read patches where nobody says how many."""
    return min(_MOST_READERS, cores_of_machine() // 2)


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Lets pools of threads and processes that are made in the block have at most so many.

    It is of the whole process; where several threads are in such blocks, the block that began last counts.
    """
    mine = _Limit(threads)
    _limits.append(mine)
    try:
        yield
    finally:
        _limits.remove(mine)
