"""What a person made of predictions, for the import report: findings, counts, and the matrix of corrections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.review import Doubt
from dmmn_qp.qupath.review_counts import ReviewCounts, total
from dmmn_qp.reports.inputs import AnySlide, Finding, ImportedData
from dmmn_qp.specs import MM2_OF_UM2, FileModel

NOTHING_TO_DO: Final = "nothing to do"
"""The way out of a note that only says what is so."""

_DOUBTS: Final[dict[Doubt, tuple[str, str]]] = {
    "locked by QuPath": (
        "locked, but perhaps by QuPath itself, which locks what cells are sought in and what features are measured of",
        "if you checked them, change their class or outline, or pass --take-predictions locked",
    ),
    "no measurements": (
        "without measurements, which an export may leave out and every change of an outline takes away, so that nobody "
        "can tell without the files of the prediction which were corrected",
        "pass their folder as --predicted-in, or export again with measurements, or lock those that are right",
    ),
}


class ReviewFigures(FileModel):
    """Objects of a slide by whose word they are.

    Attributes:
        drawn: What a person drew.
        predicted: What a model predicted, and of that:
        confirmed: what was locked as it is,
        corrected: what got another class or outline,
        unchecked: and what nobody vouched for.
    """

    drawn: int
    predicted: int
    confirmed: int
    corrected: int
    unchecked: int


class CorrectionFigures(FileModel):
    """An entry of the matrix of corrections.

    Attributes:
        predicted: What the model had said.
        said: What a person said to it: the same class where it was right; None for what was taken away.
        area_mm2: How much of it.
    """

    predicted: str
    said: str | None
    area_mm2: float


def review_figures(counts: ReviewCounts) -> ReviewFigures:
    """The figures of one slide."""
    return ReviewFigures(
        drawn=counts.drawn,
        predicted=counts.predicted,
        confirmed=counts.confirmed,
        corrected=counts.corrected,
        unchecked=counts.unchecked,
    )


def correction_figures(data: ImportedData) -> tuple[CorrectionFigures, ...]:
    """The matrix of corrections of all slides, by the names of the source, largest first."""
    areas: defaultdict[tuple[str, str | None], float] = defaultdict(float)
    for slide in data.slides:
        for pair, px2 in slide.corrections.items():
            areas[pair] += px2 * slide.record.mpp**2 * MM2_OF_UM2
    ordered = sorted(areas.items(), key=lambda item: -item[1])
    return tuple(CorrectionFigures(predicted=p, said=said, area_mm2=mm2) for (p, said), mm2 in ordered)


def review_findings(counts: ReviewCounts, reading: ReadRules) -> Iterator[Finding]:
    """What an import says of the predictions that it met."""
    take = reading.take_predictions
    n_doubtful = sum(counts.doubts.values()) if take != "all" else 0
    if counts.confirmed or counts.corrected:
        yield Finding(
            severity="note",
            concerns="model",
            message=f"of {_areas(counts.predicted)}, {counts.confirmed:,} locked and {counts.corrected:,} corrected"
            + (" become labels" if take in ("reviewed", "all") else ""),
            way_out=NOTHING_TO_DO,
        )
    if counts.unchecked and take == "all":
        yield Finding(
            severity="warning",
            concerns="model",
            message=f"{_areas(counts.unchecked)} that nobody checked become labels, because --take-predictions all "
            "says so",
            way_out="leave that out, unless the model is to learn from itself",
        )
    elif counts.unchecked - n_doubtful:
        yield Finding(
            severity="note",
            concerns="model",
            message=f"{_areas(counts.unchecked - n_doubtful)} that nobody checked are left out",
            way_out="lock those that are right, and correct those that are wrong",
        )
    for doubt, n in counts.doubts.items() if take != "all" else ():
        why, way_out = _DOUBTS[doubt]
        if not (take == "locked" and doubt == "locked by QuPath"):
            message = f"{_areas(n)} left out: {why}"
            yield Finding(severity="warning", concerns="model", message=message, way_out=way_out)
    if counts.outlines:
        s = "s" if counts.outlines > 1 else ""
        yield Finding(
            severity="note",
            message=f"{counts.outlines} outline{s} of tissue or suggested regions, drawn by dmmn-qp, left out",
            way_out=NOTHING_TO_DO,
        )


def all_counts(data: ImportedData) -> ReviewCounts:
    """Of all slides together, those that are left out included."""
    return total((*(slide.review for slide in data.slides), *data.only_predicted))


def contradiction(
    slide: AnySlide, shared_px2: Mapping[tuple[str, str], float], place: tuple[int, int] | None
) -> Finding | None:
    """Predictions that somebody vouched for where something else was drawn.

    Args:
        slide: The slide.
        shared_px2: Area by (predicted class as it is now, drawn class).
        place: Where most of it is.
    """
    if not shared_px2:
        return None

    def size(px2: float) -> str:
        return f"{px2:,.0f} px²" if slide.mpp is None else _mm2(px2 * slide.mpp**2 * MM2_OF_UM2)

    details = ", ".join(
        f'{size(px2)} of "{predicted}" where "{drawn}" is drawn'
        for (predicted, drawn), px2 in sorted(shared_px2.items(), key=lambda item: -item[1])[:5]
    )
    return Finding(
        severity="warning",
        slide=slide.slide_id,
        place=place,
        message="predictions that were locked or corrected contradict what is drawn in "
        f"{size(sum(shared_px2.values()))}: {details}; what is drawn counts",
        way_out="look there, and delete or pull apart what is wrong",
    )


def _mm2(area: float) -> str:
    return f"{area:.4f} mm²" if area >= 0.00005 else "less than 0.0001 mm²"


def _areas(n: int) -> str:
    return f"{n:,} predicted area{'s' if n != 1 else ''}"
