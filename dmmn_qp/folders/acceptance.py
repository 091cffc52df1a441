"""What a model's card says of whether it may take the place of the model that its training started from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dmmn_qp.specs import FileModel

Loss = Literal["validation", "reviewed", "drawn", "contradiction"]
"""What is worse.

``validation``: areas on validation slides. ``reviewed``: predictions that a person confirmed or corrected. ``drawn``:
areas for training that a person drew. ``contradiction``: labels for training that contradict all others: the new model
did not learn them, or has two swapped ones by heart.
"""

MOST_WORSE = 50
"""So many things that are worse are kept in a card."""


class WorseArea(FileModel):
    """Something that a round of training made worse. It names no slide: a card goes wherever its model goes.

    Attributes:
        loss: What kind of thing.
        class_name: Its class; None of all classes.
        slide: Fingerprint of the slide; None of all slides.
        before: The figure of the model before, 0 .. 1: mean IoU, IoU of a class, or the right part of an area.
        after: That of the model after.
        mm2: Labelled area that the figure is of.
    """

    loss: Loss
    class_name: str | None
    slide: str | None
    before: float
    after: float
    mm2: float


class Acceptance(FileModel):
    """How a model compares with the one that its training started from.

    Attributes:
        compared_with: Name of that model.
        run_id: The run that made it; None where its card does not say.
        validation: Mean IoU on the validation patches, before and after.
        reviewed: Right part of what people confirmed or corrected, before and after; None where there is none.
        worse: What is clearly worse.
        by_hand: Whether a person accepted the model although something is worse.
    """

    compared_with: str
    run_id: str | None = None
    validation: tuple[float, float]
    reviewed: tuple[float, float] | None = None
    worse: tuple[WorseArea, ...] = Field(default=(), max_length=MOST_WORSE)
    by_hand: bool = False
