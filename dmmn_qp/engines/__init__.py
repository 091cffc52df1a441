"""Functions run over many tasks: in this process, or in several at once. Nothing here knows what the tasks are.

To add a way of running them, write one file with an `Engine`, and give it a line in `ENGINES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmmn_qp.engines.base import Done, Engine, Failed, Function, Outcomes, Progressed, Result, Task
from dmmn_qp.engines.here import run_here
from dmmn_qp.engines.processes import run_in_processes
from dmmn_qp.engines.ray_engine import RayEngine

__all__ = ["ENGINES", "Done", "Engine", "Failed", "Outcomes", "run"]

ENGINES: Final[dict[str, Engine]] = {"here": run_here, "processes": run_in_processes, "ray": RayEngine()}
"""Ways of running a function over tasks, all with the same results."""


def run(
    function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed = lambda *_: None
) -> Outcomes[Result]:
    """Runs a function over tasks in so many processes, but in no more than there are tasks; see `Engine`.

    Args:
        function: What to do with a task.
        tasks: The tasks.
        workers: Number of processes; one, or none, means this one.
        progressed: Told of progress within tasks.
    """
    workers = min(workers, len(tasks))
    return ENGINES["here" if workers <= 1 else "processes"](function, tasks, workers, progressed)
