"""Requests: what a client may ask for. What is not listed here is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmmn_qp.errors import ConfigError
from dmmn_qp.specs import explain
from dmmn_qp.text import shorten

PROTOCOL: Final = 1
"""Number of the protocol; another one may answer otherwise."""

MAX_ID: Final = 64

MAX_AREAS: Final = 1000

Name = Annotated[str, Field(min_length=1, max_length=255)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Px = Annotated[int, Field(ge=-(2**31), le=2**31)]


class Request(BaseModel):
    """What all requests have.

    Attributes:
        id: The client's name of the request; replies to it have the same.
        op: What is asked for.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True)

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID)] | Annotated[int, Field(ge=0, le=2**53)]
    op: str


class Cancel(Request):
    """Stops a job.

    Attributes:
        job: The id of its request.
    """

    job: str | int


class OfModel(Request):
    """What may name a model.

    Attributes:
        model: Name of a folder in ``models/``; None for the one that was named at the start, or the newest.
    """

    model: Name | None = None


class OfSlide(OfModel):
    """What may name a slide of the project.

    Attributes:
        image: QuPath's id of the image in the project.
        slide: The slide's file, as path or URI.
        width: Its width in level-0 px as QuPath shows it.
        height: Its height.
        mpp: um/px of it as QuPath shows it.
    """

    image: Name | None = None
    slide: Text | None = None
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None
    mpp: Annotated[float, Field(gt=0)] | None = None


class Predict(OfSlide):
    """Predicts one slide.

    Attributes:
        region: x, y, width and height of what is predicted, in level-0 px of the image as QuPath shows it.
        areas: The same as geometries of GeoJSON. Neither: all of the slide.
    """

    region: Annotated[list[Px], Field(min_length=4, max_length=4)] | None = None
    areas: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_AREAS)] | None = None

    @model_validator(mode="after")
    def _is_of_one_slide(self) -> Predict:
        if self.image is None and self.slide is None:
            raise ValueError("name the image or the slide")
        if self.region is not None and (self.areas is not None or min(self.region[2:]) <= 0):
            raise ValueError("a region has a width and a height above 0, and there are no areas besides")
        return self


class Suggest(OfSlide):
    """Says where annotating next pays most.

    Attributes:
        regions: How many windows.
    """

    regions: Annotated[int, Field(ge=1, le=1000)] = 10


class Train(OfModel):
    """Trains from a model, or anew.

    Attributes:
        fresh: Whether no model is started from.
    """

    fresh: bool = False


KINDS: Final[Mapping[str, type[Request]]] = {
    "hello": Request,
    "jobs": Request,
    "cancel": Cancel,
    "shutdown": Request,
    "load": OfModel,
    "predict": Predict,
    "suggest": Suggest,
    "import": Request,
    "train": Train,
    "round": Request,
    "status": Request,
}
"""What can be asked for -> what such a request holds."""


def request_of(content: Mapping[str, Any]) -> Request:
    """Reads a request.

    Raises:
        ConfigError: It is none, in one line.
    """
    op = content.get("op")
    kind = KINDS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise ConfigError(f'"op" is {shorten(repr(op))}; it is one of {", ".join(KINDS)}')
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"request {op}: {explain(error)}") from None


def readable_id(content: Mapping[str, Any]) -> str | int | None:
    """The id of what may be no request, where it has one that can be answered."""
    found = content.get("id")
    is_short = isinstance(found, str) and len(found) <= MAX_ID
    is_number = isinstance(found, int) and not isinstance(found, bool) and abs(found) <= 2**53
    return found if is_short or is_number else None
