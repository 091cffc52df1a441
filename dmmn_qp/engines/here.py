"""The engine that needs nothing: one task after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dmmn_qp.engines.base import Done, Failed, Function, Outcomes, Progressed, Result, Task


def run_here(
    function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed
) -> Outcomes[Result]:
    """See `Engine`."""
    del workers
    for number, task in enumerate(tasks):
        yield done_here(function, task, partial(progressed, number))


def done_here(function: Function[Task, Result], task: Task, advance: Callable[[int], None]) -> Done[Result] | Failed:
    """The outcome of one task, which is done in this process."""
    try:
        return Done(function(task, advance))
    except Exception as error:  # of any kind: it is this task's, and no other's
        return Failed(error)
