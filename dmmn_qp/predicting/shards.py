"""Which slides one of several machines predicts; sizes of files decide, and no slide is opened for it."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from dmmn_qp.errors import ConfigError
from dmmn_qp.predicting.inputs import SlideToPredict
from dmmn_qp.predicting.options import OF_THE_WORK
from dmmn_qp.text import count_of, shorten

MOST_SHARDS: Final = 100_000

SHARDS: Final = "shards"
"""Key of ``run.json`` under which the calls are told that have predicted shards of the same slides."""

_DEVICE: Final = "device"
"""Key of ``run.json`` that a call without a slide that can be read does not know."""

_OF_SHARDS: Final = ("run_id", "command", "started", "finished", "slides", "skipped", "failed")
"""What is told of each of them."""

_COMPANION: Final = ".mrxs"
"""Ending of the files whose pixels are in a folder of their name."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of equally large parts of a list of slides.

    Attributes:
        number: Which one, from 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``3/40``.

        Raises:
            ConfigError: It is no such thing.
        """
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise ConfigError(f'--shard "{shorten(text)}" is no part of a whole; pass such as 3/40, the third of 40')
        number, of = int(found[1]), int(found[2])
        if not 1 <= of <= MOST_SHARDS:
            raise ConfigError(f"--shard {number}/{of}: there may be 1 to {MOST_SHARDS} shards; pass such as 3/40")
        if number == 0:
            raise ConfigError(
                f"--shard 0/{of}: shards are counted from 1; pass 1/{of} to {of}/{of}, for an array from 0 its number "
                "and 1 more"
            )
        if number > of:
            raise ConfigError(f"--shard {number}/{of}: of {of} shards the last one is {of}/{of}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part_of(self, slides: Sequence[SlideToPredict], sizes: Mapping[str, int]) -> list[SlideToPredict]:
        """The slides of this shard, sorted by name.

        The largest file goes first, each to the shard that has least; so the same files give the same shards, in
        whatever order they are named, and each slide is in one of them.

        Args:
            slides: All slides.
            sizes: What `sizes_of` says of them.
        """
        load = [(0, 0, number) for number in range(1, min(self.of, len(slides)) + 1)]
        mine: list[SlideToPredict] = []
        for slide in sorted(slides, key=lambda slide: (-sizes[slide.slide_id], slide.slide_id)):
            taken, count, number = load[0]
            heapq.heapreplace(load, (taken + sizes[slide.slide_id], count + 1, number))
            if number == self.number:
                mine.append(slide)
        return sorted(mine, key=lambda slide: slide.slide_id)

    def line(self, mine: Sequence[SlideToPredict], sizes: Mapping[str, int]) -> str:
        """What the user is told of it.

        Args:
            mine: Its slides.
            sizes: Bytes of all slides.
        """
        if not mine:
            return f"Shard {self} has no slide, because there are only {len(sizes)}; nothing to do"
        size, whole = sum(sizes[slide.slide_id] for slide in mine), sum(sizes.values())
        share = f" ({100 * size / whole:.1f} % of the bytes)" if whole else ""
        return f"Shard {self}: {len(mine)} of {count_of(len(sizes), 'slide')}{share}"

    def with_others(self, content: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
        """What ``run.json`` says of this call, together with those that predict the other shards.

        Args:
            content: What it says of this call alone.
            before: What it has said so far; of a call that asked for something else, or for another number of shards,
                nothing is kept. Machines may compute in ways of their own.
        """
        told = {str(self): {key: content[key] for key in _OF_SHARDS}}
        same = _asked_for(before) == _asked_for(content)
        others = before.get(SHARDS) if same else None
        for name, call in others.items() if isinstance(others, dict) else ():
            with suppress(ConfigError):
                if Shard.parse(name).of == self.of and _is_told(call):
                    told.setdefault(name, call)
        calls = [*told.values()][::-1]  # this one last: its word counts where a slide has come to another shard
        failed = {name: why for call in calls for name, why in call["failed"].items()}
        slides = {name for call in calls for name in call["slides"]} - content["failed"].keys()
        device = content.get(_DEVICE, before.get(_DEVICE) if same else None)
        return {
            **content,
            **({} if device is None else {_DEVICE: device}),
            "slides": sorted(slides),
            "skipped": sorted({name for call in calls for name in call["skipped"]}),
            "failed": {name: failed[name] for name in sorted(failed.keys() - slides)},
            SHARDS: dict(sorted(told.items(), key=lambda item: Shard.parse(item[0]).number)),
        }


def sizes_of(slides: Iterable[SlideToPredict]) -> dict[str, int]:
    """Bytes of each slide on disk, by its name."""
    return {slide.slide_id: _bytes_of(slide.path) for slide in slides}


def _asked_for(run: Mapping[str, Any]) -> dict[str, object] | None:
    """The options of a call without those that change only how it is computed; None where it tells none."""
    told = run.get("configuration")
    return {name: told[name] for name in told if name not in OF_THE_WORK} if isinstance(told, dict) else None


_LISTS: Final = ("slides", "skipped")


def _is_told(call: object) -> bool:
    """Whether a call of another shard is told as we tell it."""
    return (
        isinstance(call, dict)
        and set(_OF_SHARDS) <= set(call)
        and all(isinstance(call[key], list) and all(isinstance(n, str) for n in call[key]) for key in _LISTS)
        and isinstance(call["failed"], dict)
    )


def _bytes_of(path: Path) -> int:
    """How large a slide is on disk, files beside it that belong to it included; 0 where it is not there."""
    folder = path.with_suffix("") if path.suffix.lower() == _COMPANION else path
    return _size(path) + sum(_size(file) for file in (folder.iterdir() if folder.is_dir() else ()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
