"""Files made of a predicted label raster. `WRITERS` names them; all take the same `PredictedSlide`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from shapely.geometry import Polygon

from dmmn_qp.annotations import Annotation
from dmmn_qp.dataset import LabelRaster
from dmmn_qp.outputs import new_file
from dmmn_qp.polygonize import polygonize, to_level0
from dmmn_qp.qupath.geojson import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, RUN_KEY, marked_id
from dmmn_qp.slides import Slide, read_overview
from dmmn_qp.specs import UNLABELLED, ClassMap

_OVERVIEW_PX = 1600
_SCALE_BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


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


def write_polygons(path: Path, predicted: PredictedSlide) -> None:
    """Writes ``<slide>.geojson``: one annotation for each connected region, without the classes QuPath ignores."""
    write_geojson(path, _regions(predicted), class_colors=predicted.class_map.colors)


def _regions(predicted: PredictedSlide) -> Iterator[Annotation]:
    info = predicted.slide.info
    classes = {c.label: c for c in predicted.class_map.classes if not c.ignored}
    skipped = {c.label for c in predicted.class_map.classes if c.ignored} | {UNLABELLED}
    metadata = {METADATA_KEY: predicted.model_name, RUN_KEY: predicted.run_id}
    with LabelRaster(predicted.labels) as raster:
        for polygon, label in polygonize(raster.band, frozenset(skipped)):
            geometry = to_level0(polygon, predicted.downsample, info.width, info.height)
            yield Annotation(
                geometry,
                class_name=classes[label].name,
                class_color=classes[label].color,
                annotation_id=_stable_id(predicted, label, geometry),
                metadata=metadata,
            )


def _stable_id(predicted: PredictedSlide, label: int, geometry: Polygon) -> UUID:
    """The same id whenever the same slide, model and region come together."""
    content = f"{predicted.fingerprint}/{predicted.model_run}/{label}/{geometry.wkb_hex}"
    return marked_id(content)


def write_overview(path: Path, predicted: PredictedSlide) -> None:
    """Writes ``<slide>.overview.png``: the slide, the same with the classes over it, legend and scale bar."""
    info = predicted.slide.info
    picture = read_overview(predicted.slide, _OVERVIEW_PX)
    with LabelRaster(predicted.labels) as raster:
        labels = raster.read_reduced(_OVERVIEW_PX)
    palette = np.zeros((256, 3), np.uint8)
    for label, color in predicted.class_map.colormap().items():
        palette[label] = color
    extent = (0.0, float(info.width), float(info.height), 0.0)  # level-0 px

    aspect = info.height / info.width
    figure = Figure(figsize=(14, max(2.0, 6.6 * aspect) + 1.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.imshow(picture, extent=extent, interpolation="antialiased")
        axes.set_axis_off()
    right.imshow(palette[labels], extent=extent, alpha=0.45, interpolation="nearest")
    left.set_title(predicted.slide_id, loc="left")
    right.set_title(f"predicted by {predicted.model_name}", loc="left")

    bar_um = max((um for um in _SCALE_BARS_UM if um / info.mpp < info.width / 4), default=_SCALE_BARS_UM[0])
    bar_px, margin = bar_um / info.mpp, info.width * 0.03
    for axes in (left, right):
        y = info.height - margin - info.width * 0.012
        axes.add_patch(Rectangle((margin, y), bar_px, info.width * 0.012, facecolor="black", edgecolor="white"))
        axes.text(
            margin + bar_px / 2,
            y - info.width * 0.008,
            f"{bar_um} µm" if bar_um < 1000 else f"{bar_um // 1000} mm",
            ha="center",
            va="bottom",
            bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.5},
        )
    handles = [
        Patch(facecolor=(c.color[0] / 255, c.color[1] / 255, c.color[2] / 255), edgecolor="black", label=c.name)
        for c in predicted.class_map.classes
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False)
    with new_file(path) as temporary:
        figure.savefig(temporary, format="png")


WRITERS: dict[str, Callable[[Path, PredictedSlide], None]] = {
    "overview.png": write_overview,
    "geojson": write_polygons,
}
"""What follows ``<slide>.`` in the file's name -> its writer; the polygons come last and complete a slide."""
