"""Rasters of a prediction, and the outline of its tissue, from the pixels that the network predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import Annotation
from dmmn_qp.outputs.predicted import PredictedPixels, PredictedSlide
from dmmn_qp.outputs.pyramids import write_label_pyramid, write_probability_pyramid
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, TISSUE_CLASS, TISSUE_MARK, outline_id

WHITE: Final = (255, 255, 255)
"""In which the only channel of a raster is shown."""

_TISSUE_COLOR: Final = (120, 120, 120)


def write_labels(path: Path, predicted: PredictedSlide) -> None:
    """Writes the label raster, a pyramid with the classes' colours."""
    pixels = _pixels(predicted)
    write_label_pyramid(path, pixels.strips(), pixels.shape, predicted.mpp, predicted.class_map)


def write_probabilities(path: Path, predicted: PredictedSlide) -> None:
    """Writes the probability of each class, a channel each."""
    pixels, classes = _pixels(predicted), predicted.class_map
    write_probability_pyramid(
        path,
        pixels.strips("probabilities"),
        pixels.shape,
        predicted.mpp,
        classes.names,
        [c.color for c in classes.classes],
        description="probability of each class, 255 is 1",
    )


def write_uncertainty(path: Path, predicted: PredictedSlide) -> None:
    """Writes the entropy of the probabilities."""
    pixels = _pixels(predicted)
    write_probability_pyramid(
        path,
        (strip[None] for strip in pixels.strips("entropy")),
        pixels.shape,
        predicted.mpp,
        ["entropy"],
        [WHITE],
        description="entropy of the probabilities, 255 is that of equal ones",
    )


def write_tissue(path: Path, predicted: PredictedSlide) -> None:
    """Writes the outline of the tissue, which must have been sought."""
    assert predicted.tissue is not None
    write_outline(path, predicted.tissue, predicted.fingerprint)


def write_outline(path: Path, tissue: BaseGeometry, fingerprint: str) -> None:
    """Writes one annotation for all of the tissue, nothing where there is none.

    Args:
        path: The file.
        tissue: Its outline in level-0 px of QuPath's frame.
        fingerprint: Digest of the slide's file, so that the same outline on the same slide has the same id.
    """
    outlines: list[Annotation] = []
    if not tissue.is_empty:
        outlines.append(
            Annotation(
                tissue,
                class_name=TISSUE_CLASS,
                class_color=_TISSUE_COLOR,
                annotation_id=outline_id(f"tissue/{fingerprint}/{tissue.wkb_hex}"),
                metadata={METADATA_KEY: TISSUE_MARK},
            )
        )
    write_geojson(path, outlines)


def _pixels(predicted: PredictedSlide) -> PredictedPixels:
    """What the network predicted, which must be there."""
    assert predicted.pixels is not None
    return predicted.pixels
