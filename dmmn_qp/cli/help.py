"""Help that is readable in 80 columns: no name is ever cut, and what matters stands first."""

from __future__ import annotations

import sys
from textwrap import wrap
from typing import Any

from rich.console import Console
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperOption

_LEFT = 30
_FIRST = "Options"


class Command(TyperCommand):
    """A command whose help lists each option with its value, and under it, or beside it, what it does."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help to standard output."""
        del formatter
        console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        width = min(console.width, 100)
        console.print(Text.assemble(("Usage: ", "bold"), " ".join((ctx.command_path, *self.collect_usage_pieces(ctx)))))
        for paragraph in (self.help or "").split("\n\n"):
            console.print()
            console.print("\n".join(wrap(" ".join(paragraph.split()), width)), markup=False)
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if isinstance(param, TyperArgument):
                groups.setdefault("Arguments", []).append((param.display_name_raw, _help_of(param)))
            elif isinstance(param, TyperOption) and not param.hidden:
                groups.setdefault(param.rich_help_panel or _FIRST, []).append((_left_of(param, ctx), _help_of(param)))
        for name, entries in groups.items():
            console.print()
            console.print(Text(name, "bold"))
            for left, text in entries:
                _print_entry(console, left, text, width)
        console.print()


def _print_entry(console: Console, left: str, text: str, width: int) -> None:
    beside = len(left) + 2 <= _LEFT
    lines = wrap(text, width - _LEFT - 2, break_on_hyphens=False) or [""]
    names = Text(f"  {left}", "cyan")
    if beside:
        names.append(" " * (_LEFT - len(left)) + lines.pop(0), "default")
    console.print(names)
    for line in lines:
        console.print(" " * (_LEFT + 2) + line, markup=False)


def _left_of(param: TyperOption, ctx: Any) -> str:
    """``--name VALUE``, or ``--switch / --no-switch``."""
    names = ", ".join(param.opts) + (f" / {', '.join(param.secondary_opts)}" if param.secondary_opts else "")
    if param.is_flag:
        return names
    return f"{names} {param.metavar or (param.display_type_rich(ctx=ctx) or 'text').strip('<>').upper()}"


def _help_of(param: TyperOption | TyperArgument) -> str:
    """What it does, its choices where they are not spelled out, and its default."""
    text = " ".join((param.help or "").split())
    if isinstance(param.show_default, str):
        text += f" [default: {param.show_default}]"
    elif param.show_default and param.default not in (None, False, ()) and not callable(param.default):
        text += f" [default: {param.default}]"
    if param.required and isinstance(param, TyperOption):
        text += " [required]"
    return text + (f" [env: {param.envvar}]" if isinstance(param.envvar, str) else "")
