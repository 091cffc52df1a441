"""What all engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

Task = TypeVar("Task")
Result = TypeVar("Result")

Function = Callable[[Task, Callable[[int], None]], Result]
"""What is done with a task. It is called with the task, and with a function that it may tell how much more is done."""

Progressed = Callable[[int, int], None]
"""Is told the number of a task, and how much more of it is done; less than 0 where that was lost with its worker."""


@runtime_checkable
class Preparing(Protocol):
    """A function with something to get ready in a worker that is far away, before its first task."""

    def prepare(self) -> object:
        """Gets it ready; whoever cannot is given no task.

        Returns:
            What there is to say of it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Done(Generic[Result]):
    """What a function returned for a task."""

    result: Result


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no result of a task: what the function raised, or `WorkerLostError` where its process ended."""

    error: Exception


Outcomes: TypeAlias = Generator[Done[Result] | Failed, None, None]
"""Outcomes of tasks, one after the other; to be closed (`contextlib.closing`), since something may run until then."""


class Engine(Protocol):
    """Runs a function over tasks."""

    def __call__(
        self, function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed
    ) -> Outcomes[Result]:
        """Runs a function over tasks.

        One task's failure is no other's. What is not an `Exception`, such as Ctrl-C, ends all, and so does closing
        the iterator; nothing runs on then. No task is begun before the first outcome is asked for.

        Args:
            function: What to do with a task. It and the tasks, results and errors may be pickled on the way, so it
                stands at the top of a module, or is a `functools.partial` of one that does.
            tasks: The tasks.
            workers: How many may run at once.
            progressed: Told of progress, from the thread that iterates.

        Yields:
            The outcome of each task, in the order of the tasks.
        """
        ...
