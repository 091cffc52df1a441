"""`dmmn-qp round`: import, train, predict and push, each only where something changed, by the stages themselves.

What was done stays: a round that stopped, however that was, goes on with the same command where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError, RoundStoppedError
from dmmn_qp.files.failures import line_of
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.model_glance import glance_models, newest
from dmmn_qp.folders.predictions import read_predictions
from dmmn_qp.folders.rounds import loop_folder
from dmmn_qp.text import shorten
from dmmn_qp.workflows.earlier import earlier_import
from dmmn_qp.workflows.places import command
from dmmn_qp.workflows.steps import RoundRequest, Step, import_step, predict_step, push_step, slides_of, train_step

_GOES_ON = "the same command goes on there"


def run_round(asked: RoundRequest, reporter: Reporter) -> list[str]:
    """Does what a round needs, step by step.

    Args:
        asked: What is asked for.
        reporter: Where to report.

    Returns:
        The names of the steps that were done.

    Raises:
        ConfigError: Training or prediction are to do what needs a package that is not installed.
        InUseError: Another round is under way here.
        RoundStoppedError: A step failed; the message says which and why.
        KeyboardInterrupt: It was asked to stop; the message says how to go on.
    """
    _check_extras(asked)
    folder = loop_folder(asked.places.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[str] = []
    with locked(folder / "round", "a round", "wait until it has ended", where=folder):
        for name, plan in _steps(asked).items():
            with _going_on(name):
                step = plan(False)
                if step.skipped is not None:
                    reporter.say(f"skipped: {name} ({step.skipped})")
                else:
                    _check_project(asked, name)
                    step.do(reporter)
                    done.append(name)
            if name == "train":
                _say_unaccepted(asked, reporter)
    _say_way_on(asked, reporter)
    return done


def plan_round(asked: RoundRequest) -> list[Step]:
    """The steps that a round would take, none of which is done; what follows from a step is taken to be needed.

    Raises:
        ConfigError: See `run_round`.
    """
    _check_extras(asked)
    steps: list[Step] = []
    for plan in _steps(asked).values():
        steps.append(plan(any(step.skipped is None for step in steps)))
    return steps


def _check_extras(asked: RoundRequest) -> None:
    """Makes sure that the last step has what it needs, before hours are spent on the first.

    Raises:
        ConfigError: It has not.
    """
    from dmmn_qp.outputs.writers import check_extras
    from dmmn_qp.predicting.on_cluster import check_engine
    from dmmn_qp.training.log import wants_events

    wants_events(asked.training.tensorboard)
    check_engine(asked.predicting, has_shard=False)
    check_extras(asked.predicting)


def _steps(asked: RoundRequest) -> dict[str, Callable[[bool], Step]]:
    """Name -> plans the step, told whether a step before it has news."""
    steps: dict[str, Callable[[bool], Step]] = {
        "import": lambda has_news: import_step(asked, earlier_import(asked.places.dataset)),
        "train": lambda has_news: train_step(asked, has_news=has_news),
        "predict": lambda has_news: predict_step(asked, has_news=has_news),
    }
    if asked.push:
        steps["push"] = lambda has_news: push_step(asked, has_news=has_news)
    return steps


@contextmanager
def _going_on(name: str) -> Iterator[None]:
    """Says of whatever stops a step how to go on."""
    try:
        yield
    except (DmmnQpError, OSError) as error:
        raise RoundStoppedError(f"{line_of(error)} (the round stopped at {name}; {_GOES_ON})") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at {name}; {_GOES_ON}") from None


def _check_project(asked: RoundRequest, name: str) -> None:
    """Makes sure, before hours are spent on it, that predictions can be pushed."""
    if asked.push and name == "train":
        from dmmn_qp.predicting.inputs import slides_to_predict
        from dmmn_qp.predicting.request import input_of
        from dmmn_qp.pushing.stage import check_push

        slides = slides_to_predict([], asked.places.dataset, asked.slides_roots)
        inputs = {slide.slide_id: input_of(slide) for slide in slides if slide.problem is None}
        for source in asked.sources:
            own = {slide_id: inputs[slide_id] for slide_id in slides_of(asked, source, inputs)}
            if own or len(asked.sources) == 1:
                check_push(source, own, asked.slides_roots, asked.qupath_dir)


def _say_unaccepted(asked: RoundRequest, reporter: Reporter) -> None:
    """Says when the model that was made last is not the one that predicts."""
    models = [m for m in glance_models(asked.places.models) if not m.is_damaged]
    used = newest(models)
    last = models[-1] if models else None
    if last is not None and not last.accepted and used is not None:
        from dmmn_qp.reports.html import REPORT_PAGE

        reporter.say(
            f"{shorten(last.name)} is not accepted ({last.folder / REPORT_PAGE} says why); {shorten(used.name)} "
            f"predicts on; to take it as it is: {command('models accept', last.folder)}"
        )


def _say_way_on(asked: RoundRequest, reporter: Reporter) -> None:
    """Says what is to be done in QuPath."""
    folder: Path = asked.places.predictions
    if not read_predictions(folder):
        return
    review = "lock what is right, correct what is wrong, save, and repeat this command"
    if asked.push:
        reporter.say(f"Next: open the project in QuPath, {review}")
    else:
        reporter.say(
            f"Next: in QuPath, drag {folder}/<slide>.geojson onto each slide (or close the project and use --push); "
            f"{review}"
        )
