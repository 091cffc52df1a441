"""Files made of a predicted label raster. `WRITERS` names them; all take the same `PredictedSlide`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import POLYGONS_SUFFIXES
from dmmn_qp.outputs.objects import Frame, outline_features
from dmmn_qp.outputs.overview import write_overview
from dmmn_qp.outputs.predicted import PredictedSlide, polygons_path
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, MODEL_RUN_KEY, RUN_KEY


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


WRITERS: dict[str, Callable[[Path, PredictedSlide], None]] = {
    "overview.png": write_overview,
    "geojson": write_polygons,
}
"""What follows ``<slide>.`` in the file's name -> its writer; the polygons come last and complete a slide."""
