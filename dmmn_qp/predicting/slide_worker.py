"""What a worker on another machine does: it keeps the model, and predicts one slide after the other as a call here."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from rich.console import Console

from dmmn_qp.console import Reporter, Task
from dmmn_qp.engines.sending import packed_error
from dmmn_qp.errors import ClusterError
from dmmn_qp.networks.devices import computing
from dmmn_qp.predicting.call import Call
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.lazy_model import LazyModel
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.plan import AddFiles, Predict, RemakePolygons, make_plans
from dmmn_qp.predicting.run import run_one
from dmmn_qp.predicting.summary import Outcome

PARTS: Final = 100
"""So many parts of a slide are told as progress; the last one when all is done."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What all slides of a call have in common, as workers are told it.

    Attributes:
        folder: Where the command was started.
        model: The model.
        weights: Digest of its weights.
        out: Folder to write into.
        options: Resolved options.
        run: What ``run.json`` says of the call.
        overwrite: Whether finished predictions are made again and replaced.
        resume: Whether it is an error when an interrupted prediction cannot go on.
        take_over: Whether slides are predicted that another machine works on and shows no end.
    """

    folder: Path
    model: Path
    weights: str
    out: Path
    options: PredictOptions
    run: Mapping[str, Any]
    overwrite: bool
    resume: bool
    take_over: bool


@dataclass(frozen=True, slots=True)
class Begun:
    """What a worker says of itself.

    Attributes:
        device: Where it computes.
        how: Precision and context.
        probe: Name of a file that it has just written into the folder of predictions.
    """

    device: str
    how: str
    probe: str


@dataclass(frozen=True, slots=True)
class Assigned:
    """A slide that a worker is to predict.

    Attributes:
        slide: The slide.
        seen: The run of the prediction that was recorded when the call began; None for none.
    """

    slide: SlideToPredict
    seen: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a slide.

    Attributes:
        outcome: What came of it; None where it failed.
        error: Why it failed, as `packed_error` makes it.
        said: What was reported meanwhile: (method of `Reporter`, what it was given).
    """

    outcome: Outcome | None
    error: bytes
    said: tuple[tuple[str, tuple[str, ...]], ...]


class SlideWorker:
    """Predicts slides; the model is loaded once, wherever this is sent to."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._call: Call | None = None

    def prepare(self) -> Begun:
        """Goes to where the command was started, and loads the model.

        Raises:
            ClusterError: The disk is not the same, or has another model.
            ModelError: The model is damaged.
            ConfigError: The device is not there.
        """
        asked, host = self._asked, socket.gethostname()
        try:
            os.chdir(asked.folder)
            asked.out.mkdir(parents=True, exist_ok=True)
            probe = asked.out / f".{uuid4().hex[:8]}.part.{asked.run['run_id']}"
            probe.touch()
        except OSError as error:
            raise ClusterError(
                f'"{asked.folder}" and the folder of predictions cannot be used on {host} ({error.strerror or error}); '
                "all machines need the same disk, so begin in a folder on it"
            ) from error
        model = LazyModel(asked.model, asked.options)
        if model.weights_digest != asked.weights:
            raise ClusterError(f'model "{asked.model}" is another one on {host}; put it on the disk that all have')
        first = model.predictor
        self._call = Call(
            model, (), asked.out, asked.options, asked.run, _Words(lambda _: None),
            asked.overwrite, asked.resume, asked.take_over, has_others=True,
        )  # fmt: skip
        return Begun(str(first.device), f"{'bf16' if first.bf16 else 'fp32'}, context {first.context}", probe.name)

    def __call__(self, task: Assigned, advance: Callable[[int], None]) -> Told:
        """Predicts a slide as a call for this slide alone would."""
        assert self._call is not None  # it has been prepared
        words = _Words(advance)
        call = replace(self._call, slides=(task.slide,), reporter=words)
        outcome, failure = None, b""
        try:
            with computing(call.options.threads):
                (plan,) = make_plans(call)
                if isinstance(plan, Predict | RemakePolygons | AddFiles):
                    plan = replace(plan, seen=task.seen)
                outcome = run_one(call, plan)
        except Exception as error:  # of any kind: whoever asked decides what it means for the others
            error.add_note(f"on {socket.gethostname()}:\n" + "".join(traceback.format_exception(error)))
            failure = packed_error(error)
        words.advance_to(PARTS)
        return Told(outcome, failure, tuple(words.said))


class _Words(Reporter):
    """Keeps what is reported, and tells how far a slide is."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        super().__init__(Console(quiet=True))
        self.said: list[tuple[str, tuple[str, ...]]] = []
        self._advance = advance
        self._parts = 0

    def say(self, text: str) -> None:
        """Keeps a line."""
        self.said.append(("say", (text,)))

    def heading(self, text: str) -> None:
        """Keeps a line that begins a part."""
        self.said.append(("heading", (text,)))

    def warn(self, text: str) -> None:
        """Keeps a warning."""
        self.said.append(("warn", (text,)))

    def warn_of(self, subject: str, text: str, between: str = ": ") -> None:
        """Keeps a warning of a slide; of those of a kind all, as there are more where they end up."""
        self.said.append(("warn_of", (subject, text, between)))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Keeps a table, a line for each row."""
        for row in (header, *rows):
            self.say("  ".join(row))

    @contextmanager
    def task(self, description: str, total: int, done: int = 0, after: float = 0) -> Iterator[Task]:
        """A task of which the progress is told; the slide is done when its files are made too."""
        del after
        task = _Part(self, description, max(total, 1), done)
        task.advance(0)
        yield task

    def advance_to(self, parts: int) -> None:
        """Tells that so many parts of the slide are done."""
        if parts > self._parts:
            self._advance(parts - self._parts)
            self._parts = parts


class _Part(Task):
    """The task of a slide."""

    def __init__(self, words: _Words, description: str, total: int, done: int) -> None:
        super().__init__(words, description, total, done)
        self._words = words

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Counts work as done."""
        del note
        self._done += amount
        self._words.advance_to(self._done * (PARTS - 1) // self._total)
