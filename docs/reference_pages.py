"""The text of the reference: commands with their options, configuration, Python. All of it is read from the program."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperArgument, TyperOption

import dmmn_qp
from dmmn_qp.cli import app
from dmmn_qp.cli.config import SECTIONS
from dmmn_qp.cli.help import MAIN_PANEL, argument_name, help_of, option_name
from dmmn_qp.cli.model_options import default_text, flag_of, option_names
from dmmn_qp.collecting.options import CohortOptions
from dmmn_qp.evaluating.options import EvaluateOptions
from dmmn_qp.flags import Flag
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.specs import FileModel
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.training.options import TrainOptions

MODELS: dict[str, type[FileModel]] = {
    "import": ImportOptions,
    "train": TrainOptions,
    "predict": PredictOptions,
    "suggest": SuggestOptions,
    "evaluate": EvaluateOptions,
    "cohort": CohortOptions,
}
assert tuple(MODELS) == SECTIONS


def commands() -> str:
    """Every command with its arguments and options, in the order of the help."""
    program = typer.main.get_command(app)
    return "".join(_command(words, command) for words, command in leaves(program))


def leaves(group: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Gives each command that can be run, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*before, name))
        else:
            yield (*before, name), command


def _command(words: tuple[str, ...], command: Any) -> str:
    name = " ".join(("dmmn-qp", *words))
    context = typer.Context(command, info_name=name)
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    options = [param for param in command.params if isinstance(param, TyperOption) and not param.hidden]
    parts = [f"\n\n## {name}\n", _prose(command.help or ""), f"```text\n{command.get_usage(context)}\n```\n"]
    parts.append(f"```{{program}} {name}\n```\n")
    parts += [_directive("option", argument_name(param), help_of(param)) for param in arguments]
    keys = _keys(name.removeprefix("dmmn-qp "))
    for panel in dict.fromkeys(option.rich_help_panel or MAIN_PANEL for option in options):
        parts.append(f"\n**{panel}**\n")
        for option in options:
            if (option.rich_help_panel or MAIN_PANEL) == panel:
                names = option_name(option, context).replace(" / ", ", ")
                parts.append(_directive("option", names, help_of(option), keys.get(option.opts[0], "")))
    return "\n".join(parts)


def _keys(section: str) -> dict[str, str]:
    """Option -> a link to its key in the configuration file."""
    fields = MODELS[section].model_fields if section in MODELS else {}
    flags = {name: (field, flag) for name, field in fields.items() if (flag := flag_of(field))}
    return {
        option: f"\n\nIn a file: {{confval}}`{section}.{name}`\n"
        for name, (field, flag) in flags.items()
        for option in option_names(name, field, flag)
    }


def configuration() -> str:
    """Every table of the configuration file, with its keys."""
    return "".join(_table(section, model) for section, model in MODELS.items())


def _table(section: str, model: type[FileModel]) -> str:
    said = described(model)
    keys = [_key(section, name, field, said.get(name, "")) for name, field in model.model_fields.items()]
    return "\n".join((f"\n\n## `[{section}]`\n", *keys))


def _key(section: str, name: str, field: FieldInfo, said: str) -> str:
    flag = flag_of(field)
    default = default_text(field, flag or Flag(""))
    if isinstance(field.default, bool):
        default = str(field.default).lower()
    choices = [str(arg) for arg in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
    parts = [flag.help if flag else said, f"One of {', '.join(choices)}." if choices else ""]
    text = _escaped(" ".join(filter(None, parts)))
    beside = [f"Option `{' / '.join(option_names(name, field, flag))}`"] if flag else []
    beside += [f"default: {_escaped(default)}"] if default else []
    last = "; ".join(beside)
    return f"```{{confval}} {section}.{name}\n\n{text}\n\n{last[:1].upper()}{last[1:]}\n```\n"


def described(model: type) -> dict[str, str]:
    """Field -> what the docstring of its class, or of one that this is made of, says of it."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        text = inspect.cleandoc(owner.__doc__ or "").replace("`", "").partition("Attributes:\n")[2].split("\n\n")[0]
        found |= {
            name: " ".join(said.split()) for name, said in re.findall(r"^ {4}(\w+): ((?:.|\n {5,})*)", text, re.M)
        }
    return found


def python() -> str:
    """What ``import dmmn_qp`` offers: functions, then classes, by their docstrings."""
    offered = [(name, getattr(dmmn_qp, name)) for name in dmmn_qp.__all__]
    functions = [f".. autofunction:: dmmn_qp.{name}" for name, value in offered if not inspect.isclass(value)]
    classes = [
        # A tuple's fields are in its docstring already.
        f".. autoclass:: dmmn_qp.{name}\n   :members:\n"
        f"   :exclude-members: {', '.join(('model_config', *getattr(value, '_fields', ())))}"
        for name, value in offered
        if inspect.isclass(value)
    ]
    return "\n\n".join(("", *(_rst(title, what) for title, what in (("Functions", functions), ("Classes", classes)))))


def _rst(title: str, directives: list[str]) -> str:
    return f"## {title}\n\n```{{eval-rst}}\n" + "\n\n".join(directives) + "\n```\n"


def _directive(kind: str, name: str, text: str, more: str = "") -> str:
    return f"```{{{kind}}} {name}\n\n{_escaped(text)}{more}\n```\n"


def _prose(text: str) -> str:
    return "\n\n".join(_escaped(" ".join(part.split())) for part in inspect.cleandoc(text).split("\n\n")) + "\n"


def _escaped(text: str) -> str:
    """Text in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


PAGES = {"commands": commands, "configuration": configuration, "python": python}
"""Page in docs/reference/ -> what is appended to it."""
