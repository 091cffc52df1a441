"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dmmn_qp.cli.config import TrainOptions
from dmmn_qp.console import Reporter, duration
from dmmn_qp.errors import DatasetError, OutputExistsError, TrainingError
from dmmn_qp.files import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import CARD, InputConvention, ModelCard, is_whole, load_model, save_model
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.labels.draws import Draw, class_weights
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.devices import choose_device, mean_of_processes, memory_gib, network_inputs, predicted_labels
from dmmn_qp.networks.losses import supervised_losses
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.reports.training_report import PatchVerdict, draw_verdict, write_training_report
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.training.examples import EpochDraws, Example, WideExample, augmented, make_loader
from dmmn_qp.training.fine_tuning import freeze_encoders
from dmmn_qp.training.log import TrainingLog
from dmmn_qp.training.plan import (
    TrainingPlan,
    make_batches,
    make_fabric,
    make_module,
    make_optimizer,
    make_plan,
    say_plan,
    validation_examples,
)
from dmmn_qp.training.state import STATE, TrainingState, dataset_digest, load_state, save_state

GRADIENT_NORM = 1.0
EPOCHS_OF_COLLAPSE = 3
"""So many epochs with a single predicted class are worth a warning."""

_WATCHED = 6
"""So many validation patches are drawn after every epoch."""
_EXAMPLES = 4
"""So many of the best and of the worst validation patches are in the report."""


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
    module = make_module(plan, dataset).to(fabric.device)  # before its optimiser, whose state goes where weights are
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
    training_batches, epoch_draws, validation_batches = make_batches(dataset, plan, fabric, slides_roots, reporter)
    weights = torch.from_numpy(class_weights(plan.draws.label_counts, options.class_weights)).to(fabric.device)
    compiled: nn.Module = torch.compile(module) if options.compile else module  # type: ignore[assignment]
    model, fabric_optimizer = fabric.setup(compiled, optimizer)

    def keep_state(epoch: int, step: int, losses: list[float]) -> None:
        if first:
            state.epoch, state.step, state.losses = epoch, step, losses
            state.seconds = seconds_before + time.monotonic() - clock
            state.tensors = snapshot(module, optimizer, schedule)
            save_state(out, state)

    if first and not resume:
        state.tensors = snapshot(module, optimizer, schedule)
        begin(out, state, overwrite=overwrite)
    log = TrainingLog(out, class_map, plan.steps_per_epoch, state) if first else None
    last_saved = time.monotonic()

    with StopRequest() as stop:
        for epoch in range(state.epoch, options.epochs + 1):
            losses = list(state.losses) if epoch == state.epoch else []
            epoch_draws.start(epoch, skip=len(losses) * options.batch_size // fabric.world_size)
            module.train()
            freeze_encoders(module.stemmed, options.freeze)
            with reporter.task(f"epoch {epoch}/{options.epochs}", plan.steps_per_epoch, done=len(losses)) as task:
                for drawn in training_batches:
                    batch = augmented(drawn, dataset.patch_spec.size_px, fabric.device)
                    images = network_inputs(batch.images, plan.convention, fabric.device)  # M x (B, 3, S, S)
                    targets = batch.targets.to(fabric.device).long()  # (B, M or 1, S, S)
                    fabric_optimizer.zero_grad(set_to_none=True)
                    try:
                        loss, with_branches = supervised_losses(
                            model(images),
                            targets,
                            weights,
                            options.loss_mean,
                            options.branch_loss,
                            lambda value: mean_of_processes(value, fabric),
                        )
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

            metrics, picture = validate(module, validation_batches, plan, class_map, fabric)
            elapsed = seconds_before + time.monotonic() - clock
            if log is not None:
                row = log.epoch(epoch, losses, optimizer.param_groups[0]["lr"], metrics, elapsed, picture)
                improved = metrics.mean_iou > state.best or not is_whole(out)
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


def look(
    network: Callable[[list[Tensor]], Tensor],
    batches: DataLoader[Example | WideExample],
    patches: Sequence[PatchRef],
    n_classes: int,
    convention: InputConvention,
    device: torch.device,
) -> Iterator[PatchVerdict]:
    """What a network in evaluation mode makes of patches, one after the other.

    Args:
        network: Images -> logits (B, C, S, S).
        batches: The patches as they are, in their order.
        patches: Their index.
        n_classes: Number of classes C.
        convention: How pixels become the network's input.
        device: Where it computes.
    """
    remaining = iter(patches)
    with torch.inference_mode():
        for batch in batches:
            predicted = predicted_labels(network(network_inputs(batch.images, convention, device)), n_classes)
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
    module: SupervisedBranches,
    batches: DataLoader[Example | WideExample],
    plan: TrainingPlan,
    class_map: ClassMap,
    fabric: Fabric,
) -> tuple[Metrics, NDArray[np.uint8]]:
    """Metrics on the labelled pixels of the validation patches, and a picture of some of them.

    Each process looks at its part, of whatever length, through the bare module: wrapped for several processes, it would
    wait for the others at every call. The statistics of its normalisation are those of the first process, which are
    the ones that are kept.
    """
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)
    mine = plan.validation[fabric.global_rank :: fabric.world_size]
    watched = range(0, len(mine), max(1, len(mine) // _WATCHED))
    confusion = np.zeros((len(class_map), len(class_map)), np.int64)
    rows: list[NDArray[np.uint8]] = []
    module.eval()

    def logits(images: list[Tensor]) -> Tensor:
        with fabric.autocast():
            own: Tensor = module(images)[0]
            return own

    verdicts = look(logits, batches, mine, len(class_map), plan.convention, fabric.device)
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


def begin(out: Path, state: TrainingState, *, overwrite: bool) -> None:
    """Makes the model folder, with a training in it that can be resumed; only then what was there is removed."""
    check_out(out, overwrite=overwrite)
    with new_folder(out, overwrite=overwrite, marker=STATE if (out / STATE).is_file() else CARD) as folder:
        write_json(folder / RUN_FILE, state.run)
        save_state(folder, state)


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
        licence=plan.licence,
        attribution=plan.attribution,
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
    examples = validation_examples(dataset, plan, slides_roots)
    draws = [Draw(i, seed=0) for i in range(len(plan.validation))]
    batches = make_loader(examples, EpochDraws(lambda _: draws), plan.options.batch_size, workers=0)
    card, network = load_model(out)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    confusion = np.zeros((len(dataset.class_map), len(dataset.class_map)), np.int64)
    verdicts: list[PatchVerdict] = []
    for verdict in look(network, batches, plan.validation, len(card.class_map), plan.convention, device):
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


def by_class(values: NDArray[np.float64], class_map: ClassMap) -> dict[str, float | None]:
    """Figures by class name; None where a class has no value."""
    return {
        name: None if math.isnan(v) else round(float(v), 6) for name, v in zip(class_map.names, values, strict=True)
    }


def step_note(loss: float, optimizer: torch.optim.Optimizer, batch_size: int, seconds: float) -> str:
    """``loss 0.412  rate 4.1e-03  12 patches/s  0.9 GiB``."""
    rate = optimizer.param_groups[0]["lr"]
    speed = f"  {batch_size / seconds:.1f} patches/s" if seconds > 0 else ""
    return f"loss {loss:.3f}  rate {rate:.1e}{speed}  {memory_gib():.1f} GiB"


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
