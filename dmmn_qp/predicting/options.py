"""Options of `dmmn-qp predict`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dmmn_qp.choices import Context, Device, Outside, Precision
from dmmn_qp.engines.cores import MOST_THREADS
from dmmn_qp.flags import Flag
from dmmn_qp.outputs.options import FILES_PANEL, POLYGONS_PANEL, OutputOptions
from dmmn_qp.predicting.cluster_options import CLUSTER_PANEL, ClusterOptions
from dmmn_qp.specs import Endless, TypedViews

NETWORK_PANEL, AREA_PANEL = "The network", "Where to predict"

PANELS: Final = (AREA_PANEL, NETWORK_PANEL, POLYGONS_PANEL, FILES_PANEL, CLUSTER_PANEL)
"""Headings of the help, as a user comes to them: where, how, what comes of it, and what few need."""

OF_THE_WORK: Final = frozenset({"batch_size", "compile", "device", "devices", "threads", "workers"})
"""Options that say how it is computed, and not what: machines that differ in them predict the same."""


class PredictOptions(OutputOptions, ClusterOptions):
    """Options of `dmmn-qp predict`.

    Attributes:
        batch_size: Targets per forward pass; None fits it to the device.
        context: How targets see what is around them.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        devices: Number of GPUs that share the blocks of a slide.
        compile: Whether torch compiles the network first.
        workers: Threads that decode pixels; None fits them to the machine.
        threads: Threads that compute, and most of any other kind; None for `default_threads`.
        views: Turned and mirrored copies over which the mean of the probabilities is taken.
        tta: Whether to take it over all eight.
        mpp: um/px of slides that do not say it.
        force_mpp: Whether ``mpp`` counts for all slides, but for those of which a table says it.
        tissue_only: Whether nothing is predicted outside the outline of the tissue, margin included.
        tissue_min_area_um2: A smaller part of the tissue counts as dirt.
        tissue_min_hole_um2: A smaller hole in the tissue counts as tissue.
        tissue_margin_um: How far beyond its border the tissue is taken to reach.
        roi_class: Class, or pattern of classes such as ``Region*``, of the areas outside which nothing is predicted.
        outside: Label of what is not predicted.
    """

    batch_size: Annotated[
        int | None, Flag("Targets per forward pass.", metavar="N", panel=NETWORK_PANEL, default="fitted to the device")
    ] = Field(default=None, ge=1)
    context: Annotated[
        Context,
        Flag(
            "patch: the paper's scheme; blocks: many targets at once, with tissue around them; blended: targets "
            "overlap, so that no seams show; shared: neighbours share the work of the coarser magnifications; "
            "shared-coarsest: of the coarsest alone; seamless: no border anywhere; auto: as the model was trained.",
            panel=NETWORK_PANEL,
        ),
    ] = "auto"
    precision: Annotated[Precision, Flag("auto takes bf16 where the device is made for it.", panel=NETWORK_PANEL)] = (
        "auto"
    )
    device: Annotated[Device, Flag("Where to compute.")] = "auto"
    devices: Annotated[int, Flag("GPUs that share the blocks of a slide.", metavar="N", panel=NETWORK_PANEL)] = Field(
        default=1, ge=1
    )
    compile: Annotated[
        bool, Flag("Let torch compile the network first; needs a C++ compiler.", panel=NETWORK_PANEL)
    ] = False
    workers: Annotated[
        int | None,
        Flag(
            "Threads that decode pixels.", metavar="N", panel=NETWORK_PANEL, default="the machine's cores, at most 16"
        ),
    ] = Field(default=None, ge=1)
    threads: Annotated[
        int | None,
        Flag(
            "Threads that compute, and most that decode.",
            metavar="N",
            panel=NETWORK_PANEL,
            default="all cores",
        ),
    ] = Field(default=None, ge=1, le=MOST_THREADS)
    views: Annotated[
        TypedViews, Flag("Mean over so many turned and mirrored copies: as many times the work.", panel=NETWORK_PANEL)
    ] = 1
    tta: Annotated[bool, Flag("The same as --views 8.", panel=NETWORK_PANEL)] = False
    mpp: Annotated[float | None, Flag("um/px of slides that do not say it themselves.", metavar="UM")] = Field(
        default=None, gt=0
    )
    force_mpp: Annotated[bool, Flag("--mpp counts whatever the slides say.", panel=AREA_PANEL)] = False
    tissue_only: Annotated[bool, Flag("Predict only where tissue is.", name="--tissue-only/--whole-slide")] = False
    tissue_min_area_um2: Annotated[
        float, Flag("Smaller parts of the tissue are dirt.", metavar="UM2", panel=AREA_PANEL)
    ] = Field(default=20_000, ge=0, allow_inf_nan=False)
    tissue_min_hole_um2: Annotated[
        Endless, Flag("Smaller holes in the tissue are tissue.", metavar="UM2", panel=AREA_PANEL)
    ] = 1_000_000
    tissue_margin_um: Annotated[
        float, Flag("How far beyond the tissue to predict.", metavar="UM", panel=AREA_PANEL)
    ] = Field(default=100, ge=0, allow_inf_nan=False)
    roi_class: Annotated[
        str | None,
        Flag(
            "Class of the areas to predict, such as Region*: of --roi, else of the project or the dataset.",
            metavar="NAME",
            panel=AREA_PANEL,
        ),
    ] = Field(default=None, min_length=1)
    outside: Annotated[Outside, Flag("Label of what is not predicted.", panel=AREA_PANEL)] = "unlabelled"

    @property
    def copies(self) -> int:
        """Copies over which the mean is taken."""
        return 8 if self.tta else self.views
