"""A label map in memory -> objects in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from math import ceil

import numpy as np
import shapely
from numpy.typing import ArrayLike

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import ConfigError
from dmmn_qp.outputs.objects import Frame, check_labels, outline_features
from dmmn_qp.outputs.options import PolygonOptions
from dmmn_qp.qupath.marks import METADATA_KEY
from dmmn_qp.slides.array_slide import check_mpp
from dmmn_qp.specs import ClassMap, LabelArray, PatchSpec
from dmmn_qp.vectors.outlines import OutlineFeatures
from dmmn_qp.vectors.sources import ArrayLabels


def objects_of_labels(
    labels: ArrayLike,
    class_map: ClassMap,
    mpp: float,
    options: PolygonOptions,
    *,
    spec: PatchSpec | None = None,
    shape: tuple[int, int] | None = None,
    corner: tuple[float, float] = (0, 0),
    model: str | None = None,
) -> list[Annotation]:
    """Makes objects of the regions of a label map.

    Args:
        labels: (rows, columns) uint8; 0 gives no object.
        class_map: The classes of its labels.
        mpp: um/px of the pixels in which coordinates are given.
        options: How to clean, simplify, merge and split.
        spec: The geometry on whose grid the labels lie; None where they are labels of those very pixels.
        shape: (rows, columns) of the pixels, beyond which nothing reaches; None where they end with the labels.
        corner: (x, y) of the upper left corner of the labels in the coordinates wanted.
        model: Whose word the labels are, for the marks of a prediction; None leaves the marks out.

    Raises:
        ConfigError: The array is no label map of these classes.
        PixelSizeError: The pixel size is implausible, or too coarse for the grid.
    """
    check_mpp(mpp)
    array = _checked(labels, class_map)
    downsample = 1.0 if spec is None else spec.grid_of(mpp, "the array").downsample
    rows, columns = shape or (ceil(array.shape[0] * downsample), ceil(array.shape[1] * downsample))
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    found = outline_features(
        ArrayLabels(array),
        Frame(columns, rows, mpp, downsample),
        class_map,
        options,
        identity=f"{digest}/{array.shape}/{corner}/{model}",
        metadata={METADATA_KEY: model or ""},
    )
    objects = [annotation for features in found for annotation in _annotations(features, corner)]
    return objects if model is not None else [_unmarked(annotation) for annotation in objects]


def _checked(labels: ArrayLike, class_map: ClassMap) -> LabelArray:
    """The labels as an array.

    Raises:
        ConfigError: They are no label map of these classes.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype != np.uint8 or 0 in array.shape:
        raise ConfigError(
            f"labels have shape {array.shape} and type {array.dtype}, but must be (rows, columns) uint8; make them so "
            "with labels.astype('uint8')"
        )
    check_labels(int(array.max()), class_map)
    return array


def _annotations(objects: OutlineFeatures, corner: tuple[float, float]) -> Iterator[Annotation]:
    """Each of many objects as one of its own."""
    polygons = objects.outlines.geometries()
    for i, object_id in enumerate(objects.ids):
        first, behind = int(objects.features[i]), int(objects.features[i + 1])
        label = int(objects.outlines.labels[first])
        name, color = objects.classes[label]
        geometry = polygons[first] if behind - first == 1 else shapely.MultiPolygon(list(polygons[first:behind]))
        measured = {key: float(values[i]) for key, values in objects.measurements.items()}
        yield Annotation(
            shapely.transform(geometry, lambda xy: xy + corner) if any(corner) else geometry,
            class_name=name,
            class_color=color,
            annotation_id=object_id,
            kind=objects.kind,
            measurements={key: value for key, value in measured.items() if np.isfinite(value)},
            metadata={**objects.metadata, **objects.class_metadata.get(label, {})},
            origin="unchecked",
            predicted_as=name,
        )


def _unmarked(annotation: Annotation) -> Annotation:
    """The same object as if a person had drawn it; ours are known by their measurements too."""
    return replace(annotation, annotation_id=None, measurements={}, metadata={}, origin="drawn", predicted_as=None)
