"""How an option is explained to people: once, beside its type and default in the model of its stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flag:
    """Makes a field of a model of options an option of the command line, as metadata of its annotation.

    Attributes:
        help: What it does, without its default.
        name: The option, where it is not the field's name; of a switch both, such as ``--tissue-only/--whole-slide``.
        metavar: What stands for its value in the help, with the unit where the name has none.
        panel: Heading in the help under which it stands; None for those that matter first.
        default: What the default is, where the field's own default does not tell.
        envvar: Environment variable that gives it too.
    """

    help: str
    name: str | None = None
    metavar: str | None = None
    panel: str | None = None
    default: str | None = None
    envvar: str | None = None
