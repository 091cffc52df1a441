"""A picture of a slide and its classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from dmmn_qp.figures import plain_text, seen_colors
from dmmn_qp.files import new_file
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.slides.base import RgbArray, read_overview
from dmmn_qp.specs import ClassMap, LabelArray
from dmmn_qp.text import printable

_OVERVIEW_PX = 1600

_SCALE_BARS_UM = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))

_OVERLAY_ALPHA = 115

_DPI = 110

_STACKED_BELOW = 0.4

_MARGIN, _GAP, _BAR_STRIP, _TITLE_STRIP, _LEAST_WIDTH = 0.15, 0.12, 0.35, 0.62, 6.0  # inches


def write_overview(path: Path, predicted: PredictedSlide) -> None:
    """Writes ``<slide>.overview.png``: the slide, the same with the classes over it, legend and scale bar.

    The two are beside each other, or one below the other where the slide is wide. Pixels without a label stay as they
    are.
    """
    info = predicted.slide.info
    aspect = info.height / info.width
    stacked = aspect < _STACKED_BELOW
    max_width, max_height = (13.6, 4.6) if stacked else (6.7, 9.0)
    width = min(max_width, max_height / aspect)
    height = width * aspect
    pictures = (width, 2 * height + _GAP) if stacked else (2 * width + _GAP, height)  # inches, as all here
    total_width = max(pictures[0] + 2 * _MARGIN, _LEAST_WIDTH)

    picture = read_overview(predicted.slide, _OVERVIEW_PX)
    with LabelRaster(predicted.labels) as raster:
        labels, (rows, columns) = raster.read_reduced(_OVERVIEW_PX), raster.shape
    covered_px = (columns * predicted.downsample, rows * predicted.downsample)  # of level 0, as the size of the slide
    swatches = _area_colors(picture, labels, (info.width, info.height), covered_px, predicted.class_map)

    figure = Figure(figsize=(total_width, 1), dpi=_DPI)
    legend, legend_height = _add_legend(figure, predicted.class_map, swatches, total_width - 2 * _MARGIN)
    below = _MARGIN + legend_height + _BAR_STRIP
    total_height = below + pictures[1] + _TITLE_STRIP
    figure.set_size_inches(total_width, total_height)
    legend.set_bbox_to_anchor((_MARGIN / total_width, _MARGIN / total_height), figure.transFigure)

    def panel(left: float, bottom: float) -> Axes:
        place = (left / total_width, bottom / total_height, width / total_width, height / total_height)
        axes = figure.add_axes(place, xlim=(0, info.width), ylim=(info.height, 0), xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color="0.6", linewidth=0.6)
        axes.imshow(picture, extent=(0, info.width, info.height, 0), aspect="auto", interpolation="antialiased")
        return axes

    panel(_MARGIN, below + (height + _GAP if stacked else 0))
    over = panel(_MARGIN + (0 if stacked else width + _GAP), below)
    palette = predicted.class_map.palette(alpha=_OVERLAY_ALPHA)
    over.imshow(palette[labels], extent=(0, covered_px[0], covered_px[1], 0), aspect="auto", interpolation="nearest")
    over.set(xlim=(0, info.width), ylim=(info.height, 0))

    titles = ((predicted.slide_id, 11, 0.12), (f"predicted by {predicted.model_name}", 9, 0.36))
    for text, size, from_top in titles:
        figure.text(
            _MARGIN / total_width,
            1 - from_top / total_height,
            printable(text, int(total_width * 10)),
            size=size,
            va="top",
            parse_math=False,
        )
    _add_scale_bar(
        figure, info.mpp * info.width / width, max(width, height) / 3, _MARGIN + legend_height + _BAR_STRIP / 2
    )
    with new_file(path) as temporary, plain_text():
        figure.savefig(temporary, format="png")


def _area_colors(
    picture: RgbArray,
    labels: LabelArray,
    size_px: tuple[int, int],
    covered_px: tuple[float, float],
    class_map: ClassMap,
) -> NDArray[np.uint8]:
    """The colour that each class has over the tissue of a slide, by label; over glass where it is nowhere.

    Args:
        picture: (rows, columns, 3) uint8 overview of the whole slide.
        labels: (rows, columns) uint8 reduced label raster.
        size_px: (width, height) of the slide in level-0 px.
        covered_px: (width, height) of the label raster in level-0 px; it may end beyond the slide.
        class_map: The classes.

    Returns:
        (256, 3) uint8.
    """
    alpha = _OVERLAY_ALPHA / 255
    places = [  # where in the picture the middle of each label's column and row is
        np.minimum((np.arange(n_labels) + 0.5) / n_labels * covered / size * n_pixels, n_pixels - 1).astype(np.int64)
        for n_labels, covered, size, n_pixels in zip(
            labels.shape[::-1], covered_px, size_px, picture.shape[1::-1], strict=True
        )
    ]
    colors = class_map.palette()[:, :3].astype(np.float32)
    tissue = picture[places[1][:, None], places[0][None, :]]
    shown = (alpha * colors[labels] + (1 - alpha) * tissue).astype(np.uint8)
    return seen_colors(shown, labels, (alpha * colors + (1 - alpha) * 255).astype(np.uint8))


def _add_legend(figure: Figure, class_map: ClassMap, swatches: NDArray[np.uint8], width: float) -> tuple[Legend, float]:
    """Adds a legend of all classes with as many columns as fit; returns it and its height in inches.

    A swatch is filled with the colour that the class's areas have in the picture, and framed with that of the class.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    patches = []
    for c in class_map.classes:
        red, green, blue = (channel / 255 for channel in c.color)
        patches.append(Patch(facecolor=tuple(swatches[c.label] / 255), edgecolor=(red, green, blue), linewidth=1.5))
    with plain_text():
        for columns in range(min(6, len(patches)), 0, -1):
            legend = figure.legend(
                handles=patches,
                labels=["?"] * len(patches),  # matplotlib leaves out names that begin with _
                loc="lower left",
                bbox_to_anchor=(0, 0),
                ncols=columns,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
                fontsize=9,
            )
            for text, name in zip(legend.get_texts(), class_map.names, strict=True):
                text.set_text(printable(name, 80))
            box = legend.get_window_extent(renderer)
            if columns == 1 or box.width <= width * _DPI:
                break
            legend.remove()
    return legend, box.height / _DPI


def _add_scale_bar(figure: Figure, um_per_inch: float, longest: float, bottom: float) -> None:
    """Adds a bar of a round length below the pictures, so that it covers nothing and fits under narrow ones."""
    total_width, total_height = figure.get_size_inches()
    longest = min(longest, total_width / 2)
    bar_um = max((um for um in _SCALE_BARS_UM if um / um_per_inch <= longest), default=_SCALE_BARS_UM[0])
    length = bar_um / um_per_inch
    place = (_MARGIN / total_width, (bottom - 0.03) / total_height)
    figure.add_artist(
        Rectangle(
            place,
            length / total_width,
            0.06 / total_height,
            transform=figure.transFigure,
            facecolor="black",
            edgecolor="none",
        )
    )
    figure.text(
        (_MARGIN + length + 0.08) / total_width,
        bottom / total_height,
        f"{bar_um:g} µm" if bar_um < 1000 else f"{bar_um / 1000:g} mm",
        size=9,
        va="center",
    )
