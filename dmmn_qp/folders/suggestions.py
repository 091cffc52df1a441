"""The folder of suggestions: what a suggested region is, and how the folder is told from one of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.regions import Region
from dmmn_qp.specs import MM2_OF_UM2

TABLE: Final = "suggestions.csv"
"""The suggested regions by rank; a folder that has it is one of suggestions. QuPath's scripts look for it too."""

PAGE: Final = "suggestions.html"
"""The same, with pictures."""

PREDICTED: Final = "predicted"
"""Folder in a folder of suggestions with predictions that were made for them alone."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A region that is worth annotating.

    Attributes:
        rank: 1 for the first to annotate.
        of: How many are suggested together.
        slide_id: The slide.
        region: In level-0 px of QuPath's frame.
        mpp: um/px of the slide at level 0.
        reason: Why, in words.
        score: Weighted mean of the next three.
        uncertainty: Rank of how unsure the model is there, among all windows, 0 to 1.
        rarity: How little is annotated of what is predicted there, 0 to 1.
        distance: Rank of how unlike what is annotated as its class it looks; a half where that is not known.
        entropy: How unsure the model is of its tissue, 0 to 1.
        shares: Predicted classes by their part of its tissue, the largest first.
    """

    rank: int
    of: int
    slide_id: str
    region: Region
    mpp: float
    reason: str
    score: float
    uncertainty: float
    rarity: float
    distance: float
    entropy: float
    shares: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """What QuPath shows; names sort as ranks do."""
        return f"{self.rank:0{max(2, len(str(self.of)))}d}. {self.reason}"

    @property
    def centre_px(self) -> tuple[int, int]:
        """(x, y) in level-0 px, to jump to."""
        return self.region.x + self.region.width // 2, self.region.y + self.region.height // 2

    @property
    def width_um(self) -> float:
        """Its width."""
        return self.region.width * self.mpp

    @property
    def mm2(self) -> float:
        """Its area."""
        return self.region.width * self.region.height * self.mpp**2 * MM2_OF_UM2


def is_of_suggestions(folder: Path) -> bool:
    """Whether a folder holds suggestions."""
    return (folder / TABLE).is_file()
