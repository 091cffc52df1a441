"""Carries out what is planned with workers of Ray.

What comes of it is what one process makes that computes in as many threads, on a machine of the same kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmmn_qp.console import Task
from dmmn_qp.engines import Failed as LostTask
from dmmn_qp.engines.ray_cluster import Node, connected, is_installed, nodes
from dmmn_qp.engines.ray_engine import Needs, RayEngine
from dmmn_qp.engines.sending import unpacked_error
from dmmn_qp.errors import ClusterError, ConfigError, InUseError
from dmmn_qp.files import remove_new_files
from dmmn_qp.files.failures import install_command
from dmmn_qp.files.locks import is_deserted
from dmmn_qp.files.renaming import remove
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.plan import AddFiles, Predict, RemakePolygons, SlidePlan
from dmmn_qp.predicting.publishing import write_run
from dmmn_qp.predicting.run import do_without_network, say_licence
from dmmn_qp.predicting.shards import sizes_of
from dmmn_qp.predicting.slide import MOST_DECODERS
from dmmn_qp.predicting.slide_worker import PARTS, Asked, Assigned, Begun, SlideWorker, Told
from dmmn_qp.predicting.summary import Outcome, Summary, left_out, say_skipped
from dmmn_qp.text import count_of

_CPUS: Final = 4
"""CPU cores of a worker without a GPU."""

_SAME_DISK_S: Final = 10.0
"""So long a file may need to be seen from another machine."""


def check_engine(options: PredictOptions, *, has_shard: bool) -> None:
    """Checks that slides can be predicted where it is asked for.

    Args:
        options: Resolved options.
        has_shard: Whether only a part of the slides is to be predicted.

    Raises:
        ConfigError: Options do not go together, or Ray is not installed.
    """
    options.check_cluster(has_shard=has_shard)
    if options.engine == "ray" and not is_installed():
        raise ConfigError(f"Ray is not installed; {install_command('ray')}, or leave out --engine ray")


def run_plans_on_cluster(call: Call, plans: Sequence[SlidePlan], model_folder: Path) -> Summary:
    """Does what is planned: here what there is nothing to compute for, and the rest by workers.

    Args:
        call: The call.
        plans: What is planned for each slide.
        model_folder: The model.

    Returns:
        What came of each slide, in the order of the plans; one that failed does not stop the others.

    Raises:
        ClusterError: The cluster cannot be used, or none of its machines can do the work.
        Exception: What stopped the only slide, or would stop the others too.
    """
    found: dict[str, Outcome] = {}
    waiting: list[Predict | RemakePolygons | AddFiles] = []
    remove_new_files(call.out)
    for plan in plans:
        if isinstance(plan, Predict | RemakePolygons | AddFiles):
            waiting.append(plan)
            continue
        outcome = do_without_network(call, plan, Summary())
        assert isinstance(outcome, Outcome)  # nothing is to be predicted for these
        found[outcome.slide_id] = outcome

    def summary() -> Summary:
        names = [plan.slide.slide_id for plan in plans]
        return Summary(tuple(found[name] for name in names if name in found))

    say_skipped(call, summary())
    try:
        for outcome in _Cohort(call, waiting, model_folder).outcomes() if waiting else ():
            found[outcome.slide_id] = outcome
    finally:
        if summary().has_news:
            write_run(call, summary())
    return summary()


@dataclass(slots=True)
class _Cohort:
    """Slides that workers predict.

    Attributes:
        call: The call.
        plans: What is planned for them.
        model_folder: The model.
        is_announced: Whether it has been said what predicts them.
    """

    call: Call
    plans: Sequence[Predict | RemakePolygons | AddFiles]
    model_folder: Path
    is_announced: bool = False

    def outcomes(self) -> Iterator[Outcome]:
        """What came of each slide; of those that were held by a worker that is no more, at last."""
        with ExitStack() as ends:
            address = self.call.options.address
            self.call.reporter.say(
                "Beginning Ray on this machine" if address is None else f'Connecting with the Ray cluster "{address}"'
            )
            ends.enter_context(connected(address))
            held: list[tuple[Assigned, InUseError]] = []
            for assigned, outcome in self._pass(self._assigned(), take_over=self.call.take_over):
                if isinstance(outcome, Outcome):
                    yield outcome
                else:
                    held.append((assigned, outcome))
            deserted = [assigned for assigned, _ in held if self._is_deserted(assigned)]
            for assigned, error in held:
                if assigned not in deserted:
                    yield left_out(self.call, assigned.slide.slide_id, error)
            for assigned, outcome in self._pass(deserted, take_over=True):
                name = assigned.slide.slide_id
                yield outcome if isinstance(outcome, Outcome) else left_out(self.call, name, outcome)

    def _assigned(self) -> list[Assigned]:
        """The slides, the largest first, so that none of these is the last."""
        sizes = sizes_of(plan.slide for plan in self.plans)
        plans = sorted(self.plans, key=lambda plan: -sizes[plan.slide.slide_id])
        return [Assigned(plan.slide, plan.seen) for plan in plans]

    def _pass(
        self, assigned: Sequence[Assigned], *, take_over: bool
    ) -> Iterator[tuple[Assigned, Outcome | InUseError]]:
        """Has slides predicted; of each what came of it, or why it is left to another process."""
        if not assigned:
            return
        call = self.call
        needs = needs_of(call.options, nodes())
        engine = RayEngine(call.options.address, needs, self._began, self._say, call.reporter.warn)
        names = [one.slide.slide_id for one in assigned]
        with call.reporter.task("slides", len(assigned)) as task:
            progress = _Progress(names, task)
            worker = SlideWorker(self._asked(needs, take_over=take_over))
            with closing(engine(worker, assigned, call.options.ray_workers or 0, progress)) as answers:
                for number, found in enumerate(answers):
                    progress.end(number)
                    outcome = self._outcome_of(names[number], found)
                    yield assigned[number], outcome

    def _outcome_of(self, name: str, found: Any) -> Outcome | InUseError:
        """What came of a slide, after what its worker said has been said here.

        Raises:
            Exception: What stops the only slide, or would stop the others too.
        """
        if isinstance(found, LostTask):
            return left_out(self.call, name, found.error)
        told: Told = found.result
        for method, texts in told.said:
            getattr(self.call.reporter, method)(*texts)
        if told.outcome is not None:
            return told.outcome
        error = unpacked_error(told.error)
        return error if isinstance(error, InUseError) else left_out(self.call, name, error)

    def _asked(self, needs: Needs, *, take_over: bool) -> Asked:
        call = self.call
        cores = {"workers": call.options.workers or needs.cpus, "threads": call.options.threads or needs.cpus}
        options = call.options.model_copy(update=cores)
        return Asked(
            Path.cwd(), self.model_folder, call.model.weights_digest, call.out, options, dict(call.run),
            call.overwrite, call.resume, take_over,
        )  # fmt: skip

    def _began(self, host: str, begun: Begun) -> None:
        """Checks that a worker writes where we read, and says once what predicts.

        Raises:
            ClusterError: It does not.
        """
        probe = self.call.out / begun.probe
        until = time.monotonic() + _SAME_DISK_S
        while not probe.exists():
            if time.monotonic() > until:
                raise ClusterError(
                    f'"{self.call.out}" is another folder on {host} than here; all machines need the same disk, so '
                    "pass an --out on it"
                )
            time.sleep(0.1)
        with suppress(OSError):
            remove(probe)
        self.call.model.elsewhere = begun.device
        to_predict = sum(isinstance(plan, Predict) for plan in self.plans)
        if to_predict and not self.is_announced:
            self.is_announced = True
            slides = count_of(to_predict, "slide")
            card = self.call.model.card
            self.call.reporter.heading(f"Predicting {slides} with {card.name} by Ray on {begun.device}, {begun.how}")
            say_licence(self.call)

    def _say(self, text: str) -> None:
        self.call.reporter.say(f"  {text}")

    def _is_deserted(self, assigned: Assigned) -> bool:
        """Whether nobody works on a slide any more; it may take a while until that is sure."""
        name = assigned.slide.slide_id
        self.call.reporter.say(f"  {name}: was held by a process; waiting to see whether it still works")
        return is_deserted(self.call.out / name)


class _Progress:
    """How far a cohort is: slides that are done, and those at work."""

    def __init__(self, names: Sequence[str], task: Task) -> None:
        self._names, self._task = names, task
        self._parts = dict.fromkeys(range(len(names)), 0)
        self._counted: set[int] = set()

    def __call__(self, number: int, amount: int) -> None:
        """Takes progress of a slide."""
        if number in self._counted:  # done, but its worker was lost before it could say what came of it
            return
        self._parts[number] += amount
        if self._parts[number] >= PARTS:
            self.end(number)
        else:
            self._task.advance(0, self._note())

    def end(self, number: int) -> None:
        """Counts a slide as done."""
        if number not in self._counted:
            self._counted.add(number)
            self._parts.pop(number)
            self._task.advance(1, self._note())

    def _note(self) -> str:
        return "  ".join(f"{self._names[number]} {done} %" for number, done in self._parts.items() if done)


def needs_of(options: PredictOptions, there: Sequence[Node]) -> Needs:
    """What a worker takes of its machine: GPUs where there are some and nothing else is asked for.

    Args:
        options: Resolved options.
        there: The machines of the cluster.
    """
    wants = options.device == "cuda" or (options.device == "auto" and any(node.gpus >= 1 for node in there))
    gpus = options.devices if wants else 0
    of_gpus = [node.cpus // (node.gpus // gpus) for node in there if gpus and node.gpus >= gpus]
    shares = [min(cpus, MOST_DECODERS) for cpus in of_gpus] or [
        min(node.cpus, _CPUS) for node in there if node.cpus >= 1
    ]
    cpus = options.ray_cpus or max(1, int(min(shares, default=1)))
    return Needs(cpus, gpus, int(options.ray_memory_gb * 1e9))
