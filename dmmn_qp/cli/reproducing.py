"""`dmmn-qp reproduce`: the command of a run again, with all that it was given."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dmmn_qp.cli.app import app
from dmmn_qp.cli.help import Command
from dmmn_qp.cli.model_options import flag_of, option_names
from dmmn_qp.cli.options import SlidesRootOption, parsed_slides_roots
from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.specs import FileModel, as_toml
from dmmn_qp.training.options import PRESETS, TrainOptions

if TYPE_CHECKING:
    from dmmn_qp.workflows.recorded import RecordedRun

_TOML = "again.toml"


@app.command("reproduce", cls=Command)
def reproduce_command(
    run: Annotated[
        Path,
        typer.Argument(
            help="run.json of a dataset, model, predictions or benchmark, or its folder.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="New folder for what comes of it.", metavar="FOLDER", show_default=False)
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Of a training: its dataset.", metavar="FOLDER", show_default="the one that it tells"),
    ] = None,
    slides_root: SlidesRootOption = None,
    again: Annotated[
        bool, typer.Option("--run", help="Do it again, into --out, and compare what comes of it.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option(help="Of a benchmark: part of a figure by which it may differ.", metavar="PART", min=0),
    ] = 0.1,
) -> None:
    """Prints the command of a run with all its options, and what differs now from when it was run."""
    from dmmn_qp.workflows.recorded import read_run
    from dmmn_qp.workflows.reproducing import dataset_of, run_again

    recorded, reporter, roots = read_run(run), Reporter(), parsed_slides_roots(slides_root)
    dataset = dataset_of(recorded, dataset)
    if again and out is None:
        raise ConfigError("reproduce --run needs a new folder to write into; name one with --out")
    _say(recorded, out, dataset, roots, reporter)
    if again and out is not None:
        for line in run_again(recorded, out, reporter, dataset=dataset, slides_roots=roots, tolerance=tolerance):
            reporter.say(f"  {line}")


def _say(run: RecordedRun, out: Path | None, dataset: Path | None, roots: Sequence[Any], reporter: Reporter) -> None:
    """Says what was run, what differs, and the command."""
    from dmmn_qp.workflows.drift import differences

    reporter.heading(f"{run.stage} of {run.text('started')}, run {run.text('run_id')}")
    found = differences(run, dataset, roots)
    if found:
        reporter.say("What differs now:")
        reporter.table(("", "then", "now"), found)
    else:
        reporter.say("Nothing that is known differs now.")
    words, toml = command_of(run, out, dataset)
    reporter.say(shlex.join(words))
    if toml is not None:
        reporter.say(f"with {_TOML}:")
        for line in toml.splitlines():
            reporter.say(line)


def command_of(run: RecordedRun, out: Path | None, dataset: Path | None) -> tuple[list[str], str | None]:
    """The command of a run in words, and the configuration of what has no option; None where all has one.

    Args:
        run: The run.
        out: Where to write; None for a name beside the one of before.
        dataset: Of a training: its dataset.
    """
    from dmmn_qp.workflows.benchmarks import BenchmarkOptions

    if isinstance(run.options, BenchmarkOptions):
        return ["python", *run.options.command(out or Path(f"{run.options.benchmark}-again"))], None
    places = _places(run, dataset)
    typed, rest = typed_options(run.options)
    words = ["dmmn-qp", run.stage, *places, *typed, "--out", str(out or f"{run.folder.resolve().name}-again")]
    if not rest:
        return words, None
    lines = as_toml(run.stage, run.options).splitlines()
    wanted = tuple(f"{name} = " for name in rest)
    return [*words, "--config", _TOML], "\n".join(line for line in lines if line.startswith(("[", *wanted)))


def _places(run: RecordedRun, dataset: Path | None) -> list[str]:
    """What the command is pointed at."""
    from dmmn_qp.workflows.drift import slides_of

    if run.stage == "import":
        roots = [word for root in run.slides_roots for word in ("--slides-root", root)]
        annotations = run.others["annotations"]
        named = [] if annotations is None else ["--annotations", annotations]
        return [*map(_argument, run.sources or ("SOURCE",)), *named, *roots]
    if run.stage == "train":
        return [] if dataset is None else ["--dataset", str(dataset)]
    slides = [_argument(image.path) for image in slides_of(run).values()]
    return [*slides, "--model", run.others["model"] or "MODEL"]


def typed_options(options: FileModel) -> tuple[list[str], list[str]]:
    """Options that are not as they are by default, as they are typed, and the names of those that have no option."""
    defaults = _defaults(options)
    words: list[str] = []
    rest: list[str] = []
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if value == defaults[name] or (value is None and defaults[name] is not None):
            continue
        flag = flag_of(field)
        if flag is None:
            rest.append(name)
            continue
        names = option_names(name, field, flag)
        if isinstance(value, bool):
            words.append(names[0] if value else names[1])
        elif isinstance(value, tuple) and field.annotation == tuple[str, ...]:
            words += [word for item in value for word in (names[0], item)]
        else:
            words += [names[0], _typed(value)]
    return words, rest


def _defaults(options: FileModel) -> Mapping[str, Any]:
    """What the options are unless they are given; those of a training depend on its preset and its encoder."""
    if not isinstance(options, TrainOptions):
        return dict(type(options)())
    from dmmn_qp.networks import ARCHITECTURES
    from dmmn_qp.training.plan import OF_ENCODER

    architecture = ARCHITECTURES.get(options.architecture)
    decided = OF_ENCODER if architecture is not None and architecture.pretrained else ()
    preset = TrainOptions.model_validate(PRESETS[options.preset])
    return {**dict(preset), "preset": "fast", **{name: getattr(options, name) for name in decided}}


def _typed(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_typed, value))
    return repr(value) if isinstance(value, float) else str(value)


def _argument(value: str) -> str:
    """What is named without an option; one that begins with a dash would be taken for an option."""
    return f"./{value}" if value.startswith("-") else value
