"""Where to compute, how precisely, how pixels become a network's input, and its output labels."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import cv2
import torch
from torch import Tensor

from dmmn_qp.choices import Device, Precision
from dmmn_qp.engines.cores import default_threads, limited_to
from dmmn_qp.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BF16_ON_CPU = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""How torch tells of such instructions; without them bf16 is ten times slower than fp32."""


def choose_device(wanted: Device) -> torch.device:
    """Resolves ``auto`` to a GPU if there is one.

    Raises:
        ConfigError: The device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if available[name]))
    if not available[wanted]:
        raise ConfigError(f'device "{wanted}" is not available on this machine; pass --device cpu')
    return torch.device(wanted)


def choose_devices(wanted: Device, number: int) -> list[torch.device]:
    """Resolves ``auto`` to GPUs if there are any; on a processor, so many threads share it.

    Raises:
        ConfigError: There are not so many of them.
    """
    first = choose_device(wanted)
    if first.type == "mps" and number > 1:
        raise ConfigError(f"--devices {number}: a Mac has one GPU; leave out --devices, or pass --device cpu")
    if first.type != "cuda":
        return [first] * number
    if number > torch.cuda.device_count():
        raise ConfigError(f"--devices {number}: this machine has {torch.cuda.device_count()} GPUs; pass fewer")
    return [torch.device("cuda", index) for index in range(number)]


@contextmanager
def computing(threads: int | None) -> Iterator[int]:
    """Has everything in this process compute in so many threads, and in as many as before when the block ends.

    These are torch's, OpenCV's, and those of our pools that are made in the block. NumPy's are settled when it is
    loaded (`settle_libraries`); GDAL has one. Several threads may be in such blocks: what is of the whole process is as
    the block wants it that began last, and as it was before the first when the last one ends.

    Args:
        threads: How many; None for `default_threads`.

    Yields:
        How many they are.
    """
    number = threads or default_threads()
    with _LOCK:
        mine = _Computing.begin(number)
    try:
        with limited_to(number):
            yield number
    finally:
        with _LOCK:
            mine.end()


@dataclass(frozen=True, eq=False, slots=True)
class _Computing:
    """A block of `computing`. torch has a number for each thread, and one for threads that come later.

    Attributes:
        threads: What it wants.
        thread: The thread that it runs in.
        before: torch's number in this thread before it.
        of_torch: torch's number before the first of the blocks that run.
        of_opencv: OpenCV's number, which is of the whole process, before the first of them.
    """

    threads: int
    thread: int
    before: int
    of_torch: int
    of_opencv: int

    @classmethod
    def begin(cls, threads: int) -> Self:
        """Sets what a block wants."""
        thread, before = threading.get_ident(), torch.get_num_threads()
        first = cls(threads, thread, before, before, cv2.getNumThreads())
        if _RUNNING:
            first = replace(first, of_torch=_RUNNING[0].of_torch, of_opencv=_RUNNING[0].of_opencv)
            if before == _RUNNING[-1].threads and thread not in {running.thread for running in _RUNNING}:
                first = replace(first, before=first.of_torch)  # it came later, and has never had another one
        _RUNNING.append(first)
        torch.set_num_threads(threads)
        cv2.setNumThreads(min(first.of_opencv, threads))  # never more: behind a fork it may have but one
        return first

    def end(self) -> None:
        """Sets what the others want, or what was before all."""
        _RUNNING.remove(self)
        torch.set_num_threads(self.before)
        wanted = _RUNNING[-1].threads if _RUNNING else self.of_torch
        if wanted != self.before:
            other = threading.Thread(target=torch.set_num_threads, args=(wanted,))  # for threads that come later alone
            other.start()
            other.join()
        cv2.setNumThreads(min(self.of_opencv, wanted) if _RUNNING else self.of_opencv)


_RUNNING: Final[list[_Computing]] = []
_LOCK: Final = threading.Lock()


def choose_bf16(wanted: Precision, device: torch.device) -> bool:
    """Whether to compute in bfloat16; ``auto`` does where the device has instructions for it.

    It goes by what the processor says and never by a measurement, so that the same command computes the same on a
    busy machine.
    """
    if wanted != "auto":
        return wanted == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in _BF16_ON_CPU)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager[object]:
    """Mixed precision, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def mean_of_processes(value: Tensor, fabric: Fabric) -> Tensor:
    """The mean of a tensor over all processes."""
    reduced = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def memory_gib() -> float:
    """Most memory that this process has held, of the GPU where there is one, else of the machine; NaN if unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
