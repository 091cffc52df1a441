"""`report.html` of a model: how its training went, and what it makes of validation patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from dmmn_qp.figures import plain_text, seen_colors
from dmmn_qp.files import new_file
from dmmn_qp.folders.model import ModelCard
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.reports.html import REPORT_PAGE, page_template
from dmmn_qp.reports.pictures import PALE, labels_over_tissue
from dmmn_qp.specs import ClassMap
from dmmn_qp.version import __version__

_TEMPLATE: Final = "training_report.html.j2"
_GAP_PX: Final = 6
_CURVE_INCHES: Final = (4.6, 3.3)
_LOSS, _SCORE = "#50637a", "#2a6f77"

CONSTANT_COLUMN: Final = "val_constant_mean_iou"
"""Column of a history with the mIoU that one class everywhere would have."""


@dataclass(frozen=True, slots=True)
class PatchVerdict:
    """A validation patch and what the network made of it.

    Attributes:
        slide_id: The slide.
        place_px: (x, y) of the target's corner in grid pixels.
        images: (M, S, S, 3) uint8 RGB, finest magnification first.
        truth: (S, S) uint8 labels, 0 = unlabelled.
        predicted: (S, S) uint8 labels.
        accuracy: Right part of its labelled pixels.
    """

    slide_id: str
    place_px: tuple[int, int]
    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    accuracy: float


@dataclass(frozen=True, slots=True)
class StartedFrom:
    """The model that a training started from.

    Attributes:
        model: Its name.
        matched: Classes that it knew, by name.
        new: Classes that it did not know.
        mean_iou: Its mIoU on the validation patches, before the first step.
        worse: What is worse since, a line each.
    """

    model: str
    matched: Sequence[str]
    new: Sequence[str]
    mean_iou: float
    worse: Sequence[str] = ()


def over_tissue(verdict: PatchVerdict, labels: NDArray[np.uint8], class_map: ClassMap) -> NDArray[np.uint8]:
    """Labels over the finest image, which is faded where nothing is labelled: (S, S, 3) uint8."""
    return labels_over_tissue(verdict.images[0], labels, class_map.palette()[:, :3])


def draw_verdict(verdict: PatchVerdict, class_map: ClassMap) -> NDArray[np.uint8]:
    """Draws a patch at each magnification, then its labels and the prediction over it, in one row: (S, columns, 3)."""
    tiles = [*verdict.images, *(over_tissue(verdict, x, class_map) for x in (verdict.truth, verdict.predicted))]
    gap = np.full((tiles[0].shape[0], _GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def area_colors(verdicts: Sequence[PatchVerdict], class_map: ClassMap) -> list[tuple[int, int, int]]:
    """The colour in which each class is seen in pictures of some patches, for their legend; over glass if in none."""
    labels = [labels for verdict in verdicts for labels in (verdict.truth, verdict.predicted)]
    shown = [over_tissue(v, labels, class_map) for v in verdicts for labels in (v.truth, v.predicted)]
    over_glass = (class_map.palette()[:, :3] * (1 - PALE) + 255 * PALE).astype(np.uint8)
    seen = seen_colors(np.array(shown, np.uint8), np.array(labels, np.uint8), over_glass)
    return [(int(red), int(green), int(blue)) for red, green, blue in seen[[c.label for c in class_map.classes]]]


def draw_curves(
    history: Sequence[Mapping[str, float]], class_map: ClassMap, best_epoch: int, start_mean_iou: float | None = None
) -> list[bytes]:
    """Draws loss and mIoU over the epochs, and the IoU of each class.

    Args:
        history: A row of figures an epoch.
        class_map: The classes.
        best_epoch: The epoch that is kept; 0 is the model that the training started from.
        start_mean_iou: The mIoU of that model; None without one.

    Returns:
        An SVG of each, small enough to be read on a phone.
    """
    start = [] if start_mean_iou is None else [start_mean_iou]
    with plain_text():
        whole, of_classes = (Figure(figsize=_CURVE_INCHES, layout="constrained") for _ in range(2))
        _draw_whole(whole.subplots(), history, start)
        _draw_classes(of_classes.subplots(), history, class_map)
        return [_finished(figure, history, best_epoch, bool(start)) for figure in (whole, of_classes)]


def _draw_whole(axes: Axes, history: Sequence[Mapping[str, float]], start: list[float]) -> None:
    """Loss and mIoU, and the mIoU of always saying one class, below which a model is worth nothing."""
    epochs = [row["epoch"] for row in history]
    marker = _marker(history)
    axes.plot(epochs, [row["loss"] for row in history], color=_LOSS, marker=marker)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("training loss", color=_LOSS)
    scores = axes.twinx()
    known = [[*([0] if start else []), *epochs], [*start, *(row["val_mean_iou"] for row in history)]]
    scores.plot(*known, color=_SCORE, marker=marker)
    constant = history[-1].get(CONSTANT_COLUMN)
    if constant is not None:
        scores.axhline(constant, color=_SCORE, linewidth=1, linestyle="--")
        scores.annotate("one class everywhere", (1, constant), (0, 2), xycoords=("axes fraction", "data"),
                        textcoords="offset points", ha="right", color=_SCORE, fontsize=9)  # fmt: skip
    scores.set_ylim(0, 1)
    scores.set_ylabel("validation mIoU", color=_SCORE)
    scores.spines["top"].set_visible(False)


def _draw_classes(axes: Axes, history: Sequence[Mapping[str, float]], class_map: ClassMap) -> None:
    for c in class_map.classes:
        color = tuple(v / 255 for v in c.color)
        scores = [row[f"val_iou {c.name}"] for row in history]
        axes.plot([row["epoch"] for row in history], scores, color=color, marker=_marker(history))
    axes.set_ylim(0, 1)
    axes.set_ylabel("validation IoU by class")


def _finished(figure: Figure, history: Sequence[Mapping[str, float]], best_epoch: int, has_start: bool) -> bytes:
    """The SVG of a figure whose first axes are given their epochs."""
    axes = figure.axes[0]
    axes.axvline(best_epoch, color="#b9770e", linewidth=1, linestyle=":")
    axes.set_xlabel("epoch (dotted: the one kept)" if best_epoch else "epoch (dotted: the one kept; 0 is the start)")
    axes.set_xlim(-0.2 if has_start else 0.8, history[-1]["epoch"] + 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines["top"].set_visible(False)
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _marker(history: Sequence[Mapping[str, float]]) -> str | None:
    """A mark for each epoch where there is one alone: a line of one point is none."""
    return "o" if len(history) == 1 else None


def write_training_report(
    folder: Path,
    card: ModelCard,
    history: Sequence[Mapping[str, float]],
    metrics: Metrics,
    *,
    worst: Sequence[PatchVerdict],
    best: Sequence[tuple[str, PatchVerdict]],
    facts: Mapping[str, Any],
    started_from: StartedFrom | None = None,
    advice: Sequence[str] = (),
) -> Path:
    """Writes the report into a model's folder.

    Args:
        folder: The model.
        card: Its card.
        history: A row of figures an epoch.
        metrics: Of the kept epoch on the validation patches.
        worst: Validation patches that it gets wrong.
        best: For each class, the validation patch that it gets right most; with the class, or several of one patch.
        facts: Further lines for the head of the page: what -> how much.
        started_from: The model that the training started from; None without one.
        advice: What is wrong with the model and what to do about it, a line each.

    Returns:
        The page.
    """

    def jpeg(verdict: PatchVerdict) -> bytes:
        content = BytesIO()
        picture = Image.fromarray(draw_verdict(verdict, card.class_map))
        picture.save(content, "JPEG", quality=85, subsampling=0)  # which keeps colours where areas are small
        return content.getvalue()

    start_mean_iou = None if started_from is None else started_from.mean_iou
    shown = [*worst, *(verdict for _, verdict in best)]
    shares = metrics.confusion / np.maximum(1, metrics.confusion.sum(axis=1, keepdims=True))
    page = page_template(_TEMPLATE).render(
        card=card,
        curves=draw_curves(history, card.class_map, int(card.validation["epoch"]), start_mean_iou),
        metrics=metrics,
        shares=shares,
        examples=[
            ("Most wrong", [("", v, jpeg(v)) for v in worst]),
            ("Most right, for each class", [(names, v, jpeg(v)) for names, v in best]),
        ],
        areas=list(zip(card.class_map.names, area_colors(shown, card.class_map), strict=True)),
        facts=facts,
        started_from=started_from,
        advice=advice,
        made_by=f"dmmn-qp {__version__}",
    )
    with new_file(folder / REPORT_PAGE) as temporary:
        temporary.write_text(page, "utf-8")
    return folder / REPORT_PAGE
