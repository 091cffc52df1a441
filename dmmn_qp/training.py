"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.architectures.supervision import SupervisedBranches
from dmmn_qp.augment import AugmentRules
from dmmn_qp.balance import BalanceCounts, Draw, ElasticRule, TrainingDraws, balance_counts, class_weights
from dmmn_qp.checkpoint import CARD, InputConvention, ModelCard, NetworkOptions, load_model, save_model
from dmmn_qp.config import TrainOptions
from dmmn_qp.dataset import Dataset
from dmmn_qp.devices import available_cores, choose_bf16, choose_device, network_inputs
from dmmn_qp.errors import DatasetError, OutputExistsError, TrainingError
from dmmn_qp.fine_tuning import freeze_encoders, network_of_model, start_from
from dmmn_qp.losses import partial_cross_entropy
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.outputs import RUN_FILE, check_free, new_file, write_json
from dmmn_qp.patches import PatchRef, class_pixels, training_pixels
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.reporting import Reporter, duration
from dmmn_qp.reports.batch_sheet import SheetCell, draw_batch_sheet
from dmmn_qp.reports.training_report import PatchVerdict, draw_verdict, write_training_report
from dmmn_qp.slides.cached import DEFAULT_BUDGET_BYTES, MIB
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.torch_dataset import EpochDraws, Example, PatchExamples, WideExample, augmented, make_loader
from dmmn_qp.training_log import TrainingLog
from dmmn_qp.training_state import STATE, TrainingState, dataset_digest, load_state, save_state

WIDTH_ON_CPU = 8
GRADIENT_NORM = 1.0
WARM_UP = 0.15
EPOCHS_OF_COLLAPSE = 3
"""So many epochs with a single predicted class are worth a warning."""

SHOWN_PATCHES = 6
"""So many patches are drawn by `show_batch`."""

_TIMED_STEPS = 3
_WATCHED = 6
"""So many validation patches are drawn after every epoch."""
_EXAMPLES = 4
"""So many of the best and of the worst validation patches are in the report."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training will do, before anything is computed.

    Attributes:
        options: With everything resolved: nothing depends on the machine any more.
        training: Patches to train on.
        validation: Patches to validate on.
        draws: How the training patches are drawn.
        balance: Patches and pixels before and after elastic balancing; None without it.
        steps_per_epoch: Optimiser steps of an epoch.
        network: What the network is built from.
        convention: How pixels become its input.
    """

    options: TrainOptions
    training: list[PatchRef]
    validation: list[PatchRef]
    draws: TrainingDraws
    balance: BalanceCounts | None
    steps_per_epoch: int
    network: NetworkOptions
    convention: InputConvention

    @property
    def label_counts(self) -> NDArray[np.int64]:
        """N_c of Eq. 2, after elastic balancing if there is any: (C,)."""
        return self.draws.label_counts

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.options.epochs * self.steps_per_epoch


def train(
    dataset_folder: Path,
    out: Path,
    options: TrainOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
    slides_roots: Sequence[SlidesRoot] = (),
) -> Path:
    """Trains a model and keeps the epoch with the highest mIoU on the validation slides.

    The state of the training is on disk after every epoch and every few minutes: stopped in whatever way, it goes on
    with ``resume`` to the same weights, bit for bit on a CPU.

    Args:
        dataset_folder: A dataset of `dmmn-qp import`.
        out: The model folder. It is a model from the first epoch on, and better ones replace it.
        options: Resolved options; with ``resume`` those of the interrupted training.
        reporter: Where to report.
        overwrite: Whether an existing model may be replaced.
        resume: Whether to go on with the training that was interrupted in ``out``.
        slides_roots: Where to look for slides that have been moved.

    Returns:
        ``out``.

    Raises:
        DatasetError: The dataset is missing, damaged, or has a class without a training pixel.
        SlideError: A slide cannot be found or read.
        OutputExistsError: ``out`` exists.
        ConfigError: The device is not there.
        ModelError: There is nothing to resume, or the model to start from does not fit.
        TrainingError: The loss is no number any more, or the memory does not suffice.
        KeyboardInterrupt: It was asked to stop; the message says how to go on.
    """
    started, clock = now(), time.monotonic()
    if not resume:
        check_out(out, overwrite=overwrite)
    dataset = Dataset(dataset_folder)
    for record in dataset.slides():
        if record.split != "test":
            dataset.locate(record, slides_roots)
    device = choose_device(options.device)
    plan = make_plan(dataset, options, device, reporter)
    options, class_map = plan.options, dataset.class_map
    fabric = make_fabric(options, device)
    first = fabric.global_rank == 0
    torch.manual_seed(options.seed)
    module = make_module(plan, dataset)
    optimizer, schedule = make_optimizer(module, options, plan.total_steps)
    state = TrainingState(
        options.model_dump(mode="json"),
        describe_run(
            "train",
            options.model_dump(mode="json"),
            started,
            device=str(device),
            balance=None if plan.balance is None else plan.balance.model_dump(mode="json"),
        ),
        str(dataset_folder.absolute()),
        dataset_digest(dataset_folder),
    )
    if resume:
        state = load_state(out)
        if state.dataset_digest != dataset_digest(dataset_folder):
            raise DatasetError(
                f'dataset "{dataset_folder}" has changed since this training began; train anew without --resume, '
                "or with --overwrite"
            )
        restore(state, module, optimizer, schedule)
    seconds_before = state.seconds

    say_plan(plan, module, device, fabric.world_size, class_map, reporter)
    training_batches, training_draws, validation_batches = make_batches(dataset, plan, fabric, slides_roots)
    say_cache(training_batches, reporter)
    weights = torch.from_numpy(class_weights(plan.label_counts, options.class_weights)).to(fabric.device)
    compiled: nn.Module = torch.compile(module) if options.compile else module  # type: ignore[assignment]
    model, fabric_optimizer = fabric.setup(compiled, optimizer)

    def keep_state(epoch: int, step: int, losses: list[float]) -> None:
        if first:
            state.epoch, state.step, state.losses = epoch, step, losses
            state.seconds = seconds_before + time.monotonic() - clock
            state.tensors = snapshot(module, optimizer, schedule)
            save_state(out, state)

    if first and not resume:
        clear(out, overwrite=overwrite)
        write_json(out / RUN_FILE, state.run)
    keep_state(state.epoch, state.step, state.losses)
    log = TrainingLog(out, class_map, plan.steps_per_epoch, state) if first else None
    last_saved = time.monotonic()

    with StopRequest() as stop:
        for epoch in range(state.epoch, options.epochs + 1):
            losses = list(state.losses) if epoch == state.epoch else []
            training_draws.start(epoch, skip=len(losses) * options.batch_size // fabric.world_size)
            module.train()
            freeze_encoders(module.stemmed, options.freeze)
            with reporter.task(f"epoch {epoch}/{options.epochs}", plan.steps_per_epoch, done=len(losses)) as task:
                for drawn in training_batches:
                    batch = augmented(drawn, dataset.patch_spec.size_px, fabric.device)
                    images = network_inputs(batch.images, plan.convention, fabric.device)  # M x (B, 3, S, S)
                    targets = batch.targets.to(fabric.device).long()  # (B, M or 1, S, S)
                    fabric_optimizer.zero_grad(set_to_none=True)
                    try:
                        loss, with_branches = training_losses(model(images), targets, weights, options, fabric)
                        fabric.backward(with_branches)
                    except torch.OutOfMemoryError:
                        raise TrainingError(too_large(module, images, options.batch_size, fabric)) from None
                    if options.optimizer == "adamw":
                        fabric.clip_gradients(model, fabric_optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
                    fabric_optimizer.step()
                    if schedule is not None:
                        schedule.step()
                    losses.append(mean_of_processes(loss.detach(), fabric).item())
                    check_loss(losses[-1], epoch, options)
                    task.advance(note=step_note(losses[-1], optimizer, options.batch_size, task.seconds_per_unit))
                    if log is not None:
                        log.step(epoch, len(losses), losses[-1], optimizer.param_groups[0]["lr"])
                    if time.monotonic() - last_saved >= 60 * options.save_minutes:
                        keep_state(epoch, len(losses), losses)
                        last_saved = time.monotonic()
                    if agreed(stop.requested, fabric):
                        keep_state(epoch, len(losses), losses)
                        raise KeyboardInterrupt(
                            f"stopped in epoch {epoch} after {len(losses)} of {plan.steps_per_epoch} steps; go on with "
                            f"dmmn-qp train --resume --out {out}"
                        )

            metrics, picture = validate(model, validation_batches, plan, class_map, fabric)
            elapsed = seconds_before + time.monotonic() - clock
            if log is not None:
                row = log.epoch(epoch, losses, optimizer.param_groups[0]["lr"], metrics, elapsed, picture)
                improved = metrics.mean_iou > state.best or not (out / CARD).is_file()
                reporter.say(
                    f"  epoch {epoch:>{len(str(options.epochs))}}/{options.epochs}  loss {row['loss']:.3f}  "
                    f"val mIoU {metrics.mean_iou:.3f}{' (best)' if improved else ''}  "
                    f"ETA {duration(elapsed / epoch * (options.epochs - epoch))}"
                )
                warn_of_collapse(state.history, log.only_class, options, reporter)
                if improved:
                    state.best = metrics.mean_iou
                    keep(out, plan, dataset, module, metrics, state, epoch)
            state.losses = []
            if epoch < options.epochs:
                keep_state(epoch + 1, 0, [])
                last_saved = time.monotonic()

    if log is not None:
        log.close()
        write_json(out / RUN_FILE, {**state.run, "finished": now(), "seconds": round(elapsed, 1)})
        reporter.say(f"  best validation mIoU {state.best:.3f}, after {duration(elapsed)}")
        write_report(out, dataset, plan, state, fabric.device, slides_roots)
        (out / STATE).unlink()
    fabric.barrier()
    return out


def make_plan(dataset: Dataset, options: TrainOptions, device: torch.device, reporter: Reporter) -> TrainingPlan:
    """Resolves what depends on the dataset, the machine or the model to start from."""
    patches = dataset.patches()
    training = [p for p in patches if p.split == "train"]
    validation = [p for p in patches if p.split == "val"]
    training_pixels(patches, dataset.class_map)
    draws = training_draws(training, dataset.class_map, options)
    balance = None if draws.elastic is None else balance_counts(patches, dataset.class_map, draws.elastic)
    if not validation:
        reporter.warn("no validation slide: the best epoch is chosen on the training slides, which flatters it")
        validation = training
    if options.start_from is None:
        network = NetworkOptions(
            architecture=options.architecture,
            width=options.width or default_width(options, device),
            norm=options.norm,
            stem=options.stem,
        )
        convention = InputConvention()
    else:
        network, convention = network_of_model(options.start_from, dataset.patch_spec)
    steps = options.steps_per_epoch or math.ceil(draws.pass_length / options.batch_size)
    several = processes_of(options) > 1
    bf16 = choose_bf16("fp32" if several and options.precision == "auto" else options.precision, device)
    resolved = options.model_copy(
        update={
            "architecture": network.architecture,
            "width": network.width,
            "norm": network.norm,
            "stem": network.stem,
            "steps_per_epoch": steps,
            "precision": "bf16" if bf16 else "fp32",
        }
    )
    return TrainingPlan(resolved, training, validation, draws, balance, steps, network, convention)


def processes_of(options: TrainOptions) -> int:
    """Number of processes that train together: those of a launcher such as torchrun, else as many as devices."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "WORLD_SIZE" in os.environ else options.devices


def make_fabric(options: TrainOptions, device: torch.device) -> Fabric:
    """Lightning Fabric for the device, the precision and the processes; it starts those that are missing.

    Raises:
        TrainingError: A batch cannot be divided evenly.
    """
    world = processes_of(options)
    if options.batch_size % world:
        raise TrainingError(
            f"batches of {options.batch_size} cannot be divided among {world} processes; choose a --batch-size that "
            f"is a multiple of {world}"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if options.precision == "bf16" else "32-true",
    )
    if world > 1:
        fabric.launch()
    return fabric


def make_module(plan: TrainingPlan, dataset: Dataset) -> SupervisedBranches:
    """The network in training, with random weights or those of the model to start from."""
    spec, classes = dataset.patch_spec, len(dataset.class_map)
    network = build_network(
        plan.network.architecture,
        classes=classes,
        width=plan.network.width,
        magnifications=len(spec.mpps),
        size_px=spec.size_px,
        norm=plan.network.norm,
        stem=plan.network.stem,
    )
    if plan.options.start_from is not None:
        start_from(network, plan.options.start_from, dataset.class_map)
    module = SupervisedBranches(network, classes, plan.network.width if plan.options.branch_loss else None)
    freeze_encoders(network, plan.options.freeze)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def make_batches(
    dataset: Dataset, plan: TrainingPlan, fabric: Fabric, slides_roots: Sequence[SlidesRoot]
) -> tuple[DataLoader[Example | WideExample], EpochDraws, DataLoader[Example | WideExample]]:
    """Training batches with the draws that lead them, and validation batches; of each this process's part."""
    options, rank, world = plan.options, fabric.global_rank, fabric.world_size
    workers = options.workers if options.workers is not None else min(8, available_cores() // 2)
    cache_bytes = DEFAULT_BUDGET_BYTES if options.cache_mib is None else options.cache_mib * MIB
    every_target = len(dataset.patch_spec.mpps) if options.branch_loss else 1

    def drawn(epoch: int) -> list[Draw]:
        return plan.draws.of_epoch(epoch, plan.steps_per_epoch * options.batch_size)[rank::world]

    training_draws = EpochDraws(drawn)
    examples = PatchExamples(
        dataset,
        plan.training,
        augment=AugmentRules(options.color, options.zoom),
        jitter_px=options.jitter_px,
        targets=every_target,
        wide=fabric.device.type == "cuda",
        slides_roots=slides_roots,
        cache_bytes=cache_bytes,
    )
    unchanged = PatchExamples(dataset, plan.validation, augment=None, slides_roots=slides_roots)
    mine = [Draw(i, seed=0) for i in range(len(plan.validation))][rank::world]
    return (
        make_loader(examples, training_draws, options.batch_size // world, workers),
        training_draws,
        make_loader(unchanged, EpochDraws(lambda _: mine), max(1, options.batch_size // world), min(workers, 1)),
    )


def training_losses(
    outputs: list[Tensor], targets: Tensor, weights: Tensor, options: TrainOptions, fabric: Fabric
) -> tuple[Tensor, Tensor]:
    """The loss of the target (Eq. 1), and the same with a part of that of each coarser branch for its own field.

    Args:
        outputs: Logits (B, C, S, S) of the target, then of each coarser field.
        targets: (B, 1 or M, S, S) labels of them.
        weights: (C,) weights of the classes.
        options: What to divide by, and how much the branches count.
        fabric: The processes that share the batch.
    """
    losses = [
        partial_cross_entropy(
            logits, targets[:, m], weights, options.loss_mean, lambda value: mean_of_processes(value, fabric)
        )
        for m, logits in enumerate(outputs)
    ]
    return losses[0], losses[0] + options.branch_loss * sum(losses[1:], torch.zeros_like(losses[0]))


def mean_of_processes(value: Tensor, fabric: Fabric) -> Tensor:
    """The mean of a tensor over all processes."""
    reduced = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def default_width(options: TrainOptions, device: torch.device) -> int:
    """The paper's base width of the architecture; a narrow one on a CPU, but for the paper's own presets."""
    if (device.type == "cpu" and options.preset == "fast") or options.architecture not in ARCHITECTURES:
        return WIDTH_ON_CPU
    return ARCHITECTURES[options.architecture].paper_width


def training_draws(training: Sequence[PatchRef], class_map: ClassMap, options: TrainOptions) -> TrainingDraws:
    """What the sampler asked for draws from.

    Raises:
        ConfigError: The class order or the rates do not fit the classes.
    """
    elastic = None
    if options.sampler == "elastic":
        elastic = ElasticRule.of_options(class_map, training, options.class_order, options.rates)
    return TrainingDraws(training, options.sampler, options.seed, elastic)


def make_optimizer(
    network: nn.Module, options: TrainOptions, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """SGD with a constant rate (section 2.5), or AdamW with a one-cycle rate."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if options.optimizer == "sgd":
        sgd = torch.optim.SGD(
            trained, lr=options.learning_rate, momentum=options.momentum, weight_decay=options.weight_decay
        )
        return sgd, None
    kernels = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]  # biases and normalisation are not decayed
    adamw = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adamw, options.learning_rate, total_steps=total_steps, pct_start=WARM_UP
    )
    return adamw, schedule


def look(
    network: Callable[[list[Tensor]], Tensor],
    batches: DataLoader[Example | WideExample],
    patches: Sequence[PatchRef],
    convention: InputConvention,
    device: torch.device,
) -> Iterator[PatchVerdict]:
    """What a network in evaluation mode makes of patches, one after the other.

    Args:
        network: Images -> logits (B, C, S, S).
        batches: The patches as they are, in their order.
        patches: Their index.
        convention: How pixels become the network's input.
        device: Where it computes.
    """
    remaining = iter(patches)
    with torch.inference_mode():
        for batch in batches:
            predicted = (network(network_inputs(batch.images, convention, device)).argmax(dim=1) + 1).to(torch.uint8)
            for images, targets, labels in zip(batch.images, batch.targets, predicted.cpu().numpy(), strict=True):
                patch, truth = next(remaining), targets[0].numpy()
                labelled = truth != UNLABELLED
                yield PatchVerdict(
                    slide_id=patch.slide_id,
                    place_px=(patch.x, patch.y),
                    images=images.permute(0, 2, 3, 1).numpy(),
                    truth=truth,
                    predicted=labels,
                    accuracy=float((truth == labels)[labelled].mean()) if labelled.any() else 0.0,
                )


def validate(
    network: nn.Module,
    batches: DataLoader[Example | WideExample],
    plan: TrainingPlan,
    class_map: ClassMap,
    fabric: Fabric,
) -> tuple[Metrics, NDArray[np.uint8]]:
    """Metrics on the labelled pixels of the validation patches, and a picture of some of them."""
    mine = plan.validation[fabric.global_rank :: fabric.world_size]
    watched = range(0, len(mine), max(1, len(mine) // _WATCHED))
    confusion = np.zeros((len(class_map), len(class_map)), np.int64)
    rows: list[NDArray[np.uint8]] = []
    network.eval()
    verdicts = look(lambda images: network(images)[0], batches, mine, plan.convention, fabric.device)
    for i, verdict in enumerate(verdicts):
        confusion += confusion_matrix(verdict.truth, verdict.predicted, len(class_map))
        if i in watched and len(rows) < _WATCHED:
            rows.append(draw_verdict(verdict, class_map))
    if fabric.world_size > 1:
        mean = mean_of_processes(torch.from_numpy(confusion).double().to(fabric.device), fabric)
        confusion = np.rint(mean.cpu().numpy() * fabric.world_size).astype(np.int64)
    return Metrics.from_confusion(confusion), np.concatenate(rows) if rows else np.zeros((1, 1, 3), np.uint8)


def check_loss(loss: float, epoch: int, options: TrainOptions) -> None:
    """Raises `TrainingError` when the loss is no number any more."""
    if math.isfinite(loss):
        return
    likely = "bf16 may be too coarse for it: --precision fp32, or " if options.precision == "bf16" else ""
    raise TrainingError(
        f"the loss became {loss} in epoch {epoch}, most likely because the steps are too large; {likely}train with a "
        f"lower --learning-rate (it was {options.learning_rate:g}). The best epoch so far is kept"
    )


def too_large(module: SupervisedBranches, images: list[Tensor], batch_size: int, fabric: Fabric) -> str:
    """What to say when a batch does not fit into the GPU: the largest half, quarter ... of it that does."""
    part = images[0].shape[0]
    while part > 1:
        part //= 2
        module.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            with fabric.autocast():
                outputs = module([image[:part] for image in images])
            sum((x.float().mean() for x in outputs), torch.zeros((), device=images[0].device)).backward()
        except torch.OutOfMemoryError:
            continue
        return (
            f"the memory of the {fabric.device.type} does not hold batches of {batch_size}; train with "
            f"--batch-size {part * fabric.world_size}, which fits"
        )
    return (
        f"the memory of the {fabric.device.type} does not hold a single patch; train with a smaller --width, or "
        "--precision bf16"
    )


def warn_of_collapse(
    history: list[dict[str, float]], only_class: list[str | None], options: TrainOptions, reporter: Reporter
) -> None:
    """Says when the network has predicted one class only for some epochs."""
    latest = only_class[-EPOCHS_OF_COLLAPSE:]
    if len(latest) == EPOCHS_OF_COLLAPSE and latest[0] is not None and len(set(latest)) == 1:
        reporter.warn(
            f'the network has predicted only "{latest[0]}" for {EPOCHS_OF_COLLAPSE} epochs; most likely the learning '
            f"rate ({options.learning_rate:g}) is too high or too low, or the classes are too unequal: see the balance "
            "in dataset/report.html"
        )


def snapshot(
    module: SupervisedBranches, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler | None
) -> dict[str, Any]:
    """States of everything that changes while training."""
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict() if schedule is not None else {},
        "random": torch.get_rng_state(),
    }


def restore(
    state: TrainingState,
    module: SupervisedBranches,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
) -> None:
    """The counterpart of `snapshot`."""
    module.load_state_dict(state.tensors["module"])
    optimizer.load_state_dict(state.tensors["optimizer"])
    if schedule is not None:
        schedule.load_state_dict(state.tensors["schedule"])
    torch.set_rng_state(state.tensors["random"])


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuses a model folder that may not be written.

    Raises:
        OutputExistsError: It is another thing than a model, or a model or an interrupted training and not to be
            replaced.
    """
    if (out / STATE).is_file():
        if not overwrite:
            raise OutputExistsError(
                f'"{out}" holds an interrupted training; go on with --resume, or pass --overwrite to start anew'
            )
        return
    check_free(out, overwrite=overwrite, marker=CARD)


def clear(out: Path, *, overwrite: bool) -> None:
    """Makes an empty model folder; what was there is removed once everything else is known to be in order."""
    check_out(out, overwrite=overwrite)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)


def keep(
    out: Path,
    plan: TrainingPlan,
    dataset: Dataset,
    module: SupervisedBranches,
    metrics: Metrics,
    state: TrainingState,
    epoch: int,
) -> None:
    """Writes the best model so far over the one before."""
    card = ModelCard(
        name=out.name,
        network=plan.network,
        class_map=dataset.class_map,
        patch_spec=dataset.patch_spec,
        input=plan.convention,
        validation={
            "epoch": epoch,
            "mean_iou": metrics.mean_iou,
            "mean_recall": metrics.mean_recall,
            "mean_precision": metrics.mean_precision,
            "iou": by_class(metrics.iou, dataset.class_map),
        },
        provenance={
            "run_id": state.run["run_id"],
            "version": state.run["version"],
            "slides": [r.slide_id for r in dataset.slides("train")],
        },
        created=now(),
    )
    save_model(out, card, module.stemmed)


def write_report(
    out: Path,
    dataset: Dataset,
    plan: TrainingPlan,
    state: TrainingState,
    device: torch.device,
    slides_roots: Sequence[SlidesRoot],
) -> None:
    """Looks at the validation patches once more with the model that was kept, and writes its report."""
    examples = PatchExamples(dataset, plan.validation, augment=None, slides_roots=slides_roots)
    draws = [Draw(i, seed=0) for i in range(len(plan.validation))]
    batches = make_loader(examples, EpochDraws(lambda _: draws), plan.options.batch_size, workers=0)
    card, network = load_model(out)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    confusion = np.zeros((len(dataset.class_map), len(dataset.class_map)), np.int64)
    verdicts: list[PatchVerdict] = []
    for verdict in look(network, batches, plan.validation, plan.convention, device):
        confusion += confusion_matrix(verdict.truth, verdict.predicted, len(dataset.class_map))
        verdicts.append(verdict)
        verdicts.sort(key=lambda v: v.accuracy)
        if len(verdicts) > 2 * _EXAMPLES:
            del verdicts[_EXAMPLES]
    half = min(_EXAMPLES, len(verdicts) // 2)
    write_training_report(
        out,
        card,
        state.history,
        Metrics.from_confusion(confusion),
        verdicts[:half],
        verdicts[len(verdicts) - half :][::-1],
        {"epoch kept": f"{card.validation['epoch']} of {len(state.history)}", "time": duration(state.seconds)},
    )


def estimate(
    dataset_folder: Path, options: TrainOptions, reporter: Reporter, *, slides_roots: Sequence[SlidesRoot] = ()
) -> None:
    """Says what a training would do, and how long and how much memory it would take, from a few steps of it.

    Raises:
        DmmnQpError: As `train`; nothing is written.
    """
    dataset = Dataset(dataset_folder)
    device = choose_device(options.device)
    plan = make_plan(dataset, options, device, reporter)
    fabric = make_fabric(plan.options.model_copy(update={"devices": 1}), device)
    module = make_module(plan, dataset)
    say_plan(plan, module, device, 1, dataset.class_map, reporter)
    for name, value in plan.options.model_dump(mode="json").items():
        reporter.say(f"  {name} = {json.dumps(value)}")
    rows = [
        (name, f"{counts[0]:,}", f"{counts[1]:,}", f"{weight:.3f}")
        for name, counts, weight in zip(
            dataset.class_map.names,
            zip(plan.label_counts, class_pixels(plan.validation, dataset.class_map), strict=True),
            class_weights(plan.label_counts, plan.options.class_weights),
            strict=True,
        )
    ]
    reporter.table(("class", "training px", "validation px", "weight"), rows)
    optimizer, _ = make_optimizer(module, plan.options, plan.total_steps)
    weights = torch.from_numpy(class_weights(plan.label_counts, plan.options.class_weights)).to(fabric.device)
    batches, draws, _ = make_batches(dataset, plan, fabric, slides_roots)
    say_cache(batches, reporter)
    model, optimizer = fabric.setup(module, optimizer)
    draws.start(1)
    seconds: list[float] = []
    clock = time.monotonic()
    for drawn, _ in zip(batches, range(_TIMED_STEPS + 1), strict=False):
        batch = augmented(drawn, dataset.patch_spec.size_px, fabric.device)
        images = network_inputs(batch.images, plan.convention, fabric.device)
        targets = batch.targets.to(fabric.device).long()
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(training_losses(model(images), targets, weights, plan.options, fabric)[1])
        optimizer.step()
        seconds.append(time.monotonic() - clock)
        clock = time.monotonic()
    step = min(seconds[1:] or seconds)
    of_validation = step / 3 * math.ceil(len(plan.validation) / plan.options.batch_size)  # no backward pass
    total = plan.total_steps * step + plan.options.epochs * of_validation
    reporter.say(
        f"  about {duration(total)} at {step:.2f} s a step, and {memory_gib():.1f} GiB of "
        f"{'GPU ' if device.type == 'cuda' else ''}memory; nothing was written"
    )


def show_batch(
    dataset_folder: Path, path: Path, options: TrainOptions, *, slides_roots: Sequence[SlidesRoot] = ()
) -> None:
    """Draws some training patches as they are, augmented, and augmented and deformed; trains nothing.

    The targets are not moved, so that the versions of a patch can be compared.

    Args:
        dataset_folder: A dataset of `dmmn-qp import`.
        path: PNG to write.
        options: Resolved options.
        slides_roots: Where to look for slides that have been moved.

    Raises:
        DatasetError: The dataset is missing, damaged, or has a class without a training pixel.
        SlideError: A slide cannot be found or read.
    """
    dataset = Dataset(dataset_folder)
    patches = dataset.patches()
    training = [p for p in patches if p.split == "train"]
    training_pixels(patches, dataset.class_map)
    draws = training_draws(training, dataset.class_map, options)
    shown: dict[int, Draw] = {}
    for draw in draws.of_epoch(1, draws.pass_length):
        shown.setdefault(draw.patch, draw)
    rules = AugmentRules(options.color, options.zoom)
    unchanged = PatchExamples(dataset, training, augment=None, slides_roots=slides_roots)
    augmented_ones = PatchExamples(dataset, training, augment=rules, slides_roots=slides_roots)
    rows, names = [], []
    for draw in list(shown.values())[:SHOWN_PATCHES]:
        versions = [("as it is", unchanged, draw)]
        versions += [
            (title, augmented_ones, replace(draw, deformed=deformed))
            for title, deformed in (("augmented", False), ("deformed copy", True))
        ]
        rows.append([SheetCell(title, source[d].images, source[d].targets[0]) for title, source, d in versions])
        names.append(f"{training[draw.patch].slide_id} ({training[draw.patch].x}, {training[draw.patch].y})")
    picture = draw_batch_sheet(rows, names, dataset.class_map, dataset.patch_spec)
    with new_file(path) as temporary:
        temporary.write_bytes(picture)


def by_class(values: NDArray[np.float64], class_map: ClassMap) -> dict[str, float | None]:
    """Figures by class name; None where a class has no value."""
    return {
        name: None if math.isnan(v) else round(float(v), 6) for name, v in zip(class_map.names, values, strict=True)
    }


def say_plan(
    plan: TrainingPlan,
    module: SupervisedBranches,
    device: torch.device,
    processes: int,
    class_map: ClassMap,
    reporter: Reporter,
) -> None:
    """Prints what is about to happen."""
    options, parameters = plan.options, sum(p.numel() for p in module.stemmed.parameters())
    reporter.heading(f"Training {plan.network.architecture} (width {plan.network.width}, {parameters:,} parameters)")
    several = f" in {processes} processes" if processes > 1 else ""
    reporter.say(
        f"  {len(plan.training)} training and {len(plan.validation)} validation patches, {len(class_map)} classes; "
        f"{options.epochs} epochs of {plan.steps_per_epoch} steps of {options.batch_size} patches, "
        f"{device.type}{several}, {options.precision}, preset {options.preset}"
    )
    if plan.balance is not None:
        reporter.table(*plan.balance.rows())


def say_cache(batches: DataLoader[Example | WideExample], reporter: Reporter) -> None:
    """Prints how much decoded tissue training comes back to, and how much of it is kept."""
    examples, processes = batches.dataset, max(1, batches.num_workers)
    assert isinstance(examples, PatchExamples)
    who = "the reading process" if processes == 1 else f"each of {processes} reading processes"
    reporter.say(
        f"  tissue around the training patches: {examples.tiles_bytes() / MIB:,.0f} MiB decoded, of which {who} keeps "
        f"{examples.cache_bytes // MIB:,} MiB at most (--cache)"
    )


def step_note(loss: float, optimizer: torch.optim.Optimizer, batch_size: int, seconds: float) -> str:
    """``loss 0.412  rate 4.1e-03  12 patches/s  0.9 GiB``."""
    rate = optimizer.param_groups[0]["lr"]
    speed = f"  {batch_size / seconds:.1f} patches/s" if seconds > 0 else ""
    return f"loss {loss:.3f}  rate {rate:.1e}{speed}  {memory_gib():.1f} GiB"


def memory_gib() -> float:
    """Most memory that this process has held: of the GPU where there is one in use, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def agreed(requested: bool, fabric: Fabric) -> bool:
    """Whether any of the processes was asked to stop; all stop after the same step."""
    if fabric.world_size == 1:
        return requested
    return bool(mean_of_processes(torch.tensor(float(requested), device=fabric.device), fabric) > 0)


class StopRequest:
    """Turns Ctrl-C and SIGTERM (a cluster's farewell) into a wish that is granted between two steps.

    A second Ctrl-C stops at once; what was saved last then counts.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            with suppress(ValueError):
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
