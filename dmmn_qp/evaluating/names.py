"""Classes of predictions and truth meet by their names."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from dmmn_qp.errors import ConfigError
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.evaluating.predicted import PredictedLabels
from dmmn_qp.evaluating.truth import Truth
from dmmn_qp.labels.class_rules import namesake, nearest_name
from dmmn_qp.reports.evaluation_tables import listed
from dmmn_qp.text import printable

_LACKS: Final = ("there is no predicted class", "there is no true class")


def pairs_of(
    predicted: Sequence[Mapping[str, PredictedLabels]], truths: Sequence[Truth], options: EvaluateOptions
) -> list[tuple[str, str]]:
    """Reads the predicted and the true class of each ``--map``.

    Args:
        predicted: The slides of each model.
        truths: What they are compared with.
        options: How to compare.

    Raises:
        ConfigError: An option names a class that does not exist, or contradicts another.
    """
    found = list(dict.fromkeys(name for model in predicted for p in model.values() for name in p.names))
    true = list(dict.fromkeys(name for truth in truths for name in truth.classes.values()))
    for name in options.exclude:
        check_name(name, true, _LACKS[1], f'--exclude "{printable(name)}"')
    if set(true) <= set(options.exclude):
        raise ConfigError("--exclude leaves no class to compare; name fewer")
    pairs = [read_pair(text, (found, true), _LACKS, "PREDICTED=TRUTH") for text in options.maps]
    for truth in truths:
        given: dict[str, str] = {}
        for name, true_name in pairs:
            if true_name in truth.classes.values() and given.setdefault(name, true_name) != true_name:
                raise ConfigError(
                    f'--map gives the predicted class "{printable(name)}" to "{printable(given[name])}" and to '
                    f'"{printable(true_name)}" of {truth.name}; keep one of them'
                )
    return pairs


def with_true_names(
    predicted: Mapping[str, PredictedLabels], truth: Truth, pairs: Sequence[tuple[str, str]]
) -> dict[str, PredictedLabels]:
    """Gives predictions the names that a truth has for their classes.

    A pair whose true class is another truth's does nothing here: the dataset and maps may name one class in two ways.
    """
    new = {name: true_name for name, true_name in pairs if true_name in truth.classes.values()}
    return {s: replace(p, names=tuple(new.get(name, name) for name in p.names)) for s, p in predicted.items()}


def read_pair(
    text: str, known: tuple[Collection[str], Collection[str]], lacks: tuple[str, str], form: str
) -> tuple[str, str]:
    """Reads the two classes of a ``--map``; names may hold the sign ``=`` themselves.

    Args:
        text: What the user wrote.
        known: The classes that may stand on the left, and those on the right.
        lacks: What is said of a name that is none of them, on either side; the name follows.
        form: How it is written, such as ``PREDICTED=TRUTH``.

    Raises:
        ConfigError: It is no pair of these.
    """
    pairs = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
    fitting = [pair for pair in pairs if pair[0] in known[0] and pair[1] in known[1]]
    if len(fitting) == 1:
        return fitting[0]
    option = f'--map "{printable(text)}"'
    if not pairs or fitting:
        raise ConfigError(f"{option} is no pair; write --map {form}, once for each class")
    check_name(pairs[0][0], known[0], lacks[0], option)
    check_name(pairs[0][1], known[1], lacks[1], option)
    raise ConfigError(f"{option} names no class on both sides; write --map {form}")


def check_name(name: str, known: Collection[str], lacks: str, option: str) -> None:
    """Refuses a name of no class.

    Args:
        name: The name.
        known: The classes.
        lacks: What is said of it where it is none of them; the name follows.
        option: The option that names it, for the message.

    Raises:
        ConfigError: It is none of them.
    """
    if name not in known:
        near = nearest_name(name, known)
        hint = f'did you mean "{printable(near)}"?' if near else f"they are {', '.join(map(printable, known))}"
        raise ConfigError(f'{option}: {lacks} "{printable(name)}"; {hint}')


def unmatched_classes(
    truth: Truth, predicted: Mapping[str, PredictedLabels], exclude: Collection[str]
) -> dict[str, dict[str, list[str]]]:
    """Finds names without a counterpart: under ``truth`` true classes and the slides whose model lacks them, under
    ``predicted`` predicted classes that the truth lacks and the slides whose model has them.
    """
    true = dict.fromkeys(truth.classes.values())
    lacking = {name: [s for s, p in predicted.items() if name not in p.names] for name in true if name not in exclude}
    beyond: dict[str, list[str]] = {}
    for slide_id, p in predicted.items():
        for name in dict.fromkeys(p.names):
            if name not in true:
                beyond.setdefault(name, []).append(slide_id)
    return {"truth": {name: slides for name, slides in lacking.items() if slides}, "predicted": beyond}


def warn_of_unmatched(
    unmatched: Mapping[str, Mapping[str, Sequence[str]]],
    truth: Truth,
    predicted: Mapping[str, PredictedLabels],
    warn: Callable[[str], None],
) -> None:
    """Warns of what has no counterpart: first what differs by a slip, then the rest together."""
    for name, slides in unmatched["predicted"].items():
        twin = namesake(name, unmatched["truth"])
        if twin is not None:
            warn(
                f'predicted class "{printable(name)}"{_of_slides(slides, predicted)} and class "{printable(twin)}" of '
                f"{truth.name} differ in case or blanks, so they are two classes; if they are one, pass --map "
                f"{shlex.quote(printable(f'{name}={twin}'))}"
            )
    for slides, names in _by_slides(unmatched["truth"], unmatched["predicted"]).items():
        warn(
            f"no classes of the model{_of_slides(slides, predicted)}, but of {truth.name}: {names}; their pixels count "
            "as missed (--map gives them a predicted class, --exclude leaves them out)"
        )
    for slides, names in _by_slides(unmatched["predicted"], unmatched["truth"]).items():
        warn(
            f"no classes of {truth.name}, but of the model{_of_slides(slides, predicted)}: {names}; pixels predicted "
            "as these count as wrong (--map gives them a true class)"
        )


def _by_slides(names: Mapping[str, Sequence[str]], others: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Joins names that are not slips of others, in one text for all that concern the same slides."""
    grouped: dict[tuple[str, ...], list[str]] = {}
    for name, slides in names.items():
        if namesake(name, others) is None:
            grouped.setdefault(tuple(slides), []).append(printable(name))
    return {slides: ", ".join(group) for slides, group in grouped.items()}


def _of_slides(slides: Sequence[str], predicted: Mapping[str, PredictedLabels]) -> str:
    return "" if len(slides) == len(predicted) else f" of {listed(slides)}"
