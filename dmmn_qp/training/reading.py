"""Batches of examples, read by processes of their own where there are cores for them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.labels.draws import Draw
from dmmn_qp.training.examples import EpochDraws, Example, PatchExamples, WideExample


class Batches:
    """Batches of examples in the order of the draws; reading processes live, and keep their caches, over all epochs.

    They hand batches over in shared memory. Where that is too small, as in containers, they send them through pipes;
    where they cannot be started, the patches are read here. The patches are the same in every way.

    Args:
        examples: What is read.
        draws: Which, in which order.
        batch_size: Examples of a batch.
        workers: Number of reading processes; 0 reads here.
        warn: Where to say what is slower than it could be.
    """

    def __init__(
        self,
        examples: PatchExamples,
        draws: EpochDraws,
        batch_size: int,
        workers: int,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._examples, self._draws, self._batch_size, self._warn = examples, draws, batch_size, warn
        self._warned = self._started = False
        self._loader = self._loader_with(workers)

    def __iter__(self) -> Iterator[Example | WideExample]:
        workers = self._loader.num_workers
        try:
            if workers and not self._started:
                _check_queues(workers)
                self._started = True
        except OSError as error:
            self._warn(
                f"no reading process can be started ({error.strerror or error}), so patches are read in this one, "
                "which is slower; in Docker, pass --shm-size 2g"
            )
            self._loader = self._loader_with(0)
        for batch in self._loader:
            yield self._received(batch)

    def close(self) -> None:
        """Ends the reading processes; those that are left to the end of the program are waited for in vain."""
        shut_down = getattr(getattr(self._loader, "_iterator", None), "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()

    def _received(self, batch: Example | WideExample | _Unread | _Sent) -> Example | WideExample:
        """A batch as it is used.

        Raises:
            DmmnQpError, OSError, MemoryError: A reading process met it.
        """
        if isinstance(batch, _Unread):
            raise batch.error
        if not isinstance(batch, _Sent):
            return batch
        if not self._warned:
            self._warned = True
            self._warn(
                "shared memory (/dev/shm) is too small for the reading processes, so they send patches through pipes, "
                "which is slower; in Docker, pass --shm-size 2g, or read without them: --workers 0"
            )
        whole: Example | WideExample = default_collate([_mapped(example, _as_tensor) for example in batch.examples])
        return whole

    def _loader_with(self, workers: int) -> DataLoader[Any]:
        return DataLoader(
            _InReader(self._examples) if workers else self._examples,
            batch_size=self._batch_size,
            sampler=self._draws,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_interrupts_to_the_parent,
            collate_fn=_handed_over if workers else None,
        )


def _check_queues(workers: int) -> None:
    """Makes what so many reading processes need to talk, and lets it go: torch stumbles over what it half made.

    Raises:
        OSError: There is no room for it in shared memory, or too many files are open.
    """
    context = torch.multiprocessing.get_context()
    made: list[Any] = [context.Event()]
    made.extend(context.Queue() for _ in range(workers + 1))


class _Unread(NamedTuple):
    """Why a reading process has no batch."""

    error: DmmnQpError | OSError | MemoryError


class _Sent(NamedTuple):
    """Examples of a batch as arrays, which go through a pipe."""

    examples: list[Any]


class _InReader(TorchDataset[Any]):
    """Examples in a reading process, whose errors are handed over as they are: torch would make a text of many lines.

    Errors that nobody foresaw are left to torch, whose text shows where they come from.
    """

    def __init__(self, examples: PatchExamples) -> None:
        self._examples = examples

    def __getitem__(self, draw: Draw) -> Example | WideExample:
        return self._examples[draw]

    def __getitems__(self, draws: Sequence[Draw]) -> list[Example | WideExample] | _Unread:
        try:
            return [self._examples[draw] for draw in draws]
        except (DmmnQpError, OSError, MemoryError) as error:
            return _Unread(error)


def _handed_over(examples: list[Example | WideExample] | _Unread) -> Example | WideExample | _Unread | _Sent:
    """A batch in shared memory; its examples as arrays where there is not enough of it."""
    if isinstance(examples, _Unread):
        return examples
    try:
        batch: Example | WideExample = default_collate(examples)
        # All of it here: what is left is moved by a thread of the queue, which drops the batch if it cannot.
        shared: Example | WideExample = _mapped(batch, torch.Tensor.share_memory_)
        return shared
    except (RuntimeError, OSError):
        return _Sent([_mapped(example, torch.Tensor.numpy) for example in examples])


def _as_tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same named tuples with their tensors, or arrays, changed."""
    if isinstance(value, tuple):
        return type(value)(*(_mapped(part, change) for part in value))
    return change(value)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C and a cluster's farewell reach every process; a worker that died of it would break the step under way."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_FAREWELL_S))  # whose signal ends it


_FAREWELL_S = 30
"""So long the training has to end its step once it is asked to."""
