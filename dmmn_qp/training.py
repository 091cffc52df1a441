"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.balance import Draw, class_balanced_draws, class_weights, shuffled_draws
from dmmn_qp.checkpoint import CARD, InputConvention, ModelCard, NetworkOptions, save_model
from dmmn_qp.config import TrainOptions
from dmmn_qp.dataset import Dataset
from dmmn_qp.devices import autocast, available_cores, choose_bf16, choose_device, network_inputs, predicted_labels
from dmmn_qp.errors import DatasetError
from dmmn_qp.losses import partial_cross_entropy
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.outputs import RUN_FILE, check_free, new_file, new_folder, write_json
from dmmn_qp.patches import PatchRef, training_pixels
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.reporting import Reporter, duration
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import ClassMap
from dmmn_qp.torch_dataset import EpochDraws, Example, PatchExamples, make_loader

WIDTH_ON_CPU = 8
GRADIENT_NORM = 1.0
WARM_UP = 0.15


def train(
    dataset_folder: Path,
    out: Path,
    options: TrainOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    slides_roots: Sequence[SlidesRoot] = (),
) -> Path:
    """Trains a model and keeps the epoch with the highest mIoU on the validation slides.

    Args:
        dataset_folder: A dataset of `dmmn-qp import`.
        out: The model folder to write; it appears after the first epoch and is replaced by better ones.
        options: Resolved options.
        reporter: Where to report.
        overwrite: Whether an existing model may be replaced.
        slides_roots: Where to look for slides that have been moved.

    Returns:
        ``out``.

    Raises:
        DatasetError: The dataset is missing, damaged, or has a class without a training pixel.
        SlideError: A slide cannot be found or read.
        OutputExistsError: ``out`` exists.
        ConfigError: The device is not there.
    """
    started, clock = now(), time.monotonic()
    check_free(out, overwrite=overwrite, marker=CARD)
    dataset = Dataset(dataset_folder)
    for record in dataset.slides():
        if record.split != "test":
            dataset.locate(record, slides_roots)
    patches = dataset.patches()
    training = [p for p in patches if p.split == "train"]
    validation = [p for p in patches if p.split == "val"]
    label_counts = training_pixels(patches, dataset.class_map)
    if not validation:
        reporter.warn("no validation slide: the best epoch is chosen on the training slides, which flatters it")
        validation = training

    device = choose_device(options.device)
    bf16 = choose_bf16(options.precision, device)
    width = options.width or default_width(options, device)
    torch.manual_seed(options.seed)
    kind = NetworkOptions(architecture=options.architecture, width=width, norm=options.norm, stem=options.stem)
    network = build_network(
        kind.architecture,
        classes=len(dataset.class_map),
        width=kind.width,
        magnifications=len(dataset.patch_spec.mpps),
        size_px=dataset.patch_spec.size_px,
        norm=kind.norm,
        stem=kind.stem,
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    convention = InputConvention()
    weights = torch.from_numpy(class_weights(label_counts, options.class_weights)).to(device)
    steps_per_epoch = options.steps_per_epoch or math.ceil(len(training) / options.batch_size)
    total_steps = options.epochs * steps_per_epoch
    optimizer, schedule = make_optimizer(network, options, total_steps)
    workers = options.workers if options.workers is not None else min(8, available_cores() // 2)

    parameters = sum(p.numel() for p in network.parameters())
    reporter.heading(f"Training {kind.architecture} (width {width}, {parameters:,} parameters)")
    reporter.say(
        f"  {len(training)} training and {len(validation)} validation patches, {len(dataset.class_map)} classes; "
        f"{options.epochs} epochs of {steps_per_epoch} steps of {options.batch_size} patches, "
        f"{device.type}, {'bf16' if bf16 else 'fp32'}, preset {options.preset}"
    )

    training_draws = EpochDraws(
        lambda epoch: draw_epoch(training, steps_per_epoch * options.batch_size, options, epoch)
    )
    training_batches = make_loader(
        PatchExamples(
            dataset,
            training,
            augment=True,
            jitter_px=options.jitter_px,
            slides_roots=slides_roots,
            reduction=convention.reduction,
        ),
        training_draws,
        options.batch_size,
        workers,
    )
    validation_batches = make_loader(
        PatchExamples(dataset, validation, augment=False, slides_roots=slides_roots, reduction=convention.reduction),
        EpochDraws(lambda _: [Draw(i, seed=0) for i in range(len(validation))]),
        options.batch_size,
        min(workers, 1),
    )

    best = -1.0
    history: list[dict[str, float]] = []
    for epoch in range(1, options.epochs + 1):
        training_draws.epoch = epoch
        losses: list[float] = []
        network.train()
        with reporter.task(f"epoch {epoch}/{options.epochs}", steps_per_epoch) as task:
            for batch in training_batches:
                images = network_inputs(batch.images, convention, device)  # M x (B, 3, S, S)
                target = batch.target.to(device).long()  # (B, S, S)
                with autocast(device, bf16):
                    logits: Tensor = network(images)  # (B, C, S, S)
                loss = partial_cross_entropy(logits, target, weights, options.loss_mean)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if options.optimizer == "adamw":
                    nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                losses.append(loss.item())
                task.advance(note=f"loss {losses[-1]:.3f}")

        metrics = validate(network, validation_batches, len(dataset.class_map), convention, device, bf16)
        mean_loss = float(np.mean(losses))
        if not math.isfinite(mean_loss):
            raise DatasetError(
                f"the loss became {mean_loss} in epoch {epoch}; train with a lower --learning-rate "
                f"(it was {options.learning_rate:g})"
            )
        elapsed = time.monotonic() - clock
        history.append(history_row(epoch, mean_loss, optimizer, metrics, dataset.class_map, elapsed))
        improved = metrics.mean_iou > best
        reporter.say(
            f"  epoch {epoch:>{len(str(options.epochs))}}/{options.epochs}  loss {mean_loss:.3f}  "
            f"val mIoU {metrics.mean_iou:.3f}{' (best)' if improved else ''}  "
            f"ETA {duration(elapsed / epoch * (options.epochs - epoch))}"
        )
        if improved:
            best = metrics.mean_iou
            run = describe_run(
                "train", options.model_dump(mode="json"), started, device=str(device), bf16=bf16, epoch=epoch
            )
            card = ModelCard(
                name=out.name,
                network=kind,
                class_map=dataset.class_map,
                patch_spec=dataset.patch_spec,
                input=convention,
                validation={
                    "epoch": epoch,
                    "mean_iou": metrics.mean_iou,
                    "mean_recall": metrics.mean_recall,
                    "mean_precision": metrics.mean_precision,
                    "iou": by_class(metrics.iou, dataset.class_map),
                },
                provenance={
                    "run_id": run["run_id"],
                    "version": run["version"],
                    "slides": [r.slide_id for r in dataset.slides("train")],
                },
                created=now(),
            )
            keep(out, card, network, run, overwrite=overwrite)
            overwrite = True  # from now on the folder is this run's own
        if out.exists():
            write_history(out / "history.csv", history)
    reporter.say(f"  best validation mIoU {best:.3f}, after {duration(time.monotonic() - clock)}")
    return out


def default_width(options: TrainOptions, device: torch.device) -> int:
    """The paper's base width of the architecture; a narrow one on a CPU, but for the preset ``paper``."""
    if (device.type == "cpu" and options.preset != "paper") or options.architecture not in ARCHITECTURES:
        return WIDTH_ON_CPU
    return ARCHITECTURES[options.architecture].paper_width


def draw_epoch(patches: Sequence[PatchRef], length: int, options: TrainOptions, epoch: int) -> list[Draw]:
    """The draws of one epoch by the sampler asked for."""
    if options.sampler == "balanced":
        return class_balanced_draws(patches, length, options.seed, epoch)
    return shuffled_draws(len(patches), length, options.seed, epoch)


def make_optimizer(
    network: nn.Module, options: TrainOptions, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """SGD with a constant rate (section 2.5), or AdamW with a one-cycle rate."""
    if options.optimizer == "sgd":
        sgd = torch.optim.SGD(
            network.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        return sgd, None
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases and normalisation are not decayed
    adamw = torch.optim.AdamW(
        [{"params": kernels, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adamw, options.learning_rate, total_steps=total_steps, pct_start=WARM_UP
    )
    return adamw, schedule


def validate(
    network: nn.Module,
    batches: DataLoader[Example],
    n_classes: int,
    convention: InputConvention,
    device: torch.device,
    bf16: bool,
) -> Metrics:
    """Metrics on the labelled pixels of patches as they are."""
    confusion = np.zeros((n_classes, n_classes), np.int64)
    network.eval()
    with torch.inference_mode(), autocast(device, bf16):
        for batch in batches:
            logits = network(network_inputs(batch.images, convention, device))
            predicted = predicted_labels(logits, n_classes).cpu().numpy()
            confusion += confusion_matrix(batch.target.numpy(), predicted, n_classes)
    return Metrics.from_confusion(confusion)


def by_class(values: np.ndarray[tuple[int], np.dtype[np.float64]], class_map: ClassMap) -> dict[str, float | None]:
    """Figures by class name; None where a class has no value."""
    return {
        name: None if math.isnan(v) else round(float(v), 6) for name, v in zip(class_map.names, values, strict=True)
    }


def history_row(
    epoch: int,
    loss: float,
    optimizer: torch.optim.Optimizer,
    metrics: Metrics,
    class_map: ClassMap,
    seconds: float,
) -> dict[str, float]:
    """One row of ``history.csv``."""
    return {
        "epoch": epoch,
        "loss": round(loss, 6),
        "learning_rate": optimizer.param_groups[0]["lr"],
        "val_mean_iou": round(metrics.mean_iou, 6),
        "val_mean_recall": round(metrics.mean_recall, 6),
        "val_mean_precision": round(metrics.mean_precision, 6),
        **{f"val_iou {name}": float(v) for name, v in zip(class_map.names, metrics.iou.round(6), strict=True)},
        "seconds": round(seconds, 1),
    }


def write_history(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Writes ``history.csv``."""
    with new_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def keep(out: Path, card: ModelCard, network: nn.Module, run: dict[str, object], *, overwrite: bool) -> None:
    """Writes the model so that the folder is complete at every moment."""
    with new_folder(out, overwrite=overwrite, marker=CARD) as folder:
        save_model(folder, card, network)
        write_json(folder / RUN_FILE, run)
