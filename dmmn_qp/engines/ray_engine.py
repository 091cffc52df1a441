"""The engine of many machines: workers of Ray, each an actor that keeps what it has loaded.

Which worker gets which task is decided here, not by Ray: so a task whose worker is lost goes to another machine where
there is one, and one that ends its workers again and again is known as such.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

from dmmn_qp.engines.base import Done, Failed, Function, Outcomes, Progressed, Result, Task
from dmmn_qp.engines.ray_cluster import Node, connected, nodes
from dmmn_qp.engines.ray_worker import Answer, RayWorker
from dmmn_qp.engines.sending import packed, unpacked, unpacked_error
from dmmn_qp.errors import ClusterError, WorkerLostError
from dmmn_qp.text import shorten
from dmmn_qp.version import __version__

TRIES: Final = 3
"""A task that has ended so many workers is no more given to others."""

TRIES_OF_NODES: Final = 10
"""Nor is one whose machine was lost so often."""

LONGEST_WAIT_S: Final = 300.0
"""So long it is waited for another machine where all are lost."""

_LOOK_S: Final = 2.0
_HEARD_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker takes of its machine.

    Attributes:
        cpus: CPU cores.
        gpus: GPUs.
        memory: Bytes; by them Ray plans, but does not hold anybody to it.
    """

    cpus: int = 1
    gpus: int = 0
    memory: int = 0

    def places(self, node: Node) -> int:
        """How many workers a machine has room for."""
        shares = ((node.cpus, self.cpus), (node.gpus, self.gpus), (node.memory, self.memory))
        return int(min((has / takes for has, takes in shares if takes), default=0))

    def __str__(self) -> str:
        gpus = f", {self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else ""
        memory = f", {self.memory / 1e9:g} GB of memory" if self.memory else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}{memory}"


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Runs functions over tasks in workers of Ray; see `Engine`. No worker, or none at most, means as many as fit.

    Attributes:
        address: ``auto`` or host:port of a cluster; None for one of our own, on this machine alone.
        needs: What a worker takes.
        began: Told of each worker that begins: its machine, and what `Preparing.prepare` returned there.
        said: Told what the user may want to know.
        warned: Told what the user should know.
    """

    address: str | None = None
    needs: Needs = Needs()
    began: Callable[[str, Any], None] = lambda *_: None
    said: Callable[[str], None] = lambda _: None
    warned: Callable[[str], None] = lambda _: None

    def __call__(
        self, function: Function[Task, Result], tasks: Sequence[Task], workers: int, progressed: Progressed
    ) -> Outcomes[Result]:
        """See `Engine`.

        Raises:
            ClusterError: The cluster cannot be used, or has no machine that can do the work.
            ImportError: Ray is not installed.
            Exception: What no worker could be prepared for.
        """
        if not tasks:
            return
        outcomes: dict[int, Done[Result] | Failed] = {}
        with connected(self.address) as ray:
            team = _Team(ray, self, function, tasks, workers)
            try:
                for number in range(len(tasks)):
                    while number not in outcomes:
                        for about, word, what in team.heard():
                            if word == "progress":
                                progressed(about, what)
                            else:
                                outcomes[about] = what
                    yield outcomes.pop(number)
            finally:
                team.end()


@dataclass(slots=True, eq=False)
class _Member:
    """A worker.

    Attributes:
        actor: It, for Ray.
        node: Its machine.
        awaited: Its next answer.
        is_ready: Whether it has been prepared.
        number: Its task; None where it has none.
        told: How much of that it has done.
    """

    actor: Any
    node: Node
    awaited: Any
    is_ready: bool = False
    number: int | None = None
    told: int = 0


@dataclass(slots=True)
class _Losses:
    """How a task lost its workers: on which machines, and how often these machines were not to blame."""

    nodes: list[Node] = field(default_factory=list)
    ended: int = 0

    @property
    def are_too_many(self) -> bool:
        return self.ended >= TRIES or len(self.nodes) >= TRIES_OF_NODES

    def __str__(self) -> str:
        hosts = ", ".join(dict.fromkeys(node.host for node in self.nodes))
        return f"{len(self.nodes)} times, on {hosts}"


Word = tuple[int, str, Any]


class _Team:
    """Workers that share tasks."""

    def __init__(self, ray: Any, engine: RayEngine, function: Any, tasks: Sequence[Any], workers: int) -> None:
        self._ray, self._engine, self._tasks = ray, engine, tasks
        self._given = (packed(function), __version__, [path for path in sys.path if Path(path).is_absolute()])
        self._most = workers if workers > 0 else len(tasks)
        self._left = deque(range(len(tasks)))
        self._losses: dict[int, _Losses] = {}
        self._members: list[_Member] = []
        self._unfit: dict[str, Exception] = {}
        self._lost_at_start: Counter[str] = Counter()
        self._looked_at = self._alone_since = -inf

    def heard(self) -> list[Word]:
        """What is heard next; (number of the task, "progress" or "outcome", how much or what)."""
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._grow()
            self._looked_at = time.monotonic()
        words: list[Word] = []
        for member in [one for one in self._members if one.is_ready and one.number is None]:
            words += self._given_a_task(member)
        by_answer = {member.awaited: member for member in self._members if member.awaited is not None}
        if not by_answer:
            time.sleep(_HEARD_S)
            return words
        ready, _ = self._ray.wait([*by_answer], num_returns=1, timeout=_HEARD_S)
        if ready:
            ready, _ = self._ray.wait([*by_answer], num_returns=len(by_answer), timeout=0)
        for answer in ready:
            words += self._heard_of(by_answer[answer])
        return words

    def end(self) -> None:
        """Ends all workers, whatever they do."""
        for member in [*self._members]:
            self._dismiss(member)

    def _heard_of(self, member: _Member) -> list[Word]:
        """What a worker says."""
        try:
            said = self._ray.get(member.awaited)
        except Exception as error:  # of many kinds, all of which mean that it is no more
            self._dismiss(member)
            self._looked_at = -inf
            return self._lost(member, error) if member.is_ready else self._not_begun(member, error)
        if not member.is_ready:
            self._begun(member, said)
            return []
        assert member.number is not None
        number, (progress, answer) = member.number, said
        member.told += progress
        words: list[Word] = [(number, "progress", progress)] if progress else []
        if answer is None:
            member.awaited = member.actor.heard.remote()
            return words
        member.number, member.awaited = None, None
        return [*words, (number, "outcome", _outcome(answer))]

    def _begun(self, member: _Member, answer: Answer) -> None:
        """Takes a worker among those that are given tasks, if it could be prepared."""
        prepared = _outcome(answer)
        if isinstance(prepared, Failed):
            self._dismiss(member)
            self._leave_out(member.node, prepared.error)
            return
        member.is_ready, member.awaited = True, None
        self._lost_at_start.pop(member.node.node_id, None)
        self._engine.began(member.node.host, prepared.result)

    def _not_begun(self, member: _Member, error: Exception) -> list[Word]:
        """Notes that a worker ended as it was prepared."""
        node = member.node
        self._lost_at_start[node.node_id] += 1
        if self._lost_at_start[node.node_id] >= TRIES and self._is_there(node):
            reason = shorten(" ".join(str(error).split()), 300)
            self._leave_out(node, ClusterError(f"no worker can begin on {node.host} ({reason}); see Ray's logs there"))
        return []

    def _leave_out(self, node: Node, error: Exception) -> None:
        """Gives no task to a machine any more."""
        if node.node_id not in self._unfit:
            self._unfit[node.node_id] = error
            self._looked_at = -inf
            if self._members or any(self._places(other) for other in nodes()):
                self._engine.warned(f"{node.host} is left out: {error}")

    def _lost(self, member: _Member, error: Exception) -> list[Word]:
        """Notes that a worker is no more, and puts its task first among those that are left."""
        number, node = member.number, member.node
        if number is None:
            return []
        losses = self._losses.setdefault(number, _Losses())
        losses.nodes.append(node)
        losses.ended += self._is_there(node)
        words: list[Word] = [(number, "progress", -member.told)] if member.told else []
        if losses.are_too_many:
            way_out = "see what is special about it, or give workers more memory"
            return [*words, (number, "outcome", Failed(WorkerLostError(str(losses), way_out)))]
        self._left.appendleft(number)
        self._engine.said(f"a worker on {node.host} was lost ({_how(error)}); its task is begun again on another")
        return words

    def _given_a_task(self, member: _Member) -> list[Word]:
        """Gives a worker something to do, or ends it where there is nothing."""
        if not self._left:
            self._dismiss(member)
            return []
        number = self._next_for(member)
        if number is None:
            return []
        self._left.remove(number)
        try:
            task = packed(self._tasks[number])
        except Exception as error:  # of any kind: what a task is made of says what it cannot
            return [(number, "outcome", Failed(error))]
        member.number, member.told = number, 0
        member.actor.take.remote(task)
        member.awaited = member.actor.heard.remote()
        return []

    def _next_for(self, member: _Member) -> int | None:
        """The first task that is left, but for those that lost a worker on this machine while others can do them."""
        others = {other.node.node_id for other in self._members if other.is_ready}
        for number in self._left:
            lost_on = {node.node_id for node in self._losses[number].nodes} if number in self._losses else set()
            if member.node.node_id not in lost_on or others <= lost_on:
                return number
        return None

    def _grow(self) -> None:
        """Begins workers where there is room for them, spread over the machines.

        Raises:
            ClusterError: There is no machine for any.
            Exception: What no machine could be prepared for.
        """
        there = nodes()
        taken = Counter(member.node.node_id for member in self._members)
        free = {node.node_id: self._places(node) - taken[node.node_id] for node in there}
        busy = sum(member.number is not None for member in self._members)
        for _ in range(min(self._most, len(self._left) + busy) - len(self._members)):
            node = max(there, key=lambda one: (free[one.node_id], -taken[one.node_id]), default=None)
            if node is None or free[node.node_id] <= 0:
                break
            free[node.node_id] -= 1
            taken[node.node_id] += 1
            self._members.append(self._new(node))
        self._check_not_alone(there)

    def _check_not_alone(self, there: Sequence[Node]) -> None:
        """Ends all where nobody is left to do anything, and nobody comes."""
        if self._members or not self._left:
            self._alone_since = time.monotonic()
            return
        if self._unfit and not any(self._places(node) for node in there):
            raise next(iter(self._unfit.values()))
        if time.monotonic() - self._alone_since > LONGEST_WAIT_S:
            largest = max(there, key=lambda node: (node.gpus, node.cpus), default=None)
            has = "" if largest is None else f": the largest has {largest.cpus:g} CPUs and {largest.gpus:g} GPUs"
            raise ClusterError(
                f"no machine of the Ray cluster has {self._engine.needs} for a worker{has}, "
                f"{0 if largest is None else largest.memory / 1e9:.1f} GB; ask for less, or add machines"
            )

    def _places(self, node: Node) -> int:
        return 0 if node.node_id in self._unfit else self._engine.needs.places(node)

    def _new(self, node: Node) -> _Member:
        """Begins a worker on a machine."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        needs = self._engine.needs
        made = self._ray.remote(
            num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory or None, max_restarts=0, max_task_retries=0
        )(RayWorker)
        actor = made.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote()
        return _Member(actor, node, actor.begin.remote(*self._given))

    def _dismiss(self, member: _Member) -> None:
        """Ends a worker, whatever it does."""
        self._members.remove(member)
        self._ray.kill(member.actor, no_restart=True)

    def _is_there(self, node: Node) -> bool:
        """Whether a machine is alive; that it is not is known a while after its workers are lost."""
        return any(one.node_id == node.node_id for one in nodes())


def _outcome(answer: Answer) -> Done[Any] | Failed:
    try:
        return Done(unpacked(answer[1])) if answer[0] == "done" else Failed(unpacked_error(answer[1]))
    except Exception as error:  # of any kind: what a result is made of says what it cannot
        return Failed(error)


def _how(error: Exception) -> str:
    """How a worker was lost, as far as Ray says it in a word."""
    text = str(error).lower()
    if "low on memory" in text:
        return "its machine was short of memory"
    return "its machine is gone" if "node has died" in text or "node died" in text else "its process was ended"
