"""Options of the stages: defaults, presets, and the TOML file ``[import] [train] [predict]``.

A flag on the command line wins over the file, and the file over the default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from dmmn_qp.errors import ConfigError
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.outputs.options import PolygonOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import FileModel, explain
from dmmn_qp.training.options import PRESETS, TrainOptions

SECTIONS = ("import", "train", "predict")

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


def load_config(path: Path | None) -> ConfigFile:
    """Reads a TOML configuration; None gives an empty one.

    Raises:
        ConfigError: The file is missing, is not TOML, or has an unknown section.
    """
    if path is None:
        return ConfigFile()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f'configuration "{path}" is longer than {MAX_BYTES} bytes; keep only what differs in it')
        tables = tomllib.loads(content.decode())
        too_deep = _is_deeper(tables, MAX_DEPTH)
    except FileNotFoundError:
        raise ConfigError(f'configuration "{path}" does not exist; check --config') from None
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


def import_options(file: ConfigFile, flags: Mapping[str, Any]) -> ImportOptions:
    """Resolves flags, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _build(ImportOptions, "import", {**file.import_, **_given(flags)})


def train_options(file: ConfigFile, flags: Mapping[str, Any]) -> TrainOptions:
    """Resolves flags, file, preset and defaults.

    Raises:
        ConfigError: An option or preset is unknown or out of range.
    """
    chosen = {**file.train, **_given(flags)}
    preset = chosen.get("preset", "fast")
    if preset not in PRESETS:
        raise ConfigError(f'preset "{preset}" is unknown; choose one of {", ".join(PRESETS)}')
    return _build(TrainOptions, "train", {**PRESETS[preset], **chosen})


def predict_options(file: ConfigFile, flags: Mapping[str, Any]) -> PredictOptions:
    """Resolves flags, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _build(PredictOptions, "predict", {**file.predict, **_given(flags)})


def polygon_options(flags: Mapping[str, Any]) -> PolygonOptions:
    """Resolves flags and defaults of what makes polygons.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _build(PolygonOptions, "predict", _given(flags))


def _build(model: type[Options], section: str, values: Mapping[str, Any]) -> Options:
    unknown = next((key for key in values if key not in model.model_fields), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, model.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(model.model_fields)}"
        raise ConfigError(f"{section}.{unknown} is no option; {hint}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{section}.{explain(error)}; see dmmn-qp {section} --help") from error


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


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}
