"""What a ``run.json`` says of a run that can be done again; the file is anybody's, and nothing of it is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from dmmn_qp.errors import ConfigError
from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source_files import SLIDES_ROOTS, SOURCE, SOURCE_FILES
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import FileModel, explain
from dmmn_qp.text import printable, shorten
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.workflows import benchmarks

MAX_BYTES: Final = 64 * 2**20
"""Longest ``run.json`` that is read."""

_MOST_VALUES: Final = 1_000_000

_ELSEWHERE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|[\\/]{2}")
"""How a place begins that is on no disk of this machine: a URL, also one that a path was made of, or a share."""


class Stage(NamedTuple):
    """A command that can be reproduced.

    Attributes:
        options: Its options.
        others: What else its configuration tells.
    """

    options: type[FileModel]
    others: tuple[str, ...] = ()


STAGES: Final[Mapping[str, Stage]] = {
    "import": Stage(ImportOptions, ("annotations",)),
    "train": Stage(TrainOptions),
    "predict": Stage(PredictOptions, ("model",)),
    benchmarks.STAGE: Stage(benchmarks.BenchmarkOptions),
}


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run, as far as its ``run.json`` tells it and it can be done again.

    Attributes:
        path: The file.
        stage: Key of `STAGES`.
        options: Its options.
        others: What else it was given, by name; texts.
        sources: Of an import: what it was made of.
        slides_roots: Where slides were looked for, as typed.
        facts: All that the file says.
        elsewhere: What of it names a place that is not on a disk of this machine.
    """

    path: Path
    stage: str
    options: FileModel
    others: Mapping[str, str | None]
    sources: tuple[str, ...] = ()
    slides_roots: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """What the run wrote."""
        return self.path.parent

    def text(self, name: str) -> str:
        """A fact that is a text, fit to be shown; "unknown" where there is none."""
        value = self.facts.get(name)
        return shorten(value, 80) if isinstance(value, str) and value else "unknown"

    def table(self, name: str) -> Mapping[str, Any]:
        """A fact that is an object; an empty one where there is none."""
        value = self.facts.get(name)
        return value if isinstance(value, dict) else {}


def read_run(path: Path) -> RecordedRun:
    """Reads what a run was.

    Args:
        path: Its ``run.json``, or the folder with it.

    Raises:
        ConfigError: The file is missing or damaged, of a command that cannot be reproduced, or has options that this
            version does not know.
    """
    path = path / RUN_FILE if path.is_dir() else path
    facts = _facts(path)
    stage = facts.get("stage")
    if not isinstance(stage, str) or stage not in STAGES:
        shown = f'"{shorten(stage)}"' if isinstance(stage, str) else "a command that it does not name"
        raise ConfigError(f'"{path}" is of {shown}; what can be reproduced is {", ".join(STAGES)}')
    configuration = facts.get("configuration")
    if not isinstance(configuration, dict):
        raise ConfigError(f'"{path}" does not say the options of its run; name that of another run')
    known = STAGES[stage]
    configuration = dict(configuration)
    sources = _texts(configuration.pop(SOURCE, None), path) if stage == "import" else ()
    given = {name: value for name, value in configuration.items() if name not in known.others}
    others = {name: _text_or_none(configuration.get(name), name, path) for name in known.others}
    unknown = [name for name in given if name not in known.options.model_fields]
    if unknown:
        raise ConfigError(
            f'"{path}" has options that dmmn-qp {stage} does not know ({shorten(", ".join(unknown), 99)}); it is of '
            "another version, or of a loop of one's own"
        )
    roots = facts.get(SLIDES_ROOTS, []) if stage == "import" else []
    named = ("dataset", "inputs", SOURCE_FILES, *benchmarks.TOLD)
    told = [given, others, sources, roots, *(facts.get(name) for name in named)]
    texts = _checked(told, path)
    try:
        options = known.options.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f'"{path}" has an impossible option: {explain(error)}; it was changed by hand') from error
    slides_roots = tuple(root for root in roots if isinstance(root, str)) if isinstance(roots, list) else ()
    elsewhere = tuple(dict.fromkeys(text for text in texts if _ELSEWHERE.match(text)))
    return RecordedRun(path, stage, options, others, sources, slides_roots, facts, elsewhere)


def _facts(path: Path) -> dict[str, Any]:
    if why := why_not_there(path):
        raise ConfigError(f'"{path}" {why}; name the run.json of a dataset, model, predictions or benchmark')
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f'"{path}" is larger than {MAX_BYTES // 2**20} MiB, so it is no run.json of ours')
        facts = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f'"{path}" cannot be read as JSON ({shorten(str(error), 99)}); it is no run.json of ours'
        ) from error
    if not isinstance(facts, dict):
        raise ConfigError(f'"{path}" is no run.json of ours: it holds no object')
    return facts


def _text_or_none(value: object, name: str, path: Path) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ConfigError(f'"{path}" names no single {name}, so its run cannot be reproduced; repeat the command by hand')


def _texts(value: object, path: Path) -> tuple[str, ...]:
    """A text or several; none for nothing."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    texts = tuple(text for text in values if isinstance(text, str) and text)
    if len(texts) != len(values):
        raise ConfigError(f'"{path}" names no {SOURCE}, so its run cannot be reproduced; repeat the command by hand')
    return texts


def _checked(told: object, path: Path) -> list[str]:
    """All texts in what a file says.

    Raises:
        ConfigError: One of them cannot be shown as it is, or there are too many.
    """
    texts: list[str] = []
    for number, text in enumerate(_texts_in(told)):
        if printable(text) != text or "\0" in text:
            raise ConfigError(
                f'"{path}" has "{shorten(text)}" with characters that cannot be shown; repeat the command by hand'
            )
        if number > _MOST_VALUES:
            raise ConfigError(f'"{path}" holds more than {_MOST_VALUES:,} texts; repeat the command by hand')
        texts.append(text)
    return texts


def _texts_in(told: object) -> Iterator[str]:
    waiting = [told]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
