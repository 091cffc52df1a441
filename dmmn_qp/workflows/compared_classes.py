"""By which names the classes of two sides meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.errors import ConfigError
from dmmn_qp.evaluating.names import check_name, read_pair
from dmmn_qp.text import printable

_LACKS: Final = ("the second has no class", "the first has no class")


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
        ConfigError: A rule names a class that does not exist, or contradicts another, or no class is left.
    """
    first, second = names
    renamed: dict[str, str] = {}
    for name, to in (read_pair(text, (second, first), _LACKS, "SECOND=FIRST") for text in maps):
        if renamed.setdefault(name, to) != to:
            raise ConfigError(
                f'--map gives the class "{printable(name)}" of the second to "{printable(renamed[name])}" and to '
                f'"{printable(to)}"; keep one of them'
            )
    joined = [renamed.get(name, name) for name in second]
    meeting = Meeting(tuple(dict.fromkeys((*first, *joined))), renamed, tuple(exclude))
    for name in exclude:
        check_name(name, meeting.classes, "neither has a class", f'--exclude "{printable(name)}"')
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
