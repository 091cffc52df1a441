"""`report.html` of a model: how its training went, and what it makes of validation patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dmmn_qp.files import new_file
from dmmn_qp.folders.model import ModelCard
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.reports.html import REPORT_PAGE, page_environment
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.text import printable
from dmmn_qp.version import __version__

_TEMPLATE: Final = "training_report.html.j2"
_GAP_PX: Final = 6
_PALE: Final = 0.45


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


def draw_verdict(verdict: PatchVerdict, class_map: ClassMap) -> NDArray[np.uint8]:
    """The patch at each magnification, then its labels and the prediction over it, in one row: (S, columns, 3)."""
    colors = class_map.palette()[:, :3].astype(np.float32)
    finest = verdict.images[0].astype(np.float32)
    tiles: list[NDArray[np.uint8]] = list(verdict.images)
    for labels in (verdict.truth, verdict.predicted):
        shown = (labels != UNLABELLED)[..., None]
        faded = finest * 0.6 + 255 * 0.4
        mixed = np.where(shown, (1 - _PALE) * colors[labels] + _PALE * finest, faded)
        tiles.append(mixed.astype(np.uint8))
    gap = np.full((finest.shape[0], _GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


@rc_context({"text.parse_math": False})
def draw_curves(history: Sequence[Mapping[str, float]], class_map: ClassMap, best_epoch: int) -> bytes:
    """Loss and mIoU over the epochs, and the IoU of each class: an SVG."""
    epochs = [row["epoch"] for row in history]
    figure = Figure(figsize=(11.4, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [row["loss"] for row in history], color="#50637a", label="training loss")
    left.set_ylim(bottom=0)
    scores = left.twinx()
    scores.plot(epochs, [row["val_mean_iou"] for row in history], color="#2a6f77", label="validation mIoU")
    scores.set_ylim(0, 1)
    left.set_ylabel("training loss", color="#50637a")
    scores.set_ylabel("validation mIoU", color="#2a6f77")
    for c in class_map.classes:
        color = tuple(v / 255 for v in c.color)
        right.plot(epochs, [row[f"val_iou {c.name}"] for row in history], color=color, label=printable(c.name, 80))
    right.set_ylim(0, 1)
    right.set_ylabel("validation IoU by class")
    right.legend(fontsize=8, ncols=2, frameon=False)
    for axes in (left, right):
        axes.axvline(best_epoch, color="#b9770e", linewidth=1, linestyle=":")
        axes.set_xlabel("epoch (dotted: the one kept)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines["top"].set_visible(False)
    content = BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def write_training_report(
    folder: Path,
    card: ModelCard,
    history: Sequence[Mapping[str, float]],
    metrics: Metrics,
    worst: Sequence[PatchVerdict],
    best: Sequence[PatchVerdict],
    facts: Mapping[str, Any],
) -> Path:
    """Writes the report into a model's folder.

    Args:
        folder: The model.
        card: Its card.
        history: A row of figures an epoch.
        metrics: Of the kept epoch on the validation patches.
        worst: Validation patches that it gets wrong.
        best: Validation patches that it gets right.
        facts: Further lines for the head of the page: what -> how much.

    Returns:
        The page.
    """

    def jpeg(verdict: PatchVerdict) -> bytes:
        content = BytesIO()
        Image.fromarray(draw_verdict(verdict, card.class_map)).save(content, "JPEG", quality=85)
        return content.getvalue()

    shares = metrics.confusion / np.maximum(1, metrics.confusion.sum(axis=1, keepdims=True))
    page = (
        page_environment()
        .get_template(_TEMPLATE)
        .render(
            card=card,
            curves=draw_curves(history, card.class_map, int(card.validation["epoch"])),
            metrics=metrics,
            shares=shares,
            examples=[("Most wrong", [(v, jpeg(v)) for v in worst]), ("Most right", [(v, jpeg(v)) for v in best])],
            facts=facts,
            made_by=f"dmmn-qp {__version__}",
        )
    )
    with new_file(folder / REPORT_PAGE) as temporary:
        temporary.write_text(page, "utf-8")
    return folder / REPORT_PAGE
