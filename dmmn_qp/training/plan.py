"""What a training will do, settled before its first step: patches, draws, network, optimiser, processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from dmmn_qp.annotations import Origin
from dmmn_qp.choices import Beyond
from dmmn_qp.console import Reporter
from dmmn_qp.engines.cores import default_readers, default_threads
from dmmn_qp.errors import ConfigError, DatasetError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.encoder_weights import give_weights
from dmmn_qp.folders.model import NetworkOptions
from dmmn_qp.labels.draws import BalanceCounts, Draw, ElasticRule, TrainingDraws, balance_counts
from dmmn_qp.labels.patches import PatchRef, training_pixels
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.devices import choose_bf16
from dmmn_qp.networks.encoders import convention_of
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.slides.cached import DEFAULT_BUDGET_BYTES, MIB
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import ClassMap
from dmmn_qp.text import count_of
from dmmn_qp.training.augment import AugmentRules
from dmmn_qp.training.examples import EpochDraws, PatchExamples
from dmmn_qp.training.fine_tuning import Inherited, Start, freeze_encoders, from_kept, inherited_from, start_from
from dmmn_qp.training.launch import processes_here, processes_of
from dmmn_qp.training.options import RATE, TrainOptions
from dmmn_qp.training.reading import Batches
from dmmn_qp.training.validation_draws import validation_draws

NARROWER_ON_CPU = 4
"""Part of the paper's width that networks from scratch have on a CPU, so that they compare there as in the paper."""

OF_ENCODER = ("norm", "stem", "padding", "channels")
"""Options that a pretrained encoder decides, whatever they are."""

EPOCHS = 12
TUNING_RATE = 2e-4


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training will do, before anything is computed.

    Attributes:
        options: With everything resolved: nothing depends on the machine any more.
        training: Patches to train on.
        validation: Patches to validate on.
        validated_on: Whose labels the best epoch is chosen by.
        draws: What the sampler draws from, with N_c of Eq. 2.
        balance: Patches and pixels before and after elastic balancing (Table 1); None without it.
        steps_per_epoch: Optimiser steps of an epoch.
        network: What the network is built from.
        convention: How pixels become its input.
        licence: Licence of the weights that it starts from.
        attribution: Whom that licence asks to name.
        start: The model that it starts from; None where it starts at random.
        rounds: Rounds in which the head of a network on a pretrained encoder learns, before any epoch; else 0.
        validation_draws: What epochs are judged on, the validation patches first, in their order.
    """

    options: TrainOptions
    training: list[PatchRef]
    validation: list[PatchRef]
    validated_on: tuple[Origin, ...]
    draws: TrainingDraws
    balance: BalanceCounts | None
    steps_per_epoch: int
    network: NetworkOptions
    convention: InputConvention
    licence: str | None = None
    attribution: str | None = None
    start: Start | None = None
    rounds: int = 0
    validation_draws: Sequence[Draw] = ()

    @property
    def epochs(self) -> int:
        """Epochs in which the whole network learns."""
        assert self.options.epochs is not None
        return self.options.epochs

    @property
    def course(self) -> str:
        """Its rounds and epochs, in words."""
        rounds = ""
        if self.rounds:
            more = count_of(self.rounds - 1, "round")
            rounds = f"a head on what the encoder sees, {more} of self-training"
        epochs = (
            f"{count_of(self.epochs, 'epoch')} of {count_of(self.steps_per_epoch, 'step')} of "
            f"{count_of(self.options.batch_size, 'patch', 'patches')}"
        )
        return "; ".join(part for part in (rounds, epochs if self.epochs else "") if part)

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch; rounds of the head are counted before them."""
        return self.rounds + self.epochs

    @property
    def learning_rate(self) -> float:
        """The rate of its epochs."""
        assert self.options.learning_rate is not None
        return self.options.learning_rate

    @property
    def validation_steps(self) -> float:
        """About what a validation takes, in optimiser steps: it has no backward pass."""
        return math.ceil(len(self.validation_draws) / self.options.batch_size) / 3

    def steps_after(self, epoch: int) -> float:
        """About what the training takes after the steps of an epoch, in optimiser steps."""
        return self.validation_steps + (self.last_epoch - epoch) * (self.steps_per_epoch + self.validation_steps)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all epochs."""
        return self.epochs * self.steps_per_epoch


def make_plan(
    dataset: Dataset,
    options: TrainOptions,
    device: torch.device,
    reporter: Reporter,
    kept: Mapping[str, Any] | None = None,
) -> TrainingPlan:
    """Resolves what depends on the dataset, the machine or the model to start from.

    Args:
        dataset: The dataset.
        options: What was asked for.
        device: Where it is trained.
        reporter: Where to warn.
        kept: Of a training that goes on: what its state keeps of the model that it started from, which may be gone.

    Raises:
        DatasetError: There is a class without a training pixel, a single class, or no validation patch.
        ModelError: The model to start from is missing, damaged, or of another patch geometry.
        ConfigError: A network from scratch shall learn in no epoch.
    """
    patches = dataset.patches()
    training = [p for p in patches if p.split == "train"]
    validation = [p for p in patches if p.split == "val"]
    training_pixels(patches, dataset.class_map)
    check_classes(dataset)
    draws = training_draws(training, dataset.class_map, options)
    if options.validate_on == "train":
        reporter.warn("the best epoch is chosen on the training slides, which flatters it")
        validation = training
    if not validation:
        raise DatasetError(
            f'dataset "{dataset.folder}" has no validation patch to choose the best epoch by; give a slide the split '
            "val and import again, or pass --validate-on train"
        )
    validation, validated_on = validation_patches(dataset, validation, reporter)
    if options.start_from is None:
        inherited = new_network(options, device)
    elif kept:
        inherited = from_kept(kept)
    else:
        inherited = inherited_from(options.start_from, dataset.patch_spec, dataset.class_map)
    network = inherited.network
    steps = options.steps_per_epoch or math.ceil(draws.pass_length / options.batch_size)
    pretrained = network.encoder is not None
    epochs = options.epochs if options.epochs is not None else (0 if pretrained else EPOCHS)
    if not (epochs or pretrained):
        raise ConfigError(
            f"{network.architecture} learns nothing in 0 epochs; train with --epochs 1 or more, or take "
            "--architecture dmmn-p, whose encoder is pretrained"
        )
    several = processes_of(options) > 1
    bf16 = choose_bf16("fp32" if several and options.precision == "auto" else options.precision, device)
    resolved = options.model_copy(
        update={
            "architecture": network.architecture,
            "width": network.width,
            "norm": network.norm,
            "stem": network.stem,
            "padding": network.padding,
            "encoder": network.encoder or options.encoder,
            "views": network.views,
            "epochs": epochs,
            "learning_rate": options.learning_rate or (TUNING_RATE if pretrained else RATE),
            "channels": inherited.convention.channels,
            "reduction": inherited.convention.reduction,
            "steps_per_epoch": steps,
            "precision": "bf16" if bf16 else "fp32",
            "threads": options.threads or default_threads(processes_here(options), beside_readers=bool(epochs)),
        }
    )
    balance = None if draws.elastic is None else balance_counts(patches, dataset.class_map, draws.elastic)
    rounds = 1 + options.self_training if pretrained else 0
    balancing = draws.elastic if options.balance_validation and not rounds else None  # rounds are judged without copies
    judged = validation_draws(validation, balancing, options.seed)
    return TrainingPlan(resolved, training, validation, validated_on, draws, balance, steps, *inherited, rounds, judged)


def new_network(options: TrainOptions, device: torch.device) -> Inherited:
    """What a new network is built from, and how pixels become its input."""
    architecture = ARCHITECTURES.get(options.architecture)
    width = options.width or default_width(options, device)
    if architecture is None or not architecture.pretrained:
        built = NetworkOptions(
            architecture=options.architecture,
            width=width,
            norm=options.norm,
            stem=options.stem,
            padding=options.padding,
        )
        beyond: Beyond = "mirror" if options.padding == "replicate" else "black"  # no border at the slide's end either
        return Inherited(built, InputConvention(channels=options.channels, reduction=options.reduction, beyond=beyond))
    built = NetworkOptions(architecture=options.architecture, width=width, encoder=options.encoder, views=options.views)
    return Inherited(built, convention_of(options.encoder).model_copy(update={"reduction": options.reduction}))


def check_classes(dataset: Dataset) -> None:
    """Refuses what no network can learn to tell apart.

    Raises:
        DatasetError: There is a single class: whoever knows no other predicts it everywhere.
    """
    if len(dataset.class_map) == 1:
        raise DatasetError(
            f'dataset "{dataset.folder}" has the single class "{dataset.class_map.names[0]}", which a network would '
            'predict everywhere; annotate what is not of it as well, as one class more such as "Other", and import '
            "again"
        )


def validation_patches(
    dataset: Dataset, patches: Sequence[PatchRef], reporter: Reporter
) -> tuple[list[PatchRef], tuple[Origin, ...]]:
    """The patches that choose the best epoch, and whose labels on them count.

    What was drawn by hand; where there is none, predictions that somebody vouched for. What nobody checked is no truth.

    Raises:
        DatasetError: Nothing else is there.
    """
    of_patch = [(patch, dataset.origins_in(patch)) for patch in patches]
    counting: tuple[tuple[Origin, ...], ...] = (("drawn",), ("corrected", "confirmed"))
    for origins in counting:
        chosen = [patch for patch, found in of_patch if found & set(origins)]
        if chosen:
            if origins != ("drawn",):
                reporter.warn(
                    "nothing is drawn by hand on the validation slides, so the best epoch is chosen by predictions "
                    "that were locked or corrected, which flatters a model like the one that made them"
                )
            return chosen, origins
    raise DatasetError(
        f'the validation patches of dataset "{dataset.folder}" hold nothing but predictions that nobody checked; draw '
        "something on a validation slide, or lock the predictions there that are right, and import again"
    )


def training_draws(training: Sequence[PatchRef], class_map: ClassMap, options: TrainOptions) -> TrainingDraws:
    """What the sampler asked for draws from.

    Raises:
        ConfigError: The class order or the rates do not fit the classes.
    """
    elastic = None
    if options.sampler == "elastic":
        elastic = ElasticRule.of_options(class_map, training, options.class_order, options.rates)
    return TrainingDraws(training, options.sampler, options.seed, elastic, options.corrections)


def default_width(options: TrainOptions, device: torch.device) -> int:
    """The usual width of the architecture; a narrow one on a CPU from scratch, but for the paper's own presets."""
    architecture = ARCHITECTURES.get(options.architecture)
    if architecture is None:
        return 1  # building it will say that there is none
    narrow = device.type == "cpu" and options.preset in ("fast", "scratch") and not architecture.pretrained
    return max(1, architecture.paper_width // NARROWER_ON_CPU) if narrow else architecture.paper_width


def make_module(plan: TrainingPlan, dataset: Dataset, *, goes_on: bool = False) -> SupervisedBranches:
    """The network in training, with random weights or those of the model to start from.

    Args:
        plan: What is trained.
        dataset: On what.
        goes_on: Whether its weights come from a state, so that the model that it started from is not needed.
    """
    spec, classes = dataset.patch_spec, len(dataset.class_map)
    network = build_network(
        plan.network.architecture,
        classes=classes,
        width=plan.network.width,
        magnifications=len(spec.mpps),
        size_px=spec.size_px,
        norm=plan.network.norm,
        stem=plan.network.stem,
        padding=plan.network.padding,
        encoder=plan.network.encoder,
        views=plan.network.views,
    )
    if plan.network.encoder is not None and (plan.start is None or goes_on):
        give_weights(network, plan.options.encoder_weights, plan.options.encoder_licence)
    if plan.options.start_from is not None and not goes_on:
        start_from(network, plan.options.start_from, dataset.class_map)
    module = SupervisedBranches(network, classes, plan.network.width if plan.options.branch_loss else None)
    freeze_encoders(network, plan.options.freeze)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def reading_processes(options: TrainOptions) -> int:
    """How many processes read training patches; 0 for none but this one."""
    return options.workers if options.workers is not None else default_readers()


def make_batches(
    dataset: Dataset, plan: TrainingPlan, fabric: Fabric, slides_roots: Sequence[SlidesRoot], reporter: Reporter
) -> tuple[Batches, EpochDraws, Batches]:
    """Training batches with the draws that lead them, and validation batches; of each this process's part."""
    options, rank, world = plan.options, fabric.global_rank, fabric.world_size
    workers = reading_processes(options)
    every_target = len(dataset.patch_spec.mpps) if options.branch_loss else 1

    def drawn(epoch: int) -> list[Draw]:
        return plan.draws.of_epoch(epoch, plan.steps_per_epoch * options.batch_size)[rank::world]

    epoch_draws = EpochDraws(drawn)
    cache_bytes = DEFAULT_BUDGET_BYTES if options.cache_mib is None else options.cache_mib * MIB
    examples = PatchExamples(
        dataset,
        plan.training,
        augment=AugmentRules(options.color, options.zoom),
        jitter_px=options.jitter_px,
        targets=every_target,
        wide=fabric.device.type == "cuda",
        slides_roots=slides_roots,
        reduction=plan.convention.reduction,
        beyond=plan.convention.beyond,
        cache_bytes=cache_bytes,
    )
    if plan.epochs:
        reporter.say(
            f"  tissue around the training patches: {examples.tiles_bytes() / MIB:,.0f} MiB decoded, of which "
            f"{'the reading process' if workers <= 1 else f'each of {workers} reading processes'} keeps "
            f"{cache_bytes // MIB:,} MiB at most (--cache)"
        )
    unchanged = validation_examples(dataset, plan, slides_roots)
    mine = plan.validation_draws[rank::world]
    return (
        Batches(examples, epoch_draws, options.batch_size // world, workers, reporter.warn),
        epoch_draws,
        Batches(unchanged, EpochDraws(lambda _: mine), max(1, options.batch_size // world), min(workers, 1)),
    )


def validation_examples(dataset: Dataset, plan: TrainingPlan, slides_roots: Sequence[SlidesRoot]) -> PatchExamples:
    """The validation patches, with the labels that choose the best epoch."""
    return PatchExamples(
        dataset,
        plan.validation,
        augment=None,
        slides_roots=slides_roots,
        reduction=plan.convention.reduction,
        beyond=plan.convention.beyond,
        origins=plan.validated_on,
    )
