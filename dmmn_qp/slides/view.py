"""A slide as QuPath shows it: a file, the frame that is put around it, and how large its pixels are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.pixel_sizes import MppRules, StatedMpp
from dmmn_qp.slides.transformed import Change


@dataclass(frozen=True, slots=True)
class SlideView:
    """A slide that can be opened; the one place that knows how.

    Attributes:
        path: The file.
        crop_to_bounds: Whether QuPath's frame starts at the scanned bounds.
        frame: Crops, turns and flips that QuPath puts around the file, the one next to the file first.
        mpp: What is said of its um/px beside the file.
        size_px: (width, height) that it must have in this frame, in level-0 px, where that is known.
    """

    path: Path
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()
    mpp: StatedMpp = field(default_factory=StatedMpp)
    size_px: tuple[int, int] | None = None

    def open(self) -> Slide:
        """Opens the slide in its frame.

        Raises:
            SlideError: It cannot be found or read, or is another one than was annotated.
            PixelSizeError: Its pixel size is unknown or implausible.
        """
        slide = open_slide(self.path, mpp=self.mpp, crop_to_bounds=self.crop_to_bounds, frame=self.frame)
        size = slide.info.width, slide.info.height
        if self.size_px not in (None, size):
            slide.close()
            raise SlideError(
                f'slide "{self.path}" has {size[0]} x {size[1]} px, but the annotated one has '
                f"{' x '.join(map(str, self.size_px or ()))}; it is another file of that name: pass --slides-root with "
                "the right folder"
            )
        return slide

    def stated_mpp(self) -> float | None:
        """um/px as it is said beside the file; None where nobody says it."""
        try:
            return self.mpp.resolve(self.path.name, None).mpp
        except PixelSizeError:
            return None

    def with_rules(self, rules: MppRules) -> Self:
        """The same view with ``--mpp`` and ``--force-mpp``."""
        return replace(self, mpp=replace(self.mpp, default=rules.default, forced=rules.forced))

    def with_stored(self, mpp: float | None, by: str) -> Self:
        """The same view, of which a project, or what it exported, may say the um/px."""
        return replace(self, mpp=replace(self.mpp, stored=mpp, stored_by=by))

    def with_listed(self, mpp: float | None, by: str) -> Self:
        """The same view, of which somebody may say the um/px."""
        return self if mpp is None else replace(self, mpp=replace(self.mpp, listed=mpp, listed_by=by))
