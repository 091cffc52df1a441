"""What came of the slides of a call: skipped, written, or failed and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dmmn_qp.errors import InUseError, OutputExistsError, PartlyPredictedError
from dmmn_qp.files.failures import is_full_disk, line_of
from dmmn_qp.folders.predictions import EARLIER
from dmmn_qp.outputs.area_table import AREAS
from dmmn_qp.outputs.made_objects import MadeObjects
from dmmn_qp.predicting.call import Call
from dmmn_qp.text import count_of, one_of_each_kind

_MOST_NAMES: Final = 5
"""Names that a message lists."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one slide.

    Attributes:
        slide_id: The slide.
        polygons: Its polygons; None where it failed.
        skipped: Whether they had been there before.
        failure: Why it failed; None where it did not.
        is_left: Whether another process predicts it.
        dropped: Number of earlier polygons that were removed because there were too many.
        made: What became of the regions of its labels; None where no polygons were made.
        is_unlike: Whether it is unlike the training slides of the model.
    """

    slide_id: str
    polygons: Path | None = None
    skipped: bool = False
    failure: str | None = None
    is_left: bool = False
    dropped: int = 0
    made: MadeObjects | None = None
    is_unlike: bool = False


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of the slides so far.

    Attributes:
        outcomes: In the order in which the slides were done with.
    """

    outcomes: tuple[Outcome, ...] = ()

    def after(self, outcome: Outcome) -> Summary:
        """The summary with one more slide."""
        return Summary((*self.outcomes, outcome))

    @property
    def finished(self) -> dict[str, Path]:
        """Polygons of each slide that has them, also of those that were skipped."""
        return {done.slide_id: done.polygons for done in self.outcomes if done.polygons is not None}

    @property
    def skipped(self) -> list[str]:
        """Slides that had been finished before."""
        return [done.slide_id for done in self.outcomes if done.skipped]

    @property
    def left(self) -> list[str]:
        """Slides that other processes predict."""
        return [done.slide_id for done in self.outcomes if done.is_left]

    @property
    def failures(self) -> dict[str, str]:
        """Why slides failed."""
        return {done.slide_id: done.failure for done in self.outcomes if done.failure is not None}

    @property
    def dropped(self) -> int:
        """Number of earlier polygons that were removed because there were too many."""
        return sum(done.dropped for done in self.outcomes)

    @property
    def unlike(self) -> list[str]:
        """Slides that are unlike the training slides of the model."""
        return [done.slide_id for done in self.outcomes if done.is_unlike]

    @property
    def has_news(self) -> bool:
        """Whether a slide was written or failed."""
        return not all(done.skipped or done.is_left for done in self.outcomes)


def left_out(call: Call, slide_id: str, error: Exception) -> Outcome:
    """Makes an error of any kind a slide's outcome, and warns of it; the other slides go on.

    Raises:
        Exception: The error itself, where there is no other slide, or it would stop the others too.
    """
    if isinstance(error, OutputExistsError) or is_full_disk(error) or call.is_of_one_slide:
        raise error
    if isinstance(error, InUseError):
        call.reporter.warn_of(slide_id, f"is left to another process: {error}", " ")
        return Outcome(slide_id, is_left=True)
    reason = line_of(error)
    call.reporter.warn_of(slide_id, f"is left out: {reason}", " ")
    return Outcome(slide_id, failure=reason)


def say_objects(call: Call, outcome: Outcome) -> None:
    """Says of which classes no object was made, and warns of very many objects."""
    if outcome.made is None or outcome.polygons is None:
        return
    for line in outcome.made.vanished_words(call.options):
        call.reporter.say(f"  {outcome.slide_id}: {line}")
    warning = outcome.made.warning(call.options, outcome.polygons.stat().st_size)
    if warning is not None:
        call.reporter.warn_of(outcome.slide_id, warning)


def say_skipped(call: Call, summary: Summary) -> None:
    """Names slides that are left as they are."""
    if skipped := summary.skipped:
        call.reporter.say(f"Predicted before, left as they are (--overwrite replaces them): {_first_names(skipped)}")


def conclude(call: Call, summary: Summary) -> dict[str, Path]:
    """Says what was written, and what failed.

    Returns:
        The polygons of all slides, in the order of the slides.

    Raises:
        PartlyPredictedError: Slides failed.
        InUseError: All are left to other processes.
    """
    if summary.dropped:
        call.reporter.say(f"Removed the {summary.dropped} oldest of the replaced polygons in {call.out / EARLIER}/")
    done = summary.finished
    finished = {slide.slide_id: done[slide.slide_id] for slide in call.slides if slide.slide_id in done}
    if finished.keys() - set(summary.skipped):
        call.reporter.say(f"Wrote {call.out}/; README.txt there names every file")
    if unlike := summary.unlike:
        call.reporter.say(
            f"{len(unlike)} of {count_of(len(call.slides), 'slide')} unlike the training slides of the model "
            f"(distance_from_training in {AREAS}): {_first_names(unlike)}"
        )
    if left := summary.left:
        line = f"Left to other processes that predict into {call.out}/ now: {_first_names(left)}"
        if len(left) == len(call.slides):
            raise InUseError(f"{line}; wait until they have ended, or pass another --out")
        call.reporter.say(line)
    if failures := summary.failures:
        reasons = "; ".join(one_of_each_kind(failures.items())[:_MOST_NAMES])
        raise PartlyPredictedError(
            f"{len(failures)} of {count_of(len(call.slides), 'slide')} could not be predicted: {reasons}", finished
        )
    return finished


def _first_names(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
