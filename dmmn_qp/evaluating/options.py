"""Options of `dmmn-qp evaluate`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dmmn_qp.files.paths import UserPath
from dmmn_qp.flags import Flag
from dmmn_qp.specs import FileModel

COUNTED_PANEL, FIGURES_PANEL = "What counts", "Figures"

SCANNER: Final = "scanner"
"""Subgroups by what wrote the slides, which the slides say themselves."""

DISTANCE_LIMIT_UM: Final = 50.0
"""Distances between borders beyond count as this: what is farther is missed, not misplaced."""


class EvaluateOptions(FileModel):
    """How predictions are compared.

    Attributes:
        maps: ``PREDICTED=TRUTH`` for predicted classes that are named otherwise than the true ones.
        exclude: True classes whose pixels do not count.
        skip_unpredicted: Whether pixels without a prediction are left out; else they are misses. Of several models,
            what one of them did not predict is left out for all.
        mixed_models: Whether the slides may be predicted by different models.
        slides: Names of the slides of the split that are compared, or patterns of them; empty for all.
        roi: GeoJSON file of the areas outside of which nothing counts, or folder of one for each slide.
        roi_class: Class, or pattern of classes such as ``Region*``, of these areas; without ``roi``, of the dataset's
            annotations.
        by: Keys by whose values slides are taken together; `SCANNER` is one.
        resamples: How many times slides are drawn anew for intervals; 0 for none.
        confidence: Part of the resampled figures that lies in an interval.
        seed: Start of the random numbers.
        boundary_um: Width of the strips along borders that are compared on full truth; 0 for no figures of borders and
            objects. 10 um is about the size of a cell, which nobody draws better.
        object_min_um2: Smaller areas are no objects on either side; the default is that of predicted polygons.
    """

    maps: Annotated[
        tuple[str, ...],
        Flag(
            "Predicted class that has another name in the truth, such as tumor=Tumor; several may become one; "
            "repeatable. Classes of equal names meet without it, whatever their order.",
            name="--map",
            metavar="PREDICTED=TRUTH",
            panel=COUNTED_PANEL,
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Flag("True class whose pixels do not count; repeatable.", metavar="NAME", panel=COUNTED_PANEL),
    ] = ()
    skip_unpredicted: Annotated[
        bool,
        Flag(
            "Leave out pixels without a prediction; without it they count as missed.",
            name="--skip-unpredicted",
            panel=COUNTED_PANEL,
        ),
    ] = False
    mixed_models: Annotated[
        bool,
        Flag("Take together slides that different models predicted.", name="--mixed-models", panel=COUNTED_PANEL),
    ] = False
    slides: Annotated[
        tuple[str, ...],
        Flag(
            "Slide of the split, or pattern such as 'a-*'; repeatable.",
            metavar="NAME",
            panel=COUNTED_PANEL,
            default="all",
        ),
    ] = ()
    roi: Annotated[
        UserPath | None,
        Flag(
            "GeoJSON of areas outside of which nothing counts, or folder of <slide>.geojson.",
            metavar="PATH",
            panel=COUNTED_PANEL,
        ),
    ] = None
    roi_class: Annotated[
        str | None,
        Flag(
            "Class of these areas, such as Region*: of --roi, else of the dataset.",
            metavar="NAME",
            panel=COUNTED_PANEL,
        ),
    ] = Field(default=None, min_length=1)
    by: Annotated[
        tuple[str, ...],
        Flag(
            "Image metadata key, or scanner: figures of the slides of each value; repeatable.",
            metavar="KEY",
            panel=FIGURES_PANEL,
        ),
    ] = ()
    resamples: Annotated[
        int, Flag("Times that slides are drawn anew for intervals; 0 for none.", metavar="N", panel=FIGURES_PANEL)
    ] = Field(default=2000, ge=0, le=100_000)
    confidence: Annotated[
        float, Flag("Part of them that lies in an interval.", metavar="PART", panel=FIGURES_PANEL)
    ] = Field(default=0.95, gt=0, lt=1)
    seed: Annotated[int, Flag("Start of the random numbers.", metavar="N", panel=FIGURES_PANEL)] = Field(
        default=0, ge=0, lt=2**32
    )
    boundary_um: Annotated[
        float,
        Flag(
            "Width of the strips along borders, on full truth; 0 for no figures of borders and objects.",
            metavar="UM",
            panel=FIGURES_PANEL,
        ),
    ] = Field(default=10.0, ge=0, le=DISTANCE_LIMIT_UM)
    object_min_um2: Annotated[
        float, Flag("Smaller areas are no objects, on full truth.", metavar="UM2", panel=FIGURES_PANEL)
    ] = Field(default=200.0, ge=0, allow_inf_nan=False)
