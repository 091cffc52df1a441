"""How long a person works on a round, as an estimate: the one place that has its constants."""

from __future__ import annotations

from pydantic import Field

from dmmn_qp.specs import FileModel


class PersonSeconds(FileModel):
    """Seconds that each thing takes a person who is used to QuPath.

    The figures are an estimate for comparing rounds, not a measurement: who wants minutes that are right for themselves
    times ten objects of each kind, and sets the means under ``[import.person_seconds]``. Time for thinking about hard
    cases, for breaks and for opening slides is in none of them.

    Attributes:
        looked_at: Find a predicted object, judge it, select and lock it. A glance and two clicks, or a click and a key.
        reclassified: Give it another class, besides: a choice in a list.
        reshaped: Change its outline, besides: take brush or wand, some strokes, and look again.
        drawn_object: Begin a new area: find its place, take a tool, choose its class.
        drawn_mm: Draw a mm of its outline. At 10x (1 um/px) that is 1,000 px of the screen, along which a careful hand
            moves at about 200 px/s.
    """

    looked_at: float = Field(default=3.0, ge=0, le=3600)
    reclassified: float = Field(default=4.0, ge=0, le=3600)
    reshaped: float = Field(default=20.0, ge=0, le=3600)
    drawn_object: float = Field(default=5.0, ge=0, le=3600)
    drawn_mm: float = Field(default=5.0, ge=0, le=3600)

    def minutes(
        self, *, looked_at: int = 0, reclassified: int = 0, reshaped: int = 0, drawn: int = 0, drawn_mm: float = 0.0
    ) -> float:
        """Estimates the minutes of a person.

        Args:
            looked_at: Predicted objects that were confirmed or corrected.
            reclassified: Those that got another class.
            reshaped: Those that got another outline.
            drawn: Areas that were drawn.
            drawn_mm: Length of their outlines.
        """
        seconds = (
            self.looked_at * looked_at
            + self.reclassified * reclassified
            + self.reshaped * reshaped
            + self.drawn_object * drawn
            + self.drawn_mm * drawn_mm
        )
        return seconds / 60
