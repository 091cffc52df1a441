"""Options of `dmmn-qp train`, and presets for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from dmmn_qp.choices import (
    DEFAULT_ENCODER,
    Channels,
    ColorRule,
    Device,
    Freeze,
    LossMean,
    Norm,
    Optimizer,
    Padding,
    Precision,
    Preset,
    Reduction,
    Sampler,
    Stem,
    ValidationSplit,
    WeightRule,
)
from dmmn_qp.engines.cores import MOST_THREADS
from dmmn_qp.files.paths import UserPath
from dmmn_qp.flags import Flag
from dmmn_qp.specs import MAX_ZOOM, Endless, FileModel, TypedViews

MAX_RATE = 1000
"""Most deformed copies of a patch; more is a slip of the pen."""

MAX_CORRECTIONS = 100
"""Most that corrections may weigh; beyond, nothing else is learned."""

RATE = 5e-3
"""Learning rate of a network from scratch, unless another is asked for."""

SPEED_PANEL, TRAINING_PANEL = "Speed and memory", "The training"


class TrainOptions(FileModel):
    """Options of `dmmn-qp train`; the defaults are the preset ``fast``.

    Attributes:
        preset: Which preset the other options started from.
        architecture: Key of `ARCHITECTURES`.
        encoder: Of an architecture that is built on a pretrained encoder: key of `ENCODERS`.
        encoder_weights: File of that encoder's weights; those that it was published with unless given.
        encoder_licence: Licence of that file: SPDX name or text. Only freely licensed weights are copied into models.
        views: Of such an architecture: turned and mirrored copies of an image over which the encoder's maps are
            averaged.
        self_training: Of such an architecture: rounds in which the head learns what it was sure of on undrawn tissue.
        width: Base width f; None takes the usual one of the architecture, but a quarter of it on a CPU with the presets
            ``fast`` and ``scratch`` for networks from scratch.
        norm: Normalisation after each convolution; a pretrained encoder has none.
        stem: Resolution at which the network computes; behind a pretrained encoder there is none.
        padding: What convolutions see beyond the border of a map; a pretrained encoder has its own.
        epochs: Number of epochs in which the whole network learns; it is validated after each. None is 12, and 0 with a
            pretrained encoder, whose head has learned before.
        steps_per_epoch: Optimiser steps of an epoch; None is one pass over the patches.
        batch_size: Patches per step.
        sampler: ``shuffled`` draws every patch equally often; ``balanced`` lets the classes take turns; ``elastic``
            adds deformed copies of rare classes (section 2.3).
        class_order: Of ``elastic``: classes, the highest first; a patch belongs to the first that it contains. Empty
            takes the order of the dataset.
        rates: Of ``elastic``: deformed copies of each patch, by the class that it belongs to. Classes left out get
            what balances them best.
        balance_validation: Of ``elastic``: whether deformed copies are added to the validation patches too, by the same
            rates (Table 1).
        corrections: How many times as often as others those patches are drawn, and those cells by the head of
            ``dmmn-p``, in which a person corrected a prediction; 1 for all alike, as in the paper.
        color: Which changes of colour.
        zoom: A patch shows up to this many times more or less tissue per side; 1 does not zoom.
        cache_mib: MiB of decoded tiles that each reading process keeps; None is 384.
        jitter_px: How far a target may be moved from the stride, in pixels of ``mpps[0]``.
        optimizer: ``sgd`` with momentum, or ``adamw`` with a one-cycle rate.
        learning_rate: Rate; with one-cycle its peak. None is 5e-3, and 2e-4 for a pretrained encoder, whose lower
            layers learn more slowly.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        weight_average: What is left of the running average of the weights with each step; it is the average that is
            validated and kept. 0 keeps the weights as they are, as the paper does.
        loss_mean: What the loss is divided by (Eq. 1: ``patch``).
        class_weights: ``paper`` is Eq. 2; ``inverse-sqrt`` favours rare classes more.
        branch_loss: How much the loss of each coarser branch for its own field counts beside that of the target; 0 in
            the paper.
        channels: Order of the colour channels that the network is given.
        reduction: How its lower magnifications are made.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        devices: Number of processes that share each batch, one on each GPU.
        compile: Whether torch compiles the network first.
        workers: Processes that read patches; None fits them to the machine.
        threads: Threads that compute; None takes all cores, but one fewer in
            epochs, beside those processes.
        seed: Seed of everything random.
        start_from: Model folder whose network and weights training starts from.
        freeze: Part of that network that keeps its weights.
        validate_on: Whose patches choose the epoch that is kept; ``train`` is for datasets without validation slides.
        tensorboard: Whether events for TensorBoard are written; None does where it is installed.
        save_minutes: Longest time between two states on disk, beside those after each epoch.
    """

    preset: Annotated[
        Preset,
        Flag(
            "fast: a pretrained encoder, a minute on a CPU. scratch: no pretraining. paper: the paper's settings. "
            "official: those of its code. Defaults below are those of fast."
        ),
    ] = "fast"
    architecture: Annotated[str, Flag("Which network; dmmn-qp architectures lists them.", metavar="NAME")] = "dmmn-p"
    encoder: Annotated[str, Flag("Of dmmn-p: which pretrained encoder.", metavar="NAME", panel=TRAINING_PANEL)] = (
        DEFAULT_ENCODER
    )
    encoder_weights: Annotated[
        UserPath | None, Flag("File of that encoder's weights.", metavar="FILE", panel=TRAINING_PANEL)
    ] = None
    encoder_licence: Annotated[
        str | None, Flag("Licence of that file, such as Apache-2.0.", metavar="NAME", panel=TRAINING_PANEL)
    ] = Field(default=None, max_length=200)
    views: Annotated[
        TypedViews, Flag("Of dmmn-p: turned copies that its encoder sees; more take longer.", panel=TRAINING_PANEL)
    ] = 3
    self_training: Annotated[
        int,
        Flag("Of dmmn-p: rounds of learning from undrawn tissue.", metavar="N", panel=TRAINING_PANEL),
    ] = Field(default=2, ge=0, le=10)
    width: Annotated[
        int | None,
        Flag(
            "Base width f of the network.",
            metavar="N",
            default="the usual one, but a quarter of it from scratch on a CPU",
        ),
    ] = Field(default=None, ge=1, le=256)
    norm: Norm = "batch"
    stem: Stem = "quarter"
    padding: Padding = "replicate"
    epochs: Annotated[
        int | None,
        Flag("Epochs of the whole network.", metavar="N", default="12; 0 for dmmn-p, whose encoder stays as it is"),
    ] = Field(default=None, ge=0)
    steps_per_epoch: Annotated[int | None, Flag("Optimiser steps of an epoch.", metavar="N", panel=TRAINING_PANEL)] = (
        Field(default=100, ge=1)
    )
    batch_size: Annotated[int, Flag("Patches per step.", metavar="N")] = Field(default=8, ge=1)
    sampler: Sampler = "balanced"
    class_order: tuple[str, ...] = ()
    rates: dict[str, Annotated[int, Field(ge=0, le=MAX_RATE)]] = Field(default_factory=dict)
    balance_validation: bool = False
    corrections: Annotated[
        float,
        Flag("How many times as often as others corrected predictions are drawn.", panel=TRAINING_PANEL, metavar="X"),
    ] = Field(default=3.0, ge=1, le=MAX_CORRECTIONS)
    color: ColorRule = "mild"
    zoom: float = Field(default=MAX_ZOOM, ge=1, le=MAX_ZOOM)
    cache_mib: Annotated[
        int | None,
        Flag(
            "MiB of decoded tiles that each reading process keeps.",
            name="--cache",
            metavar="MIB",
            panel=SPEED_PANEL,
            default="384",
        ),
    ] = Field(default=None, ge=1)
    jitter_px: int = Field(default=192, ge=0)
    optimizer: Optimizer = "adamw"
    learning_rate: Annotated[
        float | None,
        Flag(
            "Learning rate; its peak with one-cycle.",
            metavar="RATE",
            panel=TRAINING_PANEL,
            default="0.005; 0.0002 for dmmn-p",
        ),
    ] = Field(default=None, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=5e-2, ge=0)
    weight_average: float = Field(default=0.98, ge=0, lt=1)
    loss_mean: LossMean = "labelled"
    class_weights: WeightRule = "inverse-sqrt"
    branch_loss: float = Field(default=0.5, ge=0)
    channels: Channels = "RGB"
    reduction: Reduction = "area"
    precision: Annotated[Precision, Flag("auto takes bf16 where the device is made for it.", panel=SPEED_PANEL)] = (
        "auto"
    )
    device: Annotated[Device, Flag("Where to compute.")] = "auto"
    devices: Annotated[
        int, Flag("Processes that share each batch, one on each GPU.", metavar="N", panel=SPEED_PANEL)
    ] = Field(default=1, ge=1)
    compile: bool = False
    workers: Annotated[
        int | None,
        Flag("Processes that read patches.", metavar="N", panel=SPEED_PANEL, default="half of the cores, at most 8"),
    ] = Field(default=None, ge=0)
    threads: Annotated[
        int | None,
        Flag(
            "Threads that compute, on a CPU.",
            metavar="N",
            panel=SPEED_PANEL,
            default="all cores; with epochs one fewer",
        ),
    ] = Field(default=None, ge=1, le=MOST_THREADS)
    seed: Annotated[int, Flag("Seed of everything random.", metavar="N", panel=TRAINING_PANEL)] = 0
    start_from: Annotated[
        UserPath | None,
        Flag("Model folder to start from; classes are matched by name.", name="--from", metavar="FOLDER"),
    ] = None
    freeze: Annotated[Freeze, Flag("With --from: part of the network to leave as it is.", panel=TRAINING_PANEL)] = (
        "none"
    )
    tensorboard: Annotated[
        bool | None,
        Flag(
            "Write events/ for TensorBoard.",
            name="--tensorboard/--no-tensorboard",
            panel=TRAINING_PANEL,
            default="where it is installed",
        ),
    ] = None
    save_minutes: Endless = 10
    validate_on: Annotated[
        ValidationSplit,
        Flag("Whose patches choose the epoch to keep; train where there is no validation slide.", panel=TRAINING_PANEL),
    ] = "val"

    @field_validator("start_from", "encoder_weights")
    @classmethod
    def _found_from_elsewhere(cls, folder: Path | None) -> Path | None:
        """Makes the path a full one: training may go on from another folder than the one where it began."""
        return None if folder is None else folder.absolute()


_PAPER: dict[str, Any] = {  # sections 2.3 and 2.5, Table 1
    "architecture": "dmmn-m3",
    "norm": "none",
    "stem": "full",
    "padding": "zeros",
    "epochs": 20,
    "steps_per_epoch": None,
    "batch_size": 1,
    "sampler": "elastic",
    "balance_validation": True,
    "corrections": 1.0,
    "color": "paper",
    "zoom": 1.0,
    "jitter_px": 0,
    "optimizer": "sgd",
    "learning_rate": 5e-5,
    "momentum": 0.99,
    "weight_decay": 1e-4,
    "weight_average": 0,
    "loss_mean": "patch",
    "class_weights": "paper",
    "branch_loss": 0,
    "precision": "fp32",
}

PRESETS: dict[Preset, dict[str, Any]] = {
    "fast": {},
    "scratch": {"architecture": "dmmn-m3"},
    "paper": _PAPER,
    # What the authors' published code does where it is not what their paper says.
    "official": {
        **_PAPER,
        "sampler": "shuffled",
        "balance_validation": False,
        "loss_mean": "labelled",
        "channels": "BGR",
        "reduction": "decimate",
    },
}
