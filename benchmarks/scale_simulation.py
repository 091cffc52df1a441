"""GPUs that read slides from one bucket, event by event, for `benchmarks.scale`."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True, slots=True)
class Fleet:
    """GPUs that read from one bucket.

    Attributes:
        gpus: Their number.
        gpu_s: Time of a slide of size 1 on each.
        fetch_s: Time that its cores need for one at least, fetching, decoding and writing.
        read_gb: What of it is fetched.
        bucket_gb_s: Bandwidth of all together; may be infinite.
        stream_gb_s: Bandwidth of each.
        failure: Chance of an attempt to fail.
        restart_s: Time until a GPU goes on then.
        slow: Chance of an attempt to be slow.
        slow_factor: How much longer it takes then.
    """

    gpus: int
    gpu_s: float
    fetch_s: float
    read_gb: float
    bucket_gb_s: float
    stream_gb_s: float = float("inf")
    failure: float = 0.0
    restart_s: float = 0.0
    slow: float = 0.0
    slow_factor: float = 1.0

    @property
    def own_gb_s(self) -> float:
        """What one GPU's cores and network take in, if the bucket gives it."""
        return min(self.stream_gb_s, self.read_gb / self.fetch_s if self.fetch_s else float("inf"))


@dataclass(slots=True)
class Outcome:
    """What came of a simulation.

    Attributes:
        ended: When each slide was done, in this order, s.
        busy_s: Time of all GPUs at work, on attempts that failed too.
        fetched_gb: What was fetched, again for each attempt.
        failed: Attempts that failed.
    """

    ended: list[float] = field(default_factory=list)
    busy_s: float = 0.0
    fetched_gb: float = 0.0
    failed: int = 0

    @property
    def slides_per_s(self) -> float:
        """The rate between the first and the last tenth."""
        n = len(self.ended)
        first, last = n // 10, n - 1 - n // 10
        return (last - first) / (self.ended[last] - self.ended[first])


class _Bucket:
    """Transfers that share a bandwidth equally, none faster than its reader takes it.

    What one transfer that never ends would have got so far is `level`; a transfer ends when that has grown by its size.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._own, self._all = fleet.own_gb_s, fleet.bucket_gb_s
        self._level, self._ends, self._order = 0.0, list[tuple[float, int, int]](), count()

    @property
    def _rate(self) -> float:
        return min(self._own, self._all / len(self._ends))

    def begin(self, gpu: int, gb: float) -> None:
        heapq.heappush(self._ends, (self._level + gb, next(self._order), gpu))

    def remaining(self) -> float:
        """Time until the next transfer ends; infinite without any."""
        return (self._ends[0][0] - self._level) / self._rate if self._ends else float("inf")

    def wait(self, seconds: float) -> None:
        if self._ends and seconds > 0:
            self._level += seconds * self._rate

    def end(self) -> int:
        """Ends the next transfer; whose it was."""
        self._level, _, gpu = heapq.heappop(self._ends)
        return gpu


class _Simulation:
    """GPUs at work: each has a slide in work, one that waits, or one that is being fetched."""

    def __init__(self, sizes: Sequence[float], fleet: Fleet, seed: int) -> None:
        self.fleet, self.outcome, self._rng = fleet, Outcome(), random.Random(seed)
        self._queue = deque(sizes)
        self._bucket, self._events, self._order = _Bucket(fleet), list[tuple[float, int, int]](), count()
        self._fetching: dict[int, float] = {}
        self._waiting: dict[int, float] = {}
        self._working: dict[int, float] = {}
        self._done: dict[int, bool] = {}
        self.now = 0.0

    def run(self) -> Outcome:
        for gpu in range(self.fleet.gpus):
            self._fetch(gpu)
        while self._fetching or self._working:
            until_fetched = self._bucket.remaining()
            until_event = self._events[0][0] - self.now if self._events else float("inf")
            if until_fetched <= until_event:
                self.now += until_fetched
                gpu = self._bucket.end()
                self._waiting[gpu] = self._fetching.pop(gpu)
            else:
                self._bucket.wait(until_event)
                self.now, _, gpu = heapq.heappop(self._events)
                self._end(gpu)
            self._work(gpu)
            self._fetch(gpu)
        return self.outcome

    def _fetch(self, gpu: int) -> None:
        if self._queue and gpu not in self._fetching and gpu not in self._waiting:
            self._fetching[gpu] = self._queue.popleft()
            gb = self._fetching[gpu] * self.fleet.read_gb
            self._bucket.begin(gpu, gb)
            self.outcome.fetched_gb += gb

    def _work(self, gpu: int) -> None:
        if gpu in self._working or gpu not in self._waiting:
            return
        size = self._working[gpu] = self._waiting.pop(gpu)
        seconds = size * self.fleet.gpu_s * (self.fleet.slow_factor if self._happens(self.fleet.slow) else 1)
        fails = self._happens(self.fleet.failure)
        self._done[gpu] = not fails
        seconds *= self._rng.random() if fails else 1
        self.outcome.busy_s += seconds
        pause = self.fleet.restart_s if fails else 0.0
        heapq.heappush(self._events, (self.now + seconds + pause, next(self._order), gpu))

    def _end(self, gpu: int) -> None:
        size = self._working.pop(gpu)
        if self._done.pop(gpu):
            self.outcome.ended.append(self.now)
            return
        self.outcome.failed += 1
        self._queue.append(size)
        for idle in range(self.fleet.gpus if len(self._queue) == 1 else 0):
            self._fetch(idle)

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._rng.random() < chance


def simulate(sizes: Sequence[float], fleet: Fleet, seed: int = 0) -> Outcome:
    """Lets a fleet predict slides, until all are done.

    Args:
        sizes: Of each slide how much more it is than one of size 1.
        fleet: The GPUs.
        seed: Of failures and slow attempts.
    """
    return _Simulation(sizes, fleet, seed).run()
