"""What the figures of an evaluation say, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    Evaluation,
    Figure,
    Figures,
    ModelEvaluation,
    PairedComparison,
    TruthDescription,
)
from dmmn_qp.text import shorten

DASH: Final = "–"
_ALPHA: Final = 0.05
_MOST_COMPARISONS: Final = 3
_CONFUSED: Final = 0.05
"""Share of a class that must be taken for another to be named."""


def main_truth(evaluation: Evaluation) -> TruthDescription:
    """The truth on which most of the page is about: full maps where there are any, else what people drew.

    Of those that have no figures, only the first is taken where none has any.
    """
    with_figures = [truth for truth in evaluation.truths if any(model.of(truth.kind) for model in evaluation.models)]
    ordered = sorted(with_figures, key=lambda truth: not truth.is_full)
    return (ordered or list(evaluation.truths))[0]


def figure_text(figure: Figure) -> str:
    """``0.713``; a dash where there is no figure."""
    return DASH if figure.value is None else f"{figure.value:.3f}"


def interval_text(figure: Figure) -> str:
    """``0.65 to 0.78``; empty where there is no interval."""
    return "" if figure.low is None or figure.high is None else f"{figure.low:.2f} to {figure.high:.2f}"


def signed_text(value: float | None, digits: int = 3) -> str:
    """``+0.013`` or ``−0.013``; a dash for none."""
    if value is None:
        return DASH
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def p_text(p_value: float | None) -> str:
    """``0.031`` or ``< 0.001``, as precise as it is; a dash for none."""
    if p_value is None:
        return DASH
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def figure_name(comparison: PairedComparison) -> str:
    """What was compared, in words."""
    names = {"mean_iou": "mIoU", "mean_dice": "mean Dice", "accuracy": "accuracy", "iou": "IoU"}
    name = names.get(comparison.figure, comparison.figure.replace("_", " "))
    return name if comparison.class_name is None else f"{name} of {comparison.class_name}"


def is_told_apart(comparison: PairedComparison) -> bool:
    """Whether the slides tell two models apart."""
    return comparison.p_value is not None and comparison.p_value < _ALPHA


def summary_sentences(evaluation: Evaluation) -> list[str]:
    """What the figures say, a sentence or two for each line."""
    truth = main_truth(evaluation)
    shown = [(model, figures.pooled) for model in evaluation.models if (figures := model.of(truth.kind))]
    if not shown:
        return ["There is nothing to compare: no pixel counts."]
    ranked = sorted(shown, key=lambda item: -(item[1].mean_iou.value or 0.0))
    return [
        *_of_best(ranked, truth),
        *_of_weakest(*ranked[0]),
        *(_of_comparison(c) for c in _main_comparisons(evaluation, ranked[0][0].name, truth)),
        *_of_samples(evaluation),
    ]


def _of_best(ranked: Sequence[tuple[ModelEvaluation, Figures]], truth: TruthDescription) -> list[str]:
    model, figures = ranked[0]
    name, interval = shorten(model.name), interval_text(figures.mean_iou)
    best = f"The highest mIoU of {len(ranked)} is that of {name}:" if len(ranked) > 1 else f"The mIoU of {name} is"
    line = f"{best} {figure_text(figures.mean_iou)}{f' ({interval})' if interval else ''}"
    if figures.accuracy.value is None:
        return [f"{line}."]
    return [f"{line}; {100 * figures.accuracy.value:.1f} % of the compared pixels ({truth.title}) are right."]


def _of_weakest(model: ModelEvaluation, figures: Figures) -> list[str]:
    """The class with the lowest IoU, and what it is taken for."""
    known = [(c.iou.value, i) for i, c in enumerate(figures.classes) if c.iou.value is not None]
    if len(known) < 2:
        return []
    _, i = min(known)
    name, row = figures.classes[i].name, figures.row_shares()[i]
    others = [(share, column) for column, share in zip(figures.columns, row, strict=True) if share and column != name]
    worst, taken_for = max(others, default=(0.0, ""))
    line = f"Its weakest class is {shorten(name)} with an IoU of {figure_text(figures.classes[i].iou)}"
    if worst >= _CONFUSED:
        line += f": {100 * worst:.0f} % of it {_taken_for(taken_for)}"
    return [line + "."]


def _taken_for(name: str) -> str:
    return "is not predicted at all" if name == NOT_PREDICTED else f"is taken for {shorten(name)}"


def _main_comparisons(evaluation: Evaluation, best: str, truth: TruthDescription) -> list[PairedComparison]:
    """Of the best model with others, by mIoU."""
    fitting = (
        c
        for c in evaluation.comparisons
        if c.kind == truth.kind and c.figure == "mean_iou" and c.class_name is None and best in (c.first, c.second)
    )
    return list(fitting)[:_MOST_COMPARISONS]


def _of_comparison(c: PairedComparison) -> str:
    told = f"{shorten(c.first)} − {shorten(c.second)}: {signed_text(c.difference.value)} mIoU"
    if c.p_value is None:
        return f"{told}; with so few {c.sample_kind} nobody can tell whether that is chance."
    kind = c.sample_kind if c.samples != 1 else c.sample_kind.removesuffix("s")
    verdict = "tell them apart" if is_told_apart(c) else "do not tell them apart"
    sign = "" if p_text(c.p_value).startswith("<") else "= "
    return f"{told} (p {sign}{p_text(c.p_value)}): {c.samples} {kind} {verdict}."


def _of_samples(evaluation: Evaluation) -> list[str]:
    """How far the figures carry."""
    settings = evaluation.settings
    if settings.samples <= 1:
        kind = settings.sample_kind.removesuffix("s")
        return [f"One {kind} says nothing of how far others differ, so there are no intervals."]
    if not settings.resamples:
        return []
    return [
        f"Intervals hold {100 * settings.confidence:.0f} % of the figures of {settings.resamples:,} draws of "
        f"{settings.samples} {settings.sample_kind}, with replacement."
    ]
