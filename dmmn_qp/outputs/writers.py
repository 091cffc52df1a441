"""Files made of a predicted label raster. `WRITERS` names them; all take the same `PredictedSlide`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch, Rectangle

from dmmn_qp.cli.config import PolygonOptions
from dmmn_qp.errors import DatasetError
from dmmn_qp.files import new_file
from dmmn_qp.folders.dataset import LabelRaster
from dmmn_qp.folders.predictions import POLYGONS_SUFFIXES
from dmmn_qp.labels.painter import LabelArray
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.outputs.pyramids import ProbabilityRaster
from dmmn_qp.qupath.geojson_reader import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, RUN_KEY
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide, read_overview
from dmmn_qp.specs import ClassMap
from dmmn_qp.vectors.polygonize import LabelSource

_OVERVIEW_PX = 1600
_SCALE_BARS_UM = tuple(digit * 10**power for power in range(5) for digit in (1, 2, 5))
_OVERLAY_ALPHA = 115
_DPI = 110
_STACKED_BELOW = 0.4
_MARGIN, _GAP, _BAR_STRIP, _TITLE_STRIP, _LEAST_WIDTH = 0.15, 0.12, 0.35, 0.62, 6.0  # inches


@dataclass(frozen=True, slots=True)
class PredictedSlide:
    """A slide and its label raster.

    Attributes:
        slide: The open slide.
        slide_id: Its name in file names.
        fingerprint: Digest of its file.
        labels: The label raster.
        downsample: Level-0 px per pixel of the raster.
        class_map: The model's classes.
        model_name: The model.
        model_run: Run id of the model's training.
        run_id: Id of this prediction.
        options: How it was predicted, and how its polygons are made.
        confidence: 0 .. 255 for the probability of each pixel's label, of the raster's shape, where it is known.
    """

    slide: Slide
    slide_id: str
    fingerprint: str
    labels: Path
    downsample: float
    class_map: ClassMap
    model_name: str
    model_run: str
    run_id: str
    options: PolygonOptions = field(default_factory=PolygonOptions)
    confidence: LabelSource | None = None


class LabelConfidence:
    """The probability of each pixel's label, 0 .. 255, out of a raster of all probabilities: a context manager.

    Args:
        labels: The label raster, which stays the caller's.
        probabilities: The raster of probabilities.
        classes: Number of its channels.

    Raises:
        DatasetError: The raster is missing, damaged or of another shape.
    """

    def __init__(self, labels: LabelRaster, probabilities: Path, classes: int) -> None:
        self._labels = labels
        with ExitStack() as stack:
            self._channels = [stack.enter_context(ProbabilityRaster(probabilities, i)) for i in range(classes)]
            if any(channel.shape != labels.shape for channel in self._channels):
                raise DatasetError(f'"{probabilities}" has not the size of "{labels.path}"; predict again')
            self._stack = stack.pop_all()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._labels.shape

    def read(self, window: Region) -> LabelArray:
        """Probabilities of the labels of a window, 0 where there is no label: (height, width) uint8."""
        labels = self._labels.read(window)
        found = np.zeros_like(labels)
        for label in np.unique(labels[labels > 0]).tolist():
            here = labels == label
            found[here] = self._channels[label - 1].read(window)[here]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def polygons_suffix(options: PolygonOptions) -> str:
    """What follows ``<slide>`` in the name of the polygons' file."""
    return POLYGONS_SUFFIXES[options.gzip]


def polygons_path(folder: Path, slide_id: str, options: PolygonOptions) -> Path:
    """The polygons' file of a slide."""
    return folder / f"{slide_id}{polygons_suffix(options)}"


def write_polygons(path: Path, predicted: PredictedSlide) -> None:
    """Writes ``<slide>.geojson``, or ``<slide>.geojson.gz`` beside that name where the options say so.

    What an earlier run left under the other of the two names is removed.
    """
    info, options = predicted.slide.info, predicted.options
    folder, other = path.parent, POLYGONS_SUFFIXES[not options.gzip]
    with ExitStack() as stack:
        labels = stack.enter_context(LabelRaster(predicted.labels))
        objects = outline_features(
            labels,
            Frame(info.width, info.height, info.mpp, predicted.downsample),
            predicted.class_map,
            options,
            identity=f"{predicted.fingerprint}/{predicted.model_run}",
            metadata={
                METADATA_KEY: predicted.model_name,
                MODEL_RUN_KEY: predicted.model_run,
                RUN_KEY: predicted.run_id,
            },
            confidence=predicted.confidence,
        )
        write_geojson(polygons_path(folder, predicted.slide_id, options), objects)
    (folder / f"{predicted.slide_id}{other}").unlink(missing_ok=True)


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
    palette = np.zeros((256, 4), np.uint8)
    for c in predicted.class_map.classes:
        palette[c.label] = (*c.color, _OVERLAY_ALPHA)
    covered = (0, columns * predicted.downsample, rows * predicted.downsample, 0)
    over.imshow(palette[labels], extent=covered, aspect="auto", interpolation="nearest")
    over.set(xlim=(0, info.width), ylim=(info.height, 0))

    titles = ((predicted.slide_id, 11, 0.12), (f"predicted by {predicted.model_name}", 9, 0.36))
    for text, size, from_top in titles:
        figure.text(
            _MARGIN / total_width,
            1 - from_top / total_height,
            _shortened(text, int(total_width * 10)),
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
                text.set_text(_shortened(name, 80))
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


def _shortened(text: str, longest: int) -> str:
    """One line of text without what cannot be drawn, with its middle left out where it is too long."""
    line = "".join(character if character.isprintable() else " " for character in text)
    half = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"


WRITERS: dict[str, Callable[[Path, PredictedSlide], None]] = {
    "overview.png": write_overview,
    "geojson": write_polygons,
}
"""What follows ``<slide>.`` in the file's name -> its writer; the polygons come last and complete a slide."""
