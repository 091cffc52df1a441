"""Which files are made of a prediction, and how polygons are made of labels."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dmmn_qp.choices import Merge, RasterFormat, ShownAs
from dmmn_qp.flags import Flag
from dmmn_qp.specs import Endless, FileModel

POLYGONS_PANEL, FILES_PANEL = "Polygons", "Files"


class PolygonOptions(FileModel):
    """How polygons are made of a label raster.

    Attributes:
        simplify_um: Tolerance of the polygons: the square root of the largest triangle that is cut off a border. 0
            keeps the edges of the pixels.
        min_area_um2: Regions smaller than this join the neighbour with which they share the longest border. The
            default is the area of a disc of 16 um, about one tumour cell: nobody draws smaller regions, and of those
            that are predicted most are wrong (docs/vectors.md).
        min_hole_um2: Holes smaller than this are filled.
        merge: Whether each connected region is an object, or all regions of a class are one.
        object_kind: What the objects are in QuPath.
        max_vertices: Regions with more points are split along a grid, because QuPath's time to read a ragged outline
            grows with the square of its points. Merged classes are not split: their parts must not share an edge.
        gzip: Whether the polygons are written as ``.geojson.gz``.
        with_ignored: Whether classes that QuPath ignores (``*``) get polygons too.
    """

    simplify_um: Annotated[
        float, Flag("Tolerance of the polygons; 0 keeps every pixel's edge.", metavar="UM", panel=POLYGONS_PANEL)
    ] = Field(default=1.0, ge=0, le=1000)
    min_area_um2: Annotated[
        float,
        Flag(
            "Smaller regions join a neighbour, in the polygons alone; the label raster and areas.csv keep them.",
            metavar="UM2",
            panel=POLYGONS_PANEL,
        ),
    ] = Field(default=200.0, ge=0)
    min_hole_um2: Annotated[
        Endless, Flag("Smaller holes are filled, in the polygons alone.", metavar="UM2", panel=POLYGONS_PANEL)
    ] = 0.0
    merge: Annotated[Merge, Flag("One object for each connected region, or for each class.", panel=POLYGONS_PANEL)] = (
        "region"
    )
    object_kind: Annotated[ShownAs, Flag("What the objects are in QuPath.", name="--as", panel=POLYGONS_PANEL)] = (
        "annotation"
    )
    max_vertices: Annotated[
        int, Flag("Regions with more points are split along a grid.", metavar="N", panel=POLYGONS_PANEL)
    ] = Field(default=10_000, ge=100)
    gzip: Annotated[bool, Flag("Write <slide>.geojson.gz.", panel=POLYGONS_PANEL)] = False
    with_ignored: Annotated[
        bool,
        Flag(
            "Write polygons of classes named with * too.", name="--with-ignored/--without-ignored", panel=POLYGONS_PANEL
        ),
    ] = False


class OutputOptions(PolygonOptions):
    """Which files are written for each predicted slide.

    Attributes:
        probabilities: Whether to write each class's probability.
        uncertainty: Whether to write the entropy of the probabilities.
        tissue_outline: Whether the tissue's outline is written as GeoJSON.
        labels: Whether rasters are written as OME-Zarr too, beside OME-TIFF, and in which version.
        dicom_seg: Whether slides that are DICOM get a DICOM segmentation too.
    """

    probabilities: Annotated[bool, Flag("Write each class's probability (OME-TIFF) too.")] = False
    uncertainty: Annotated[bool, Flag("Write the entropy of the probabilities (OME-TIFF) too.", panel=FILES_PANEL)] = (
        False
    )
    tissue_outline: Annotated[bool, Flag("Write the tissue's outline too.", panel=FILES_PANEL)] = False
    labels: Annotated[
        RasterFormat,
        Flag(
            "tiff: rasters as OME-TIFF alone; zarr: as OME-Zarr 0.5 as well; zarr-0.4: as OME-Zarr 0.4 as well.",
            panel=FILES_PANEL,
        ),
    ] = "tiff"
    dicom_seg: Annotated[bool, Flag("Write a DICOM segmentation too, of slides that are DICOM.", panel=FILES_PANEL)] = (
        False
    )


POLYGON_OPTIONS: Final = tuple(PolygonOptions.model_fields)
"""Options of `PredictOptions` that only the polygons depend on."""
