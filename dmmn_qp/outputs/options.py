"""Which files are made of a prediction, and how polygons are made of labels."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from dmmn_qp.choices import Merge, ShownAs
from dmmn_qp.specs import FileModel


class PolygonOptions(FileModel):
    """How polygons are made of a label raster.

    Attributes:
        simplify_um: Tolerance of the polygons: the square root of the largest triangle that is cut off a border. 0
            keeps the edges of the pixels.
        min_area_um2: Regions smaller than this join the neighbour with which they share the longest border.
        min_hole_um2: Holes smaller than this are filled.
        merge: Whether each connected region is an object, or all regions of a class are one.
        object_kind: What the objects are in QuPath.
        max_vertices: Regions with more points are split along a grid, because QuPath's time to read a ragged outline
            grows with the square of its points. Merged classes are not split: their parts must not share an edge.
        gzip: Whether the polygons are written as ``.geojson.gz``.
        with_ignored: Whether classes that QuPath ignores (``*``) get polygons too.
    """

    simplify_um: float = Field(default=1.0, ge=0, le=1000)
    min_area_um2: float = Field(default=0.0, ge=0)
    min_hole_um2: float = Field(default=0.0, ge=0)
    merge: Merge = "region"
    object_kind: ShownAs = "annotation"
    max_vertices: int = Field(default=10_000, ge=100)
    gzip: bool = False
    with_ignored: bool = False


class OutputOptions(PolygonOptions):
    """Which files are written for each predicted slide.

    Attributes:
        probabilities: Whether to write each class's probability.
        uncertainty: Whether to write the entropy of the probabilities.
        tissue_outline: Whether the tissue's outline is written as GeoJSON.
    """

    probabilities: bool = False
    uncertainty: bool = False
    tissue_outline: bool = False


POLYGON_OPTIONS: Final = tuple(PolygonOptions.model_fields)
"""Options of `PredictOptions` that only the polygons depend on."""
