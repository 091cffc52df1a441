"""The engine that needs nothing: one task after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from dmmn_qp.engines.base import Done, Failed, Function, Progressed, Result, Task


def run_here(
    function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed
) -> Iterator[Done[Result] | Failed]:
    """See `Engine`."""
    del workers
    for number, task in enumerate(tasks):
        try:
            outcome: Done[Result] | Failed = Done(function(task, partial(progressed, number)))
        except Exception as error:
            outcome = Failed(error)
        yield outcome
