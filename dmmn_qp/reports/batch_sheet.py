"""A picture of what the network is given: patches as they are, augmented, and deformed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from torch import Tensor

from dmmn_qp.figures import plain_text
from dmmn_qp.specs import ClassMap, PatchSpec
from dmmn_qp.text import printable

_INCHES, _DPI = 1.55, 110
_TITLE_INCHES, _LEGEND_INCHES, _LEGEND_ROW_INCHES = 0.4, 0.35, 0.16
_MOST_COLUMNS, _SWATCH_INCHES, _LETTER_INCHES = 12, 0.5, 0.075
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class SheetCell:
    """One version of a patch.

    Attributes:
        title: What was done to it.
        images: (M, 3, S, S) uint8 RGB.
        target: (S, S) uint8 labels.
    """

    title: str
    images: Tensor
    target: Tensor


@rc_context({"text.parse_math": False})
def draw_batch_sheet(
    rows: Sequence[Sequence[SheetCell]], names: Sequence[str], class_map: ClassMap, spec: PatchSpec
) -> bytes:
    """Draws patches, one a row, with their versions side by side: each magnification, then the mask.

    A square in the coarser magnifications shows where the target is.

    Args:
        rows: Versions of each patch.
        names: What each patch is called.
        class_map: Colours of the mask.
        spec: The patch geometry.

    Returns:
        A PNG.
    """
    with plain_text():
        return _draw_batch_sheet(rows, names, class_map, spec)


def _draw_batch_sheet(
    rows: Sequence[Sequence[SheetCell]], names: Sequence[str], class_map: ClassMap, spec: PatchSpec
) -> bytes:
    width = len(spec.mpps) + 1
    columns = len(rows[0]) * width
    texts = [printable(name, _LONGEST_NAME) for name in class_map.names]
    widest = _SWATCH_INCHES + _LETTER_INCHES * max(map(len, texts))
    of_legend = max(1, min(_MOST_COLUMNS, int(columns * _INCHES / widest), len(texts)))
    legend_height = _LEGEND_INCHES + _LEGEND_ROW_INCHES * (-(-len(texts) // of_legend) - 1)
    height = len(rows) * _INCHES + _TITLE_INCHES + legend_height
    figure = Figure((columns * _INCHES + 0.4, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    # a narrow empty column between versions
    widths = [w for _ in rows[0] for w in (*[1.0] * width, 0.12)][:-1]
    grid = figure.add_gridspec(
        len(rows),
        len(widths),
        width_ratios=widths,
        left=0.02,
        right=0.995,
        top=1 - _TITLE_INCHES / height,
        bottom=legend_height / height,
        wspace=0.03,
        hspace=0.03,
    )
    for r, (cells, name) in enumerate(zip(rows, names, strict=True)):
        for v, cell in enumerate(cells):
            pictures = [*cell.images.permute(0, 2, 3, 1).numpy(), colored(cell.target.numpy(), class_map)]
            for p, picture in enumerate(pictures):
                axes = figure.add_subplot(grid[r, v * (width + 1) + p])
                axes.imshow(picture, interpolation="none")
                axes.set_xticks([])
                axes.set_yticks([])
                if 0 < p < len(spec.mpps):
                    side = spec.size_px / 2**p
                    corner = (spec.size_px - side) / 2 - 0.5
                    axes.add_patch(
                        Rectangle((corner, corner), side, side, fill=False, edgecolor="black", linewidth=0.7)
                    )
                if r == 0:
                    what = "mask" if p == len(spec.mpps) else f"{spec.mpps[p]:g} um/px"
                    axes.set_title(f"{cell.title}\n{what}" if p == 0 else what, fontsize=7, loc="left", pad=3)
                if v == p == 0:
                    axes.set_ylabel(name, fontsize=6, labelpad=2)
    shades = [Patch(facecolor=to_rgb(c.color), edgecolor="0.6", linewidth=0.5) for c in class_map.classes]
    legend = figure.legend(
        handles=shades, labels=["?"] * len(shades), loc="lower center", ncols=of_legend, fontsize=7, frameon=False
    )
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set_text(text)  # as a label, a name that begins with _ would be left out
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def to_rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    """A colour as Matplotlib wants it, from 0 to 1."""
    red, green, blue = (channel / 255 for channel in color)
    return red, green, blue


def colored(labels: NDArray[np.uint8], class_map: ClassMap) -> NDArray[np.uint8]:
    """Labels in their classes' colours, white where nothing is annotated: (rows, columns, 3)."""
    return class_map.palette(others=(255, 255, 255, 255))[:, :3][labels]
