"""Options of the stages: defaults, presets, and the TOML file ``[import] [train] [predict]``.

A flag on the command line wins over the file, and the file over the default.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import Field, NonNegativeInt, StringConstraints, ValidationError, model_validator

from dmmn_qp.annotations import ObjectKind
from dmmn_qp.choices import (
    Channels,
    ColorRule,
    Context,
    Device,
    Freeze,
    LossMean,
    Merge,
    Norm,
    Optimizer,
    Outside,
    OverlapRule,
    Precision,
    Preset,
    Reader,
    Reduction,
    Sampler,
    ShownAs,
    Stem,
    TakePredictions,
    ValidationSplit,
    WeightRule,
)
from dmmn_qp.errors import ConfigError
from dmmn_qp.labels.class_rules import ClassRules, PaintRules
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.specs import MAX_ZOOM, MIN_LABELLED_FRACTION, FileModel, PatchSpec

Options = TypeVar("Options", bound=FileModel)
ClassName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

MAX_RATE = 1000
"""Most deformed copies of a patch; more is a slip of the pen."""


class ImportOptions(FileModel):
    """Options of `dmmn-qp import`.

    Attributes:
        mpps: um/px of the magnifications, finest first.
        stride_px: Distance of neighbouring targets in pixels of ``mpps[0]``.
        min_labelled_fraction: A target is kept when more than this part of it is annotated.
        mpp: um/px of slides that do not say it and of which the project does not say it.
        mpp_csv: Table slide,mpp of the same for single slides, which wins over ``mpp``.
        split_key: Key of the image metadata that holds train, val or test.
        classes: Name in the source -> name to train; names with one target are merged.
        drop: Classes that are not trained.
        merge_case: Whether names that differ only in case or blanks are one class.
        overlap: Which area wins where classes overlap.
        line_width_um: Width given to lines of trained classes; None leaves lines out.
        region_class: Class of areas outside which nothing is labelled.
        split_file: CSV with the columns slide and split, which wins over the metadata.
        split_areas: Whether areas whose class or name is Training, Validation or Test divide their slides.
        case_pattern: Regular expression on slide names; slides with the same match (its first group, if any) are of
            one case and go to one split when splits are drawn.
        seed: Decides the split of slides that have none.
        kinds: Kinds of objects that are read.
        plane: (z, t) of the plane whose areas are trained; None takes of each slide the plane that holds most.
        reader: How objects of a QuPath project are read.
        qupath_dir: Folder of QuPath, for the reader that needs it.
        strict: Whether nothing is written when annotations are damaged or missing; else they are left out with a
            warning, as long as others are left.
        take_predictions: Which of our own predictions become labels.
        predicted_in: Folder of predictions in which our own objects are looked for as they were predicted; None looks
            beside the dataset and in the project's folder.
    """

    mpps: tuple[float, ...] = PatchSpec().mpps
    stride_px: int = PatchSpec().stride_px
    min_labelled_fraction: float = Field(default=MIN_LABELLED_FRACTION, ge=0, lt=1)
    mpp: float | None = Field(default=None, gt=0)
    mpp_csv: Path | None = None
    split_key: str = "split"
    classes: dict[str, ClassName] = Field(default_factory=dict)
    drop: tuple[str, ...] = ()
    merge_case: bool = False
    overlap: OverlapRule = "class-order"
    line_width_um: float | None = Field(default=None, gt=0)
    region_class: str | None = None
    split_file: Path | None = None
    split_areas: bool = False
    case_pattern: str | None = None
    seed: NonNegativeInt = 0
    kinds: tuple[ObjectKind, ...] = Field(default=ReadRules().kinds, min_length=1)
    plane: tuple[NonNegativeInt, NonNegativeInt] | None = None
    reader: Reader = "auto"
    qupath_dir: Path | None = None
    strict: bool = False
    take_predictions: TakePredictions = "reviewed"
    predicted_in: Path | None = None

    @model_validator(mode="after")
    def _makes_patches(self) -> Self:
        try:
            self.patch_spec()
        except ValidationError as error:
            raise ValueError(explain(error)) from None
        return self

    def patch_spec(self) -> PatchSpec:
        """The patch geometry."""
        return PatchSpec(mpps=self.mpps, stride_px=self.stride_px)

    def read_rules(self, predicted_in: Sequence[Path] = ()) -> ReadRules:
        """What is read of the source, and how.

        Args:
            predicted_in: Folders of predictions to look into.
        """
        return ReadRules(
            self.kinds, self.plane, self.reader, self.qupath_dir, self.take_predictions, tuple(predicted_in)
        )

    def class_rules(self) -> ClassRules:
        """What becomes of each class name."""
        return ClassRules(self.classes, self.drop, self.merge_case, self.region_class)

    def paint_rules(self) -> PaintRules:
        """How annotations become labels."""
        return PaintRules(self.overlap, self.line_width_um, self.region_class)


class TrainOptions(FileModel):
    """Options of `dmmn-qp train`; the defaults are the preset ``fast``.

    Attributes:
        preset: Which preset the other options started from.
        architecture: Key of `ARCHITECTURES`.
        width: Base width f; None takes the paper's with a GPU or the preset ``paper``, else 8.
        norm: Normalisation after each convolution.
        stem: Resolution at which the network computes.
        epochs: Number of epochs; the model is validated after each.
        steps_per_epoch: Optimiser steps of an epoch; None is one pass over the patches.
        batch_size: Patches per step.
        sampler: ``shuffled`` draws every patch equally often; ``balanced`` lets the classes take turns; ``elastic``
            adds deformed copies of rare classes (section 2.3).
        class_order: Of ``elastic``: classes, the highest first; a patch belongs to the first that it contains. Empty
            takes the order of the dataset.
        rates: Of ``elastic``: deformed copies of each patch, by the class that it belongs to. Classes left out get
            what balances them best.
        color: Which changes of colour.
        zoom: A patch shows up to this many times more or less tissue per side; 1 does not zoom.
        cache_mib: MiB of decoded tiles that each reading process keeps; None is 384.
        jitter_px: How far a target may be moved from the stride, in pixels of ``mpps[0]``.
        optimizer: ``sgd`` with momentum, or ``adamw`` with a one-cycle rate.
        learning_rate: Rate; with one-cycle its peak.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
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
        seed: Seed of everything random.
        start_from: Model folder whose network and weights training starts from.
        freeze: Part of that network that keeps its weights.
        validate_on: Whose patches choose the epoch that is kept; ``train`` is for datasets without validation slides.
        save_minutes: Longest time between two states on disk, beside those after each epoch.
    """

    preset: Preset = "fast"
    architecture: str = "dmmn-m3"
    width: int | None = Field(default=None, ge=1, le=256)
    norm: Norm = "batch"
    stem: Stem = "quarter"
    epochs: int = Field(default=12, ge=1)
    steps_per_epoch: int | None = Field(default=100, ge=1)
    batch_size: int = Field(default=8, ge=1)
    sampler: Sampler = "balanced"
    class_order: tuple[str, ...] = ()
    rates: dict[str, Annotated[int, Field(ge=0, le=MAX_RATE)]] = Field(default_factory=dict)
    color: ColorRule = "mild"
    zoom: float = Field(default=MAX_ZOOM, ge=1, le=MAX_ZOOM)
    cache_mib: int | None = Field(default=None, ge=1)
    jitter_px: int = Field(default=192, ge=0)
    optimizer: Optimizer = "adamw"
    learning_rate: float = Field(default=5e-3, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=5e-2, ge=0)
    loss_mean: LossMean = "labelled"
    class_weights: WeightRule = "inverse-sqrt"
    branch_loss: float = Field(default=0.5, ge=0)
    channels: Channels = "RGB"
    reduction: Reduction = "area"
    precision: Precision = "auto"
    device: Device = "auto"
    devices: int = Field(default=1, ge=1)
    compile: bool = False
    workers: int | None = Field(default=None, ge=0)
    seed: int = 0
    start_from: Path | None = None
    freeze: Freeze = "none"
    save_minutes: float = Field(default=10, ge=0)
    validate_on: ValidationSplit = "val"


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


class PredictOptions(PolygonOptions):
    """Options of `dmmn-qp predict`.

    Attributes:
        batch_size: Targets per forward pass; None fits it to the device.
        context: How targets see what is around them.
        precision: ``auto`` takes bf16 where the device has instructions for it.
        device: Where to compute.
        devices: Number of GPUs that share the blocks of a slide.
        compile: Whether torch compiles the network first.
        workers: Threads that decode pixels; None fits them to the machine.
        probabilities: Whether to write each class's probability.
        uncertainty: Whether to write the entropy of the probabilities.
        tta: Whether to take the mean over the eight turned and mirrored copies.
        mpp: um/px of slides that do not say it.
        tissue_only: Whether only targets that tissue touches are predicted, each as a whole.
        tissue_min_area_um2: A smaller part of the tissue counts as dirt.
        tissue_min_hole_um2: A smaller hole in the tissue counts as tissue.
        tissue_margin_um: How far beyond its border the tissue is taken to reach.
        tissue_outline: Whether the tissue's outline is written as GeoJSON.
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
    probabilities: bool = False
    uncertainty: bool = False
    tta: bool = False
    mpp: float | None = Field(default=None, gt=0)
    tissue_only: bool = False
    tissue_min_area_um2: float = Field(default=20_000, ge=0, allow_inf_nan=False)
    tissue_min_hole_um2: float = Field(default=1_000_000, ge=0)
    tissue_margin_um: float = Field(default=100, ge=0, allow_inf_nan=False)
    tissue_outline: bool = False
    roi_class: str | None = Field(default=None, min_length=1)
    outside: Outside = "unlabelled"


POLYGON_OPTIONS: Final = tuple(PolygonOptions.model_fields)
"""Options of `PredictOptions` that only the polygons depend on."""

_PAPER: dict[str, Any] = {  # sections 2.3 and 2.5, Table 1
    "norm": "none",
    "stem": "full",
    "epochs": 20,
    "steps_per_epoch": None,
    "batch_size": 1,
    "sampler": "elastic",
    "color": "paper",
    "zoom": 1.0,
    "jitter_px": 0,
    "optimizer": "sgd",
    "learning_rate": 5e-5,
    "momentum": 0.99,
    "weight_decay": 1e-4,
    "loss_mean": "patch",
    "class_weights": "paper",
    "branch_loss": 0,
    "precision": "fp32",
}

PRESETS: dict[Preset, dict[str, Any]] = {
    "fast": {},
    "paper": _PAPER,
    # What the authors' published code does where it is not what their paper says.
    "official": {
        **_PAPER,
        "sampler": "shuffled",
        "loss_mean": "labelled",
        "channels": "BGR",
        "reduction": "decimate",
    },
}


class ConfigFile(FileModel):
    """The TOML file: each section holds only what differs from the defaults."""

    import_: dict[str, Any] = Field(default_factory=dict, alias="import")
    train: dict[str, Any] = Field(default_factory=dict)
    predict: dict[str, Any] = Field(default_factory=dict)


def load_config(path: Path | None) -> ConfigFile:
    """Reads a TOML configuration; None gives an empty one.

    Raises:
        ConfigError: The file is missing, is not TOML, or has an unknown section.
    """
    if path is None:
        return ConfigFile()
    try:
        return ConfigFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise ConfigError(f'configuration "{path}" does not exist; check --config') from None
    except ValidationError as error:
        raise ConfigError(f'configuration "{path}": {explain(error)}') from error
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'configuration "{path}" is not valid TOML ({error}); mend that line') from error


def import_options(file: ConfigFile, flags: Mapping[str, Any]) -> ImportOptions:
    """Resolves flags, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _build(ImportOptions, "import", {**file.import_, **_given(flags)})


def train_options(file: ConfigFile, flags: Mapping[str, Any]) -> TrainOptions:
    """Resolves flags, file, preset and defaults.

    Raises:
        ConfigError: An option or preset is unknown or out of range.
    """
    chosen = {**file.train, **_given(flags)}
    preset = chosen.get("preset", "fast")
    if preset not in PRESETS:
        raise ConfigError(f'preset "{preset}" is unknown; choose one of {", ".join(PRESETS)}')
    return _build(TrainOptions, "train", {**PRESETS[preset], **chosen})


def predict_options(file: ConfigFile, flags: Mapping[str, Any]) -> PredictOptions:
    """Resolves flags, file and defaults.

    Raises:
        ConfigError: An option is unknown or out of range.
    """
    return _build(PredictOptions, "predict", {**file.predict, **_given(flags)})


def explain(error: ValidationError) -> str:
    """The first complaint of a validation error in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    said = " ".join(first["msg"].split()).removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def _build(model: type[Options], section: str, values: Mapping[str, Any]) -> Options:
    unknown = next((key for key in values if key not in model.model_fields), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, model.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(model.model_fields)}"
        raise ConfigError(f"{section}.{unknown} is no option; {hint}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{section}.{explain(error)}; see dmmn-qp {section} --help") from error


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flags.items() if value is not None}
