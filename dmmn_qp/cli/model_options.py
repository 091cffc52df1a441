"""Options of a command made of the fields of a model, so that name, type, default and help stand in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dmmn_qp.flags import Flag
from dmmn_qp.specs import FileModel

Given = dict[str, Any]
"""Options that the user gave, by field."""

_GIVEN = "given"
_SHORT_CHOICES = 22


def with_options(
    model: type[FileModel], panels: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of a model, in place of its parameter ``given`` (`Given`).

    Args:
        model: Its fields with a `Flag` become options.
        panels: Headings in the order of the help; others, and options without one, come first.
    """
    found = [(name, field, flag) for name, field in model.model_fields.items() if (flag := flag_of(field)) is not None]
    found.sort(key=lambda one: panels.index(one[2].panel) if one[2].panel in panels else -1)
    flags = {name: (field, flag) for name, field, flag in found}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)

        @wraps(command)
        def with_given(**values: Any) -> None:
            given = {name: values.pop(name) for name in flags}
            command(**values, given={name: value for name, value in given.items() if value not in (None, [])})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == _GIVEN:
                parameters += [_parameter(name, field, flag) for name, (field, flag) in flags.items()]
            else:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
        with_given.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_given.__annotations__ = {p.name: p.annotation for p in parameters}
        del with_given.__wrapped__
        return with_given

    return decorate


def flag_of(field: FieldInfo) -> Flag | None:
    """Returns how a field is explained; None for one that is no option of the command line."""
    return next((item for item in field.metadata if isinstance(item, Flag)), None)


def option_of(model: type[FileModel], name: str) -> str | None:
    """Returns the option that gives a field; None for a field without one."""
    flag = flag_of(model.model_fields[name])
    return None if flag is None else option_names(name, model.model_fields[name], flag)[0]


def option_names(name: str, field: FieldInfo, flag: Flag) -> tuple[str, ...]:
    """Returns ``--the-option``, and of a switch its opposite too."""
    dashed = name.replace("_", "-")
    switch = _plain_type(field.annotation) is bool
    return tuple((flag.name or (f"--{dashed}/--no-{dashed}" if switch else f"--{dashed}")).split("/"))


def default_text(field: FieldInfo, flag: Flag) -> str | None:
    """Says what the default is; None where there is nothing to say."""
    if flag.default is not None:
        return flag.default
    default = field.default
    if default is PydanticUndefined or default is None or default in ((), "") or isinstance(default, bool):
        return None
    if isinstance(default, tuple):
        return ",".join(f"{item:g}" if isinstance(item, float) else str(item) for item in default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _parameter(name: str, field: FieldInfo, flag: Flag) -> inspect.Parameter:
    kind = _plain_type(field.annotation)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    spelled = "|".join(map(str, choices))
    default = default_text(field, flag)
    spelled_out = len(spelled) <= _SHORT_CHOICES or all(choice in flag.help for choice in choices)
    option = typer.Option(
        "/".join(option_names(name, field, flag)),
        help=flag.help if spelled_out else f"{flag.help} One of {', '.join(choices)}.",
        rich_help_panel=flag.panel,
        metavar=flag.metavar or ((spelled if len(spelled) <= _SHORT_CHOICES else "CHOICE") if choices else None),
        show_default=default if default is not None else False,
        envvar=flag.envvar,
        autocompletion=(lambda incomplete: [c for c in choices if c.startswith(incomplete)]) if choices else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[_given_as(field, kind) | None, option]
    )


def _given_as(field: FieldInfo, kind: Any) -> Any:
    """Returns the type that the command line reads: mostly texts, because the model says what is wrong with a value.

    Several values are several options, unless a validator of the field reads them out of one text.
    """
    if kind in (bool, Path):
        return kind
    one_text = any(isinstance(item, BeforeValidator) for item in field.metadata)
    return list[str] if get_origin(kind) is tuple and not one_text else str


def _plain_type(annotation: Any) -> Any:
    """Returns a type without its None and what is said beside it."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (arg for arg in get_args(annotation) if arg is not NoneType)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
