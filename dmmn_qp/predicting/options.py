"""Options of `dmmn-qp predict`."""

from __future__ import annotations

from pydantic import Field

from dmmn_qp.choices import Context, Device, Outside, Precision
from dmmn_qp.outputs.options import OutputOptions


class PredictOptions(OutputOptions):
    """Options of `dmmn-qp predict`.

    Attributes:
        batch_size: Targets per forward pass; None fits it to the device.
        context: How targets see what is around them.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        devices: Number of GPUs that share the blocks of a slide.
        compile: Whether torch compiles the network first.
        workers: Threads that decode pixels; None fits them to the machine.
        tta: Whether to take the mean over the eight turned and mirrored copies.
        mpp: um/px of slides that do not say it.
        tissue_only: Whether only targets that tissue touches are predicted, each as a whole.
        tissue_min_area_um2: A smaller part of the tissue counts as dirt.
        tissue_min_hole_um2: A smaller hole in the tissue counts as tissue.
        tissue_margin_um: How far beyond its border the tissue is taken to reach.
        roi_class: Class, or pattern of classes such as ``Region*``, of the areas outside which nothing is predicted.
        outside: Label of what is not predicted.
    """

    batch_size: int | None = Field(default=None, ge=1)
    context: Context = "auto"
    precision: Precision = "auto"
    device: Device = "auto"
    devices: int = Field(default=1, ge=1)
    compile: bool = False
    workers: int | None = Field(default=None, ge=1)
    tta: bool = False
    mpp: float | None = Field(default=None, gt=0)
    tissue_only: bool = False
    tissue_min_area_um2: float = Field(default=20_000, ge=0, allow_inf_nan=False)
    tissue_min_hole_um2: float = Field(default=1_000_000, ge=0)
    tissue_margin_um: float = Field(default=100, ge=0, allow_inf_nan=False)
    roi_class: str | None = Field(default=None, min_length=1)
    outside: Outside = "unlabelled"
