"""Options of `dmmn-qp cohort`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field

from dmmn_qp.errors import ConfigError
from dmmn_qp.flags import Flag
from dmmn_qp.labels.class_rules import nearest_name
from dmmn_qp.specs import Endless, FileModel
from dmmn_qp.text import shorten


@dataclass(frozen=True, slots=True)
class Ratio:
    """An area divided by another one.

    Attributes:
        name: As the user wrote it.
        above: Classes whose areas are added up.
        below: Those that they are divided by.
    """

    name: str
    above: tuple[str, ...]
    below: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, classes: Collection[str]) -> Ratio:
        """Reads ``tumour/stroma`` or ``necrosis/necrosis+tumour``; names may hold ``/`` and ``+`` themselves.

        Raises:
            ConfigError: It names no classes, or can be read in two ways.
        """
        readings = [
            (above, below)
            for at, sign in enumerate(text)
            if sign == "/"
            for above in _sums(text[:at].strip(), classes)
            for below in _sums(text[at + 1 :].strip(), classes)
        ]
        if len(readings) == 1:
            return cls(text, *readings[0])
        if readings:
            raise ConfigError(f'--ratio "{shorten(text)}" can be read in {len(readings)} ways; name other classes')
        if "/" not in text:
            raise ConfigError(f'--ratio "{shorten(text)}" is no ratio; write such as tumour/stroma')
        words = [word.strip() for part in text.split("/") for word in part.split("+")]
        unknown = next((word for word in words if word not in classes), text)
        near = nearest_name(unknown, classes)
        hint = f'did you mean "{shorten(near)}"?' if near else f"the classes are {', '.join(classes) or 'none'}"
        raise ConfigError(f'--ratio "{shorten(text)}": "{shorten(unknown)}" is no predicted class; {hint}')


def _sums(text: str, classes: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Every way to read a text as names of classes with ``+`` between them."""
    if text in classes:
        yield (text,)
    for at, sign in enumerate(text):
        if sign == "+" and text[:at].strip() in classes:
            yield from ((text[:at].strip(), *rest) for rest in _sums(text[at + 1 :].strip(), classes))


_Values = TypeVar("_Values", tuple[str, ...], tuple[float, ...])


def _each_once(given: _Values) -> _Values:
    """Checks that each value has a column of its own.

    Raises:
        ValueError: Two would have the same.
    """
    names = [column_part(value) for value in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f'"{shorten(twice)}" is given twice; leave one of them out')
    return given


def column_part(value: str | float) -> str:
    """A value as the name of its column tells it."""
    return value if isinstance(value, str) else f"{value:g}"


PolygonUnit = Literal["px", "um"]
"""Unit of coordinates: level-0 px of each slide, or um."""


class CohortOptions(FileModel):
    """What is told of each slide.

    Attributes:
        ratios: Ratios of areas, as the user wrote them.
        within_um: Distances from the tissue's outline within which the area of each class is given, ascending.
        case_pattern: Regular expression on slide names that finds the case; None where there are no cases.
        tissue_min_area_um2: A smaller part of the tissue counts as dirt, as for `predict`.
        tissue_min_hole_um2: A smaller hole in the tissue counts as tissue, as for `predict`.
        quality: Whether slides are opened to see whether they are in focus and clean.
        geoparquet: Unit in which all polygons are written as GeoParquet; None for no such file.
    """

    ratios: Annotated[
        tuple[str, ...],
        Flag(
            "Areas to divide, such as tumour/stroma or necrosis/necrosis+tumour; repeatable.",
            name="--ratio",
            metavar="A/B",
        ),
        AfterValidator(_each_once),
    ] = ()
    within_um: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...],
        Flag(
            "Distance from the tissue's outline within which the area of each class is told; repeatable.",
            name="--within",
            metavar="UM",
            default="500, 1000 and 2000",
        ),
        AfterValidator(_each_once),
        AfterValidator(lambda given: tuple(sorted(given))),
    ] = (500.0, 1000.0, 2000.0)
    case_pattern: Annotated[
        str | None,
        Flag(
            "Regular expression on slide names that finds the case, as for import: a table of cases as well.",
            metavar="REGEX",
        ),
    ] = None
    tissue_min_area_um2: Annotated[float, Flag("Smaller parts of the tissue are dirt.", metavar="UM2")] = Field(
        default=20_000, ge=0
    )
    tissue_min_hole_um2: Annotated[Endless, Flag("Smaller holes in the tissue are tissue.", metavar="UM2")] = 1_000_000
    quality: Annotated[bool, Flag("Open the slides, and tell which are out of focus or written on.")] = False
    geoparquet: Annotated[
        PolygonUnit | None,
        Flag("Write all polygons as GeoParquet too, in pixels of level 0 or um.", metavar="px|um"),
    ] = None
