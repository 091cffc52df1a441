"""Options of the stages: defaults, presets, the TOML file with a table for each, and what was typed.

An option on the command line, or an argument in Python, wins over the file, the file over a preset, and that over the
default. What cannot be meant is an error that calls it as the user did: ``--as``, ``predict.object_kind`` or
``object_kind``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from dmmn_qp.cli.model_options import option_of
from dmmn_qp.collecting.options import CohortOptions
from dmmn_qp.errors import ConfigError
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.outputs.options import PolygonOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import FileModel, Location, dotted, explain
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.training.options import PRESETS, TrainOptions

Section = Literal["import", "train", "predict", "suggest", "evaluate", "cohort"]

SECTIONS: tuple[Section, ...] = ("import", "train", "predict", "suggest", "evaluate", "cohort")

MAX_BYTES = 1024**2
"""Longest configuration that is read."""

MAX_DEPTH = 8
"""Tables and lists that may lie in each other."""

Options = TypeVar("Options", bound=FileModel)


class ConfigFile(FileModel):
    """The TOML file: each section holds only what differs from the defaults."""

    import_: dict[str, Any] = Field(default_factory=dict, alias="import")
    train: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)
    suggest: dict[str, Any] = Field(default_factory=dict)
    evaluate: dict[str, Any] = Field(default_factory=dict)
    cohort: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Options that a call in Python was given, None being a value like others.

    Attributes:
        function: What was called.
        values: By argument.
        taken: The options that it takes; None for all.
    """

    function: str
    values: Mapping[str, Any]
    taken: Sequence[str] | None = None


Given = Mapping[str, Any] | Arguments
"""What wins over the file: options of the command line by field, those that were not given being None; or arguments."""


def load_config(path: Path | None) -> ConfigFile:
    """Reads a TOML configuration; None gives an empty one.

    Raises:
        ConfigError: The file is missing, is not TOML, or has an unknown section.
    """
    if path is None:
        return ConfigFile()
    if why := why_not_there(path):
        raise ConfigError(f'configuration "{path}" {why}; check --config')
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f'configuration "{path}" is longer than {MAX_BYTES} bytes; keep only what differs in it')
        tables = tomllib.loads(content.decode())
        too_deep = _is_deeper(tables, MAX_DEPTH)
    except OSError as error:
        raise ConfigError(
            f'configuration "{path}" cannot be read ({error.strerror or error}); check that it is a file and may '
            "be read"
        ) from error
    except ValueError as error:  # of tomllib, of UTF-8, of numbers with too many digits
        raise ConfigError(f'configuration "{path}" is not valid TOML ({error}); mend that line') from error
    except RecursionError:
        too_deep = True
    if too_deep:
        raise ConfigError(f'configuration "{path}" is nested more than {MAX_DEPTH} deep, as no option is; mend it')
    unknown = next((name for name in tables if name not in SECTIONS), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, SECTIONS, n=1)
        hint = f"did you mean [{near[0]}]?" if near else f"it has {', '.join(f'[{name}]' for name in SECTIONS)}"
        raise ConfigError(f'configuration "{path}": [{unknown}] is no table of it; {hint}')
    try:
        return ConfigFile.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(f'configuration "{path}": {explain(error)}') from error


def import_options(file: ConfigFile, given: Given) -> ImportOptions:
    """Resolves what was given, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(ImportOptions, _of_file("import", file.import_), _of_user(ImportOptions, "import", given))


def train_options(file: ConfigFile, given: Given) -> TrainOptions:
    """Resolves what was given, file, preset and defaults.

    Raises:
        ConfigError: An option or preset is unknown or out of range.
    """
    in_file, by_user = _of_file("train", file.train), _of_user(TrainOptions, "train", given)
    preset = {**in_file.values, **by_user.values}.get("preset", "fast")
    changed = next((values for name, values in PRESETS.items() if name == preset), {})
    return _resolved(TrainOptions, _of_file("train", changed), in_file, by_user)


def check_resumed(given: Given, others: Iterable[str] = ()) -> None:
    """Checks that a training that goes on is given nothing that would change it.

    Args:
        given: Options.
        others: What else was given and does not go together with it.

    Raises:
        ConfigError: Something is to be left out.
    """
    from dmmn_qp.training.state import CHANGEABLE

    place = _of_user(TrainOptions, "train", given)
    unwanted = [*(place.name((name,)) for name in place.values if name not in CHANGEABLE), *others]
    if unwanted:
        resume = "resume=True" if isinstance(given, Arguments) else "--resume"
        raise ConfigError(f"{resume} goes on as the training began; leave out {', '.join(unwanted)}")


def predict_options(file: ConfigFile, given: Given) -> PredictOptions:
    """Resolves what was given, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(PredictOptions, _of_file("predict", file.predict), _of_user(PredictOptions, "predict", given))


def suggest_options(file: ConfigFile, given: Given) -> SuggestOptions:
    """Resolves what was given, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(SuggestOptions, _of_file("suggest", file.suggest), _of_user(SuggestOptions, "suggest", given))


def evaluate_options(file: ConfigFile, given: Given) -> EvaluateOptions:
    """Resolves what was given, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(EvaluateOptions, _of_file("evaluate", file.evaluate), _of_user(EvaluateOptions, "evaluate", given))


def cohort_options(file: ConfigFile, given: Given) -> CohortOptions:
    """Resolves what was given, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(CohortOptions, _of_file("cohort", file.cohort), _of_user(CohortOptions, "cohort", given))


def polygon_options(given: Arguments) -> PolygonOptions:
    """Resolves arguments and defaults of what makes polygons.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _resolved(PolygonOptions, _of_user(PolygonOptions, "predict", given))


@dataclass(frozen=True, slots=True)
class _Place:
    """A place where options are given, and how it calls them.

    Attributes:
        values: The options that are given there, by field.
        kind: What an option is called there in general.
        way_out: Where its options are explained.
        prefix: What stands before a field's name there.
        options: Field -> option of the command line, where that is the place.
        taken: The options that may be given there; None for all.
    """

    values: Mapping[str, Any]
    kind: str
    way_out: str
    prefix: str = ""
    options: Mapping[str, str] | None = None
    taken: Sequence[str] | None = None

    def name(self, location: Location) -> str:
        """Calls the value at a location as it is called there."""
        option = (self.options or {}).get(str(location[0]))
        return option or self.prefix + dotted(location)


def _of_file(section: Section, values: Mapping[str, Any]) -> _Place:
    return _Place(values, "option", "mend it in the configuration file", f"{section}.")


def _of_user(model: type[FileModel], section: Section, given: Given) -> _Place:
    if isinstance(given, Arguments):
        way_out = f"see help(dmmn_qp.{given.function})"
        return _Place(given.values, f"argument of {given.function}", way_out, taken=given.taken)
    options = {name: option for name in model.model_fields if (option := option_of(model, name)) is not None}
    values = {name: value for name, value in given.items() if value is not None}
    return _Place(values, "option", f"see dmmn-qp {section} --help", f"{section}.", options)


def _resolved(model: type[Options], *places: _Place) -> Options:
    """Options out of several places, of which the last wins."""
    for place in places:
        known = place.taken or tuple(model.model_fields)
        for name in place.values:
            if name not in known:
                raise ConfigError(f"{place.name((name,))} is no {place.kind}; {_near(name, known)}")
    try:
        return model.model_validate({name: value for place in places for name, value in place.values.items()})
    except ValidationError as error:
        location = error.errors()[0]["loc"]
        place = next((p for p in reversed(places) if location and location[0] in p.values), places[-1])
        raise ConfigError(f"{explain(error, place.name)}; {place.way_out}") from error


def _is_deeper(tables: object, levels: int) -> bool:
    """Whether tables and lists lie in each other more than so many levels deep."""
    here = [tables]
    for _ in range(levels + 1):
        here = [
            value
            for outer in here
            for value in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
        ]
    return bool(here)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
