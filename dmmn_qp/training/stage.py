"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dmmn_qp.console import Reporter, duration
from dmmn_qp.errors import DatasetError, TrainingError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import is_whole
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.labels.draws import class_weights
from dmmn_qp.networks.conventions import network_inputs
from dmmn_qp.networks.devices import choose_device, mean_of_processes
from dmmn_qp.networks.losses import supervised_losses
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.training.checks import check_loss, step_note, too_large, warn_of_collapse
from dmmn_qp.training.examples import augmented
from dmmn_qp.training.fine_tuning import freeze_encoders
from dmmn_qp.training.log import TrainingLog
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.output import begin, check_out, keep
from dmmn_qp.training.plan import make_batches, make_fabric, make_module, make_optimizer, make_plan, say_plan
from dmmn_qp.training.state import STATE, TrainingState, dataset_digest, load_state, restore, save_state, snapshot
from dmmn_qp.training.stopping import StopRequest, agreed
from dmmn_qp.training.validation import validate, write_report

GRADIENT_NORM = 1.0


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
                warn_of_collapse(log.only_class, options, reporter)
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
