"""Commands whose help is readable in 80 columns, and whose paths are those that the user meant."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, Final, cast

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from dmmn_qp.files.paths import user_path
from dmmn_qp.text import printable

Entry = tuple[str, str]
"""What is typed, and what it does."""

MAIN_PANEL = "Options"

COMMON_PANEL = "This run"
"""Heading of what is about files and runs rather than about the work."""

_UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""Typer's error for all that can be wrong with a command line; it has no public name."""

_WORDS: Final = {
    "Value error, ": "",
    "Input should": "it should",
    "Possible options": "possible options",
    ". Did you mean": "; did you mean",
}
"""How Typer and pydantic begin what goes on in the middle of our line."""

_FEW = 12
"""So many options need no headings."""

_WIDEST, _WIDEST_LEFT, _NARROWEST_RIGHT = 100, 32, 20


class Command(TyperCommand):
    """A command whose help lists each option with its value, and under it, or beside it, what it does.

    Names are never cut, and what matters stands first. In paths ``~`` is home, wherever the shell left it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads what was typed; what is wrong with it is said in one line."""
        with _in_one_line(ctx):
            rest = super().parse_args(ctx, args)
        ctx.params.update({name: _as_meant(value) for name, value in ctx.params.items()})
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help to standard output."""
        del formatter
        panels: dict[str, list[Entry]] = {"Arguments": [], MAIN_PANEL: [], COMMON_PANEL: []}
        options = [param for param in self.get_params(ctx) if isinstance(param, TyperOption) and not param.hidden]
        for param in self.get_params(ctx):
            if isinstance(param, TyperArgument):
                panels["Arguments"].append((argument_name(param), help_of(param)))
        for option in options:
            usual = MAIN_PANEL if option.name != "help" or len(options) <= _FEW else COMMON_PANEL
            panel = usual if len(options) <= _FEW else option.rich_help_panel or usual
            panels.setdefault(panel, []).append((option_name(option, ctx), help_of(option)))
        _print_help(self.get_usage(ctx), self.help, panels)

    def get_usage(self, ctx: Any) -> str:
        """Returns ``Usage: dmmn-qp push [PREDICTIONS] [OPTIONS]``."""
        arguments = [param for param in self.get_params(ctx) if isinstance(param, TyperArgument)]
        names = [argument_name(param) if param.required else f"[{argument_name(param)}]" for param in arguments]
        return " ".join(("Usage:", ctx.command_path, *names, "[OPTIONS]"))


def _as_meant(value: Any) -> Any:
    """A path, or paths of a list, with home for ``~``; other values as they are."""
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    return user_path(value) if isinstance(value, Path) else value


class Group(TyperGroup):
    """A group of commands whose help lists them, and its few options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads what was typed before the command; what is wrong with it is said in one line."""
        with _in_one_line(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command that was typed; one that is unknown is said in one line."""
        with _in_one_line(ctx):
            return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help to standard output."""
        del formatter
        commands = [(name, command.help or "") for name, command in self.commands.items() if not command.hidden]
        options = [param for param in self.get_params(ctx) if isinstance(param, TyperOption) and not param.hidden]
        panels = {
            "Commands": [(name, text.split("\n\n")[0]) for name, text in commands],
            MAIN_PANEL: [(option_name(option, ctx), help_of(option)) for option in options],
        }
        _print_help(self.get_usage(ctx), self.help, panels, self.epilog)

    def get_usage(self, ctx: Any) -> str:
        """Returns ``Usage: dmmn-qp COMMAND [OPTIONS]``."""
        return f"Usage: {ctx.command_path} COMMAND [OPTIONS]"


@contextmanager
def _in_one_line(ctx: Any) -> Iterator[None]:
    """Has what is wrong with a command line shown like other errors: one line that says where to look."""
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ != "NoArgsIsHelpError":  # whose message is the help
            vars(error)["show"] = partial(_show_usage_error, error, f"{ctx.command_path} --help")
        raise


def _show_usage_error(error: Any, where: str, file: Any = None) -> None:
    """Prints ``error: no such option: --chek (possible options: --check, --help); see dmmn-qp import --help``."""
    del file
    message = printable(error.format_message()).rstrip(".?")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    typer.secho(
        f"error: {message[0].lower()}{message[1:].partition(', unable to parse')[0]}; see {where}", fg="red", err=True
    )


def _print_help(usage: str, text: str | None, panels: Mapping[str, Iterable[Entry]], epilog: str | None = None) -> None:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    width = min(console.width, _WIDEST)
    console.print(Text(usage, "bold"))
    _print_paragraphs(console, text, width)
    column = 2 + max((len(left) + 2 for entries in panels.values() for left, _ in entries), default=0)
    for name, entries in panels.items():
        for number, (left, right) in enumerate(entries):
            if number == 0:
                console.print()
                console.print(Text(name, "bold"))
            _print_entry(console, left, right, min(column, _WIDEST_LEFT), width)
    _print_paragraphs(console, epilog, width)
    console.print()


def _print_paragraphs(console: Console, text: str | None, width: int) -> None:
    for paragraph in text.split("\n\n") if text else ():
        console.print()
        console.print("\n".join(wrap(" ".join(paragraph.split()), width)), markup=False)


def _print_entry(console: Console, left: str, right: str, column: int, width: int) -> None:
    """Prints what is typed, and from a column on what it does: beside it where there is room, else under it."""
    lines = wrap(right, max(width - column, _NARROWEST_RIGHT), break_on_hyphens=False) or [""]
    names = Text(f"  {left}", "cyan")
    if len(left) + 4 <= column:
        names.append(" " * (column - 2 - len(left)) + lines.pop(0), "default")
    console.print(names)
    for line in lines:
        console.print(" " * column + line, markup=False)


def argument_name(param: TyperArgument) -> str:
    """Returns ``SLIDE ...`` where there may be several."""
    return (param.metavar or param.name or "").upper() + ("" if param.nargs == 1 else " ...")


def option_name(param: TyperOption, ctx: Any) -> str:
    """Returns ``--name VALUE``, or ``--switch / --no-switch``."""
    names = ", ".join(param.opts) + (f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else "")
    if param.is_flag:
        return names
    return f"{names} {param.metavar or (param.display_type_rich(ctx=ctx) or 'text').strip('<>').upper()}"


def help_of(param: TyperOption | TyperArgument) -> str:
    """Says what it does, and its default."""
    text = " ".join((param.help or "").split())
    if isinstance(param.show_default, str):
        text += f" [default: {param.show_default}]"
    elif param.show_default and param.default not in (None, False, ()) and not callable(param.default):
        text += f" [default: {param.default}]"
    if param.required and isinstance(param, TyperOption):
        text += " [required]"
    return text + (f" [env: {param.envvar}]" if isinstance(param.envvar, str) else "")
