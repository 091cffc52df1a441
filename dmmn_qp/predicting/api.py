"""`predict_slide`: one slide, from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from dmmn_qp.console import Reporter
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import LABELS_SUFFIX, OVERVIEW_SUFFIX
from dmmn_qp.predicting.inputs import SlideToPredict, slide_id_of
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.stage import predict
from dmmn_qp.regions import Region
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.view import SlideView


@dataclass(frozen=True, slots=True)
class SlidePrediction:
    """What `predict_slide` wrote.

    Attributes:
        slide_id: The slide's name in file names.
        polygons: GeoJSON for QuPath.
        labels: Label raster: an OME-TIFF pyramid whose values are those of the class map.
        overview: Picture of the slide and the classes.
        areas: Pixels and mm2 of each class.
    """

    slide_id: str
    polygons: Path
    labels: Path
    overview: Path
    areas: Path

    def read_labels(self) -> NDArray[np.uint8]:
        """The whole label raster, (rows, columns) uint8 on the grid of the model's finest magnification."""
        with LabelRaster(self.labels) as raster:
            rows, columns = raster.shape
            return raster.read(Region(0, 0, columns, rows))


def predict_slide(
    slide: Path,
    model: Path,
    out: Path,
    options: PredictOptions | None = None,
    *,
    mpp: float | None = None,
    roi: Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> SlidePrediction:
    """Predicts one slide; the same as ``dmmn-qp predict SLIDE --model MODEL --out OUT``, without a word.

    An interrupted prediction goes on, and a finished one is returned as it is if it is of the same file, by the same
    model and with the same options.

    Args:
        slide: The slide.
        model: The model's folder.
        out: Folder to write into; what is there of other slides stays.
        options: How to predict; the defaults of the command line unless given.
        mpp: um/px of this slide, whatever its file says.
        roi: GeoJSON of the areas to predict, in level-0 px of QuPath's frame.
        overwrite: Whether an earlier prediction of the slide is replaced.
        reporter: Where to report; nowhere unless given.

    Returns:
        Where everything is.

    Raises:
        PredictedOtherwiseError: The folder holds another prediction under the slide's name.
        DmmnQpError: The slide or the model cannot be read, or they do not fit together.

    Example:
        >>> from pathlib import Path
        >>> from dmmn_qp.predicting.api import predict_slide
        >>> found = predict_slide(Path("examples/demo/slides/val-1.tif"), Path("models/demo"), Path(folder))
        >>> found.polygons.name
        'val-1.geojson'
        >>> labels = found.read_labels()
        >>> labels.dtype, labels.ndim, int(labels.min()) >= 1
        (dtype('uint8'), 2, True)
    """
    view = SlideView(slide, mpp=StatedMpp.of(mpp))
    target = SlideToPredict(slide_id_of(slide), view, roi=roi)
    reporter = reporter or Reporter(Console(quiet=True))
    name = target.slide_id
    polygons = predict(model, [target], out, options or PredictOptions(), reporter, overwrite=overwrite)[name]
    return SlidePrediction(
        name, polygons, out / f"{name}.{LABELS_SUFFIX}", out / f"{name}.{OVERVIEW_SUFFIX}", out / "areas.csv"
    )
