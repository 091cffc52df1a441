"""What an import adds to the ledger of the loop: what people made of the predictions that it met.

An import meets what was corrected in all rounds, again and again. It says anew what it can see, round by round and
slide by slide, and leaves the rest as it was: so importing twice changes nothing, and what is not there any more, a
slide or the files of a prediction, is not lost to the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Final

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.folders.model_glance import ModelGlance, glance_models, number
from dmmn_qp.folders.names import MODELS
from dmmn_qp.folders.person_time import PersonSeconds
from dmmn_qp.folders.predictions import read_predictions
from dmmn_qp.folders.provenance import now
from dmmn_qp.folders.round_figures import RoundFigures, checked_rounds, figures_of, write_rounds
from dmmn_qp.folders.rounds import (
    LOOP_PAGE,
    ROUNDS,
    Drawn,
    Judged,
    Ledger,
    Machine,
    Round,
    RoundKind,
    SlideReview,
    loop_folder,
    update_ledger,
)
from dmmn_qp.importing.prepared import Labelling, Prepared
from dmmn_qp.qupath.review_counts import ReviewedModel
from dmmn_qp.reports.html import percent_text
from dmmn_qp.reports.loop_report import write_loop_page
from dmmn_qp.specs import MM2_OF_UM2
from dmmn_qp.text import printable

_LONGEST_NAME: Final = 100
_UM_PER_MM: Final = 1e3

_Rounds = dict[tuple[RoundKind, str | None], Round]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an import has seen.

    Attributes:
        rounds: The rounds of which it has met something, with the slides on which it has.
        drawn: What is drawn on all slides.
        import_s: How long it took.
    """

    rounds: _Rounds
    drawn: Drawn
    import_s: float


def record_rounds(
    out: Path,
    prepared: Sequence[Prepared],
    labelling: Labelling,
    predicted_in: Iterable[Path],
    person: PersonSeconds,
    seconds: float,
    reporter: Reporter,
) -> None:
    """Brings the ledger beside a dataset up to date, and says how right the predictions were that were checked.

    What cannot be written is left out with a warning.

    Args:
        out: The dataset.
        prepared: Its slides.
        labelling: How objects became labels.
        predicted_in: Folders of predictions.
        person: How long a person takes.
        seconds: How long the import took so far.
        reporter: Where to report.
    """
    folder = loop_folder(out)
    models = {model.run_id: model for model in glance_models(folder.parent / MODELS)}
    seen = _Seen(_seen_rounds(prepared, labelling, models, predicted_in), _drawn(prepared, labelling), seconds)

    def write(ledger: Ledger) -> None:
        figures = figures_of(ledger, person)
        write_rounds(folder / ROUNDS, figures)
        with reporter.optional(f'"{folder / LOOP_PAGE}"'):
            write_loop_page(folder / LOOP_PAGE, figures, labelling.class_map, person)

    try:
        ledger = update_ledger(folder, lambda before: _updated(before, seen), write)
    except (DmmnQpError, OSError) as error:
        reporter.warn(f"the round is not recorded: {error}")
        return
    if any(slide.confirmed + slide.corrected for one in seen.rounds.values() for slide in one.slides):
        for line in _lines(figures_of(ledger, person), folder):
            reporter.say(f"  {line}")


def _lines(rounds: Sequence[RoundFigures], folder: Path) -> list[str]:
    """How right the predictions of the last round were, and those of the one before."""
    points = checked_rounds(rounds)
    if not points:
        return [f"checked predictions do not tell their model; see {folder / LOOP_PAGE}"]
    before = f", {percent_text(points[-2].share)} in {points[-2].name}" if len(points) > 1 else ""
    return [
        f"of what was checked, {percent_text(points[-1].share)} had been right in {points[-1].name}{before}; "
        f"see {folder / LOOP_PAGE}"
    ]


# ---- what this import sees


def _seen_rounds(
    prepared: Sequence[Prepared], labelling: Labelling, models: dict[str, ModelGlance], predicted_in: Iterable[Path]
) -> _Rounds:
    predict_s = _prediction_seconds(predicted_in)
    found: _Rounds = {}
    for item in prepared:
        for reviewed in item.source.models:
            run = reviewed.model_run
            key: tuple[RoundKind, str | None] = ("unknown", None) if run is None else ("model", run)
            made = models.get(run or "")
            one = found.get(key) or Round(
                kind=key[0],
                model_run=run,
                model=None if run is None else printable(reviewed.model or "", _LONGEST_NAME) or None,
                since=made.created if made is not None else "",
                machine=Machine(train_s=made.seconds if made is not None else None, predict_s=predict_s.get(run or "")),
            )
            found[key] = one.model_copy(update={"slides": (*one.slides, _slide(item, reviewed, labelling))})
    return found


def _slide(item: Prepared, reviewed: ReviewedModel, labelling: Labelling) -> SlideReview:
    """What became of a model's predictions on a slide, by the names of the classes that are trained."""
    mm2_per_px2 = item.record.mpp**2 * MM2_OF_UM2
    squares, mm4 = reviewed.squares_px4, mm2_per_px2**2
    areas: dict[tuple[str, str | None], float] = {}
    for (predicted, said), px2 in reviewed.corrections.items():
        pair = labelling.targets.get(predicted) or predicted, _said(said, labelling)
        areas[pair] = areas.get(pair, 0.0) + px2 * mm2_per_px2
    return SlideReview(
        slide=item.record.slide_id,
        confirmed=reviewed.confirmed,
        corrected=reviewed.corrected,
        reclassified=reviewed.reclassified,
        reshaped=reviewed.reshaped,
        judged=tuple(Judged(predicted=p, said=s, mm2=mm2) for (p, s), mm2 in areas.items()),
        squares_mm4=(squares[0] * mm4, squares[1] * mm4, squares[2] * mm4),
        is_compared=reviewed.is_compared,
        unchecked=reviewed.unchecked,
    )


def _said(name: str | None, labelling: Labelling) -> str | None:
    """The class that a person gave, as it is trained; None where it is none, such as ``Ignore*``, or one left out."""
    return None if name is None else labelling.targets.get(name, name)


def _drawn(prepared: Sequence[Prepared], labelling: Labelling) -> Drawn:
    areas, mm2, outline_mm = 0, 0.0, 0.0
    for item in prepared:
        mpp = item.record.mpp
        drawn = [a for a in item.annotations if a.origin == "drawn" and a.is_area and item.source.is_on_plane(a)]
        for annotation in drawn:
            if annotation.class_name in labelling.class_map.names:
                areas += 1
                mm2 += annotation.geometry.area * mpp**2 * MM2_OF_UM2
                outline_mm += annotation.geometry.length * mpp / _UM_PER_MM
    return Drawn(areas=areas, mm2=mm2, outline_mm=outline_mm)


def _prediction_seconds(folders: Iterable[Path]) -> dict[str, float]:
    """How long the predictions took that are there, by their model's training."""
    found: dict[str, float] = {}
    for folder in folders:
        for prediction in read_predictions(folder).values():
            seconds = number((prediction.model_extra or {}).get("seconds"))
            if seconds is not None:
                found[prediction.model_run] = found.get(prediction.model_run, 0.0) + seconds
    return found


# ---- what the ledger becomes


def _updated(before: Ledger, seen: _Seen) -> Ledger:
    """The ledger after an import."""
    rounds: _Rounds = {one.key: one for one in before.rounds}
    for key, one in seen.rounds.items():
        rounds[key] = _merged(rounds.get(key), one)
    if not rounds:
        rounds["start", None] = Round(kind="start", since=now())
    ordered = before.with_rounds(rounds).rounds
    last = next((one for one in reversed(ordered) if one.kind != "unknown"), ordered[-1])
    old = next((one for one in before.rounds if one.key == last.key), None)
    rounds[last.key] = _ended(old, last, seen)
    return before.with_rounds(rounds)


def _merged(before: Round | None, seen: Round) -> Round:
    """A round with what this import has seen of it."""
    if before is None:
        return seen if seen.since else seen.model_copy(update={"since": now()})
    slides = {slide.slide: slide for slide in before.slides}
    for slide in seen.slides:
        known = slides.get(slide.slide)
        if known is None or not _knows_less(slide, known):
            slides[slide.slide] = slide if known is None or not _is_same(slide, known) else known
    machine = Machine(
        import_s=before.machine.import_s,
        train_s=_most(before.machine.train_s, seen.machine.train_s),
        predict_s=_most(before.machine.predict_s, seen.machine.predict_s),
    )
    update = {
        "slides": tuple(slides[name] for name in sorted(slides)),
        "model": seen.model or before.model,
        "since": seen.since or before.since,
        "machine": machine,
    }
    return before.model_copy(update=update)


def _knows_less(slide: SlideReview, known: SlideReview) -> bool:
    """Whether a review lacks the outlines as they were predicted, of which an earlier one had all."""
    return known.is_compared and not slide.is_compared


def _is_same(slide: SlideReview, known: SlideReview) -> bool:
    """Whether two reviews differ by rounding at most: what QuPath saves again moves by a hundredth of a pixel."""

    def judged(one: SlideReview) -> dict[tuple[str, str | None], float]:
        return {(e.predicted, e.said): e.mm2 for e in one.judged}

    counts = {"confirmed", "corrected", "reclassified", "reshaped", "is_compared", "unchecked"}
    ours, theirs = judged(slide), judged(known)
    return (
        slide.model_dump(include=counts) == known.model_dump(include=counts)
        and ours.keys() == theirs.keys()
        and all(isclose(mm2, theirs[pair], rel_tol=1e-9) for pair, mm2 in ours.items())
    )


def _most(*known: float | None) -> float | None:
    """The largest; what is predicted anew is no longer in the folder of predictions."""
    return max((seconds for seconds in known if seconds is not None), default=None)


def _ended(before: Round | None, last: Round, seen: _Seen) -> Round:
    """The round to which this import belongs, with what is drawn by now; its time is that of the import with news."""
    ended = last.model_copy(update={"drawn": seen.drawn})
    if before is not None and ended == before:
        return before
    return ended.model_copy(update={"machine": last.machine.model_copy(update={"import_s": round(seen.import_s, 1)})})
