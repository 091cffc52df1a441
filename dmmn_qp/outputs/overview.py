"""A picture of a slide and its classes."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle

from dmmn_qp.files import new_file
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.slides.base import read_overview
from dmmn_qp.specs import ClassMap
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

    figure = Figure(figsize=(total_width, 1), dpi=_DPI)
    legend, legend_height = _add_legend(figure, predicted.class_map, total_width - 2 * _MARGIN)
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

    picture = read_overview(predicted.slide, _OVERVIEW_PX)
    panel(_MARGIN, below + (height + _GAP if stacked else 0))
    over = panel(_MARGIN + (0 if stacked else width + _GAP), below)
    with LabelRaster(predicted.labels) as raster:
        labels, (rows, columns) = raster.read_reduced(_OVERVIEW_PX), raster.shape
    palette = predicted.class_map.palette(alpha=_OVERLAY_ALPHA)
    covered = (0, columns * predicted.downsample, rows * predicted.downsample, 0)
    over.imshow(palette[labels], extent=covered, aspect="auto", interpolation="nearest")
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
    with new_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font has not
        figure.savefig(temporary, format="png")


def _add_legend(figure: Figure, class_map: ClassMap, width: float) -> tuple[Legend, float]:
    """Adds a legend of all classes with as many columns as fit; returns it and its height in inches."""
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    patches = [
        Patch(facecolor=(c.color[0] / 255, c.color[1] / 255, c.color[2] / 255), edgecolor="0.3")
        for c in class_map.classes
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
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
                text.set_parse_math(False)
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
