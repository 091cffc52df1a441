"""By which names the classes of two sides meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.class_rules import nearest_name
from dmmn_qp.text import printable


@dataclass(frozen=True, slots=True)
class Meeting:
    """How the classes of both sides meet.

    Attributes:
        classes: Their names: those of the first, then those that only the second has.
        maps: Class of the second -> that of the first, where they are named otherwise.
        exclude: Those that do not count.
    """

    classes: tuple[str, ...]
    maps: Mapping[str, str]
    exclude: tuple[str, ...]

    @property
    def counted(self) -> tuple[str, ...]:
        """The classes that count."""
        return tuple(name for name in self.classes if name not in self.exclude)


def meet(
    names: tuple[Sequence[str], Sequence[str]],
    maps: Sequence[str],
    exclude: Sequence[str],
    paths: tuple[Path, Path],
    warn: Callable[[str], None],
) -> Meeting:
    """Settles by which names classes meet.

    Args:
        names: Classes of the first and of the second side.
        maps: ``SECOND=FIRST`` for classes that are named otherwise.
        exclude: Classes that do not count, by the names of the first.
        paths: What the sides are, for messages.
        warn: Told which classes only one side has.

    Raises:
        ConfigError: A rule names a class that does not exist, or no class is left.
    """
    first, second = names
    renamed = dict(_read_map(text, first, second) for text in maps)
    joined = [renamed.get(name, name) for name in second]
    meeting = Meeting(tuple(dict.fromkeys((*first, *joined))), renamed, tuple(exclude))
    for name in exclude:
        if name not in meeting.classes:
            raise ConfigError(f'--exclude "{printable(name)}": {_no_class(name, meeting.classes)}')
    if not meeting.counted:
        raise ConfigError("--exclude leaves no class to compare; name fewer")
    for has, lacks, own, others in ((*paths, first, joined), (*paths[::-1], joined, first)):
        lacking = [name for name in dict.fromkeys(own) if name not in others and name in meeting.counted]
        if lacking:
            warn(
                f'only "{has}" has the classes {", ".join(map(printable, lacking))}, not "{lacks}"; if they are others '
                "there, pass --map SECOND=FIRST"
            )
    return meeting


def _read_map(text: str, first: Sequence[str], second: Sequence[str]) -> tuple[str, str]:
    """Reads ``SECOND=FIRST``; names may hold the sign themselves."""
    splits = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "="]
    fitting = [pair for pair in splits if pair[0] in second and pair[1] in first]
    if len(fitting) == 1:
        return fitting[0]
    option = f'--map "{printable(text)}"'
    if len(splits) == 1 and splits[0][0] not in second:
        raise ConfigError(f"{option}: the second has {_no_class(splits[0][0], second)}")
    if len(splits) == 1:
        raise ConfigError(f"{option}: the first has {_no_class(splits[0][1], first)}")
    raise ConfigError(f"{option} is no pair of a class of the second and one of the first; write --map SECOND=FIRST")


def _no_class(name: str, known: Sequence[str]) -> str:
    near = nearest_name(name, known)
    hint = f'did you mean "{printable(near)}"?' if near else f"they are {', '.join(map(printable, known))}"
    return f'no class "{printable(name)}"; {hint}'
