"""Options of `dmmn-qp suggest`."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from dmmn_qp.flags import Flag
from dmmn_qp.specs import FileModel

WINDOWS_PANEL, WEIGHTS_PANEL = "Where to look", "What counts"

REGIONS: Final = 10
"""Regions that are suggested where no budget is named: about half an hour of a pathologist's time."""


class SuggestOptions(FileModel):
    """Options of `dmmn-qp suggest`.

    Attributes:
        regions: How many regions to suggest; None leaves it to ``mm2``, else it is `REGIONS`.
        mm2: How much area they may have together; None leaves it to ``regions``.
        window_um: Side of a region. 500 um fill a screen at 20x, show whole glands with what is around them, and are
            corrected in a few minutes.
        min_tissue: Part of a region that must be tissue.
        max_annotated: Part of it that may be annotated. Not 0, so that a small area drawn at its border is no reason to
            leave it out; so small that a region in which somebody has drawn since is not suggested again.
        held_back: Whether slides for validation and test are looked at too.
        weight_uncertainty: Weight of how unsure the model is, which tells errors best (docs/suggest.md).
        weight_rarity: Weight of predicted classes of which little is annotated. With half as much as for uncertainty, a
            class of which nothing is annotated outweighs being of middling uncertainty, and no more.
        weight_distance: Weight of how unlike what is annotated as its class the tissue looks. It is meant for what the
            model is wrong about without being unsure; it tells errors so little that it decides only between equals.
        spread: Weight of what makes regions unlike each other: their distance on the slide and in looks, other slides,
            other classes. 0 takes the highest scores, wherever they are; 1 gives up an eighth of the errors that are
            found for it (docs/suggest.md).
    """

    regions: Annotated[int | None, Flag("How many regions.", metavar="N", default=str(REGIONS))] = Field(
        default=None, ge=1, le=1000
    )
    mm2: Annotated[float | None, Flag("Area of all regions together, in place of their number.", metavar="MM2")] = (
        Field(default=None, gt=0, allow_inf_nan=False)
    )
    window_um: Annotated[float, Flag("Side of a region.", metavar="UM")] = Field(default=500.0, ge=10, le=100_000)
    min_tissue: Annotated[float, Flag("Part of a region that must be tissue.", metavar="PART", panel=WINDOWS_PANEL)] = (
        Field(default=0.5, ge=0, le=1)
    )
    max_annotated: Annotated[
        float, Flag("Part of a region that may be annotated.", metavar="PART", panel=WINDOWS_PANEL)
    ] = Field(default=0.05, ge=0, lt=1)
    held_back: Annotated[
        bool,
        Flag(
            "Look at slides for validation and test too, whose figures then say less.",
            name="--held-back/--without-held-back",
            panel=WINDOWS_PANEL,
        ),
    ] = False
    weight_uncertainty: Annotated[
        float, Flag("Weight of how unsure the model is.", metavar="W", panel=WEIGHTS_PANEL)
    ] = Field(default=1.0, ge=0, le=1000)
    weight_rarity: Annotated[
        float, Flag("Weight of classes of which little is annotated.", metavar="W", panel=WEIGHTS_PANEL)
    ] = Field(default=0.5, ge=0, le=1000)
    weight_distance: Annotated[
        float, Flag("Weight of how unlike its class it looks.", metavar="W", panel=WEIGHTS_PANEL)
    ] = Field(default=0.1, ge=0, le=1000)
    spread: Annotated[float, Flag("Weight of regions being unlike each other.", metavar="W", panel=WEIGHTS_PANEL)] = (
        Field(default=0.5, ge=0, le=1000)
    )

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.regions is not None and self.mm2 is not None:
            raise ValueError("regions and mm2 are two words for one budget; leave one of them out")
        if not any(self.weights):
            raise ValueError("of the weights of uncertainty, rarity and distance one must be above 0")
        return self

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights of uncertainty, rarity and distance."""
        return self.weight_uncertainty, self.weight_rarity, self.weight_distance
