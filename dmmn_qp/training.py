"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dmmn_qp.architectures import ARCHITECTURES, build_network
from dmmn_qp.augment import AugmentRules
from dmmn_qp.balance import Draw, ElasticRule, TrainingDraws, balance_counts, class_weights
from dmmn_qp.checkpoint import CARD, InputConvention, ModelCard, NetworkOptions, save_model
from dmmn_qp.config import TrainOptions
from dmmn_qp.dataset import Dataset
from dmmn_qp.devices import autocast, available_cores, choose_bf16, choose_device, network_inputs
from dmmn_qp.errors import DatasetError
from dmmn_qp.losses import partial_cross_entropy
from dmmn_qp.metrics import Metrics, confusion_matrix
from dmmn_qp.outputs import RUN_FILE, check_free, new_file, new_folder, write_json
from dmmn_qp.patches import PatchRef, training_pixels
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.reporting import Reporter, duration
from dmmn_qp.reports.batch_sheet import SheetCell, draw_batch_sheet
from dmmn_qp.slides.cached import DEFAULT_BUDGET_BYTES, MIB
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import ClassMap
from dmmn_qp.torch_dataset import EpochDraws, Example, PatchExamples, WideExample, augmented, make_loader

WIDTH_ON_CPU = 8
GRADIENT_NORM = 1.0
WARM_UP = 0.15
SHOWN_PATCHES = 6


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
    training_pixels(patches, dataset.class_map)
    draws = training_draws(training, dataset.class_map, options)
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
    weights = torch.from_numpy(class_weights(draws.label_counts, options.class_weights)).to(device)
    steps_per_epoch = options.steps_per_epoch or math.ceil(draws.pass_length / options.batch_size)
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

    if draws.elastic is not None:
        reporter.table(*balance_counts(patches, dataset.class_map, draws.elastic).rows())

    epoch_draws = EpochDraws(lambda epoch: draws.of_epoch(epoch, steps_per_epoch * options.batch_size))
    size_px = dataset.patch_spec.size_px
    cache_bytes = DEFAULT_BUDGET_BYTES if options.cache_mib is None else options.cache_mib * MIB
    examples = PatchExamples(
        dataset,
        training,
        augment=AugmentRules(options.color, options.zoom),
        jitter_px=options.jitter_px,
        wide=device.type == "cuda",
        slides_roots=slides_roots,
        cache_bytes=cache_bytes,
    )
    reporter.say(
        f"  tissue around the training patches: {examples.tiles_bytes() / MIB:,.0f} MiB decoded; each of "
        f"{max(1, workers)} reading processes keeps {cache_bytes // MIB:,} MiB at most (--cache)"
    )
    training_batches = make_loader(examples, epoch_draws, options.batch_size, workers)
    validation_batches = make_loader(
        PatchExamples(dataset, validation, augment=None, slides_roots=slides_roots),
        EpochDraws(lambda _: [Draw(i, seed=0) for i in range(len(validation))]),
        options.batch_size,
        min(workers, 1),
    )

    best = -1.0
    history: list[dict[str, float]] = []
    for epoch in range(1, options.epochs + 1):
        epoch_draws.epoch = epoch
        losses: list[float] = []
        network.train()
        with reporter.task(f"epoch {epoch}/{options.epochs}", steps_per_epoch) as task:
            for drawn in training_batches:
                batch = augmented(drawn, size_px, device)
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
        rows.append([SheetCell(title, *source[d][:2]) for title, source, d in versions])
        names.append(f"{training[draw.patch].slide_id} ({training[draw.patch].x}, {training[draw.patch].y})")
    picture = draw_batch_sheet(rows, names, dataset.class_map, dataset.patch_spec)
    with new_file(path) as temporary:
        temporary.write_bytes(picture)


def default_width(options: TrainOptions, device: torch.device) -> int:
    """The paper's base width of the architecture; a narrow one on a CPU, but for the preset ``paper``."""
    if (device.type == "cpu" and options.preset != "paper") or options.architecture not in ARCHITECTURES:
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
    batches: DataLoader[Example | WideExample],
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
            predicted = (logits.argmax(dim=1) + 1).to(torch.uint8).cpu().numpy()
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
