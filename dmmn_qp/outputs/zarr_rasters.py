"""The rasters of a prediction once more, as OME-Zarr: of the pixels that the network predicted, or of the OME-TIFF.

The OME-TIFF stays what all commands read; so what is there of older predictions can be written as OME-Zarr later.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from dmmn_qp.choices import RasterFormat
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.predictions import PROBABILITIES_SUFFIX, UNCERTAINTY_SUFFIX
from dmmn_qp.outputs.levels import TILE, Pixels
from dmmn_qp.outputs.predicted import PredictedSlide
from dmmn_qp.outputs.rasters import WHITE
from dmmn_qp.outputs.zarr_pyramids import MARKERS, OmeZarrVersion, write_channels_zarr, write_label_zarr
from dmmn_qp.regions import Region


def version_of(wanted: RasterFormat) -> OmeZarrVersion:
    """The version of OME-Zarr that is asked for."""
    return "0.4" if wanted == "zarr-0.4" else "0.5"


def is_there(path: Path, wanted: RasterFormat) -> bool:
    """Whether a folder is OME-Zarr of the version that is asked for."""
    return (path / MARKERS[version_of(wanted)]).is_file()


def write_labels_zarr(path: Path, predicted: PredictedSlide) -> None:
    """Writes the labels with the names and colours of their classes."""
    strips = (strip[0] for strip in _strips(predicted, "labels", predicted.labels, 1))
    write_label_zarr(path, strips, _shape(predicted), predicted.mpp, predicted.class_map, _version(predicted))


def write_probabilities_zarr(path: Path, predicted: PredictedSlide) -> None:
    """Writes the probability of each class, a channel each."""
    classes = predicted.class_map.classes
    source = predicted.labels.with_name(f"{predicted.slide_id}.{PROBABILITIES_SUFFIX}")
    strips = _strips(predicted, "probabilities", source, len(classes))
    names, colors = [c.name for c in classes], [c.color for c in classes]
    write_channels_zarr(path, strips, _shape(predicted), predicted.mpp, names, colors, _version(predicted))


def write_uncertainty_zarr(path: Path, predicted: PredictedSlide) -> None:
    """Writes the entropy of the probabilities."""
    source = predicted.labels.with_name(f"{predicted.slide_id}.{UNCERTAINTY_SUFFIX}")
    strips = _strips(predicted, "entropy", source, 1)
    write_channels_zarr(path, strips, _shape(predicted), predicted.mpp, ["entropy"], [WHITE], _version(predicted))


def _strips(predicted: PredictedSlide, kind: str, raster: Path, channels: int) -> Iterator[Pixels]:
    """Strips of (channels, height, columns) uint8, of what was predicted where it is at hand, else of its raster."""
    if predicted.pixels is not None:
        for strip in predicted.pixels.strips(kind):
            yield strip if strip.ndim > 2 else strip[None]
        return
    with ExitStack() as stack:
        pages = [stack.enter_context(LabelRaster(raster, page)) for page in range(channels)]
        rows, columns = pages[0].shape
        for y in range(0, rows, TILE):
            yield np.stack([page.read(Region(0, y, columns, min(TILE, rows - y))) for page in pages])


def _shape(predicted: PredictedSlide) -> tuple[int, int]:
    if predicted.pixels is not None:
        return predicted.pixels.shape
    with LabelRaster(predicted.labels) as labels:
        return labels.shape


def _version(predicted: PredictedSlide) -> OmeZarrVersion:
    return version_of(predicted.options.labels)
