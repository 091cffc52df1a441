"""`dmmn-qp train`: a dataset -> a model folder (paper, section 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from dmmn_qp.console import Reporter, duration
from dmmn_qp.errors import DatasetError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.files.renaming import remove
from dmmn_qp.folders.dataset import Dataset, dataset_digest, slides_by_split
from dmmn_qp.folders.model import is_whole
from dmmn_qp.folders.model_glance import DATASET_DIGEST
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.networks.devices import choose_device, computing
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.reports.html import REPORT_PAGE
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.training import judging
from dmmn_qp.training.announcing import say_plan
from dmmn_qp.training.checks import check_same_training, explained, step_note, warn_of_collapse
from dmmn_qp.training.domain import describe_training_slides
from dmmn_qp.training.examples import EpochDraws
from dmmn_qp.training.fine_tuning import Inherited, as_kept
from dmmn_qp.training.frozen import HeadTraining
from dmmn_qp.training.head import RATE as HEAD_RATE
from dmmn_qp.training.launch import make_fabric
from dmmn_qp.training.learner import Learner
from dmmn_qp.training.log import TrainingLog, history_row, wants_events
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.outcome import miou_text, say_outcome
from dmmn_qp.training.output import Checkpoints, check_out, save_as_model
from dmmn_qp.training.plan import TrainingPlan, make_batches, make_plan
from dmmn_qp.training.reading import Batches
from dmmn_qp.training.state import STATE, TrainingState, load_state
from dmmn_qp.training.stopping import StopRequest, agreed
from dmmn_qp.training.validation import Validation, validate, write_report
from dmmn_qp.training.verdict import give_verdict


def train(
    dataset_folder: Path,
    out: Path,
    options: TrainOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    resume: bool = False,
    accept: bool = False,
    slides_roots: Sequence[SlidesRoot] = (),
) -> Path:
    """Trains a model and keeps the epoch with the highest mIoU on the validation slides.

    A model that it starts from takes part as if it were an epoch before the first, and what came of the training is
    compared with it at the end: where anything is clearly worse, the new model's card says that it is not accepted.
    What only shows the training, such as pictures, logs and the report, never ends it.

    The state of the training is on disk after every epoch and every few minutes: stopped in whatever way, it goes on
    with ``resume`` to the same weights, bit for bit on a CPU.

    Args:
        dataset_folder: A dataset of `dmmn-qp import`.
        out: The model folder, which the caller holds: `dmmn_qp.training.holding`. It is a model from the first epoch
            on, and better ones replace it.
        options: Resolved options; with ``resume`` those of the interrupted training.
        reporter: Where to report.
        overwrite: Whether an existing model may be replaced.
        resume: Whether to go on with the training that was interrupted in ``out``.
        accept: Whether to accept the model whatever is worse than with the one that it started from.
        slides_roots: Where to look for slides that have been moved.

    Returns:
        ``out``.

    Raises:
        DatasetError: The dataset is missing, damaged, or has a class without a training pixel.
        SlideError: A slide cannot be found or read.
        OutputExistsError: ``out`` exists.
        ConfigError: The device is not there, or the variables of a launcher are wrong.
        ModelError: There is nothing to resume, or the model to start from does not fit.
        TrainingError: The loss is no longer a finite number, memory or disk do not suffice, or a process is lost.
        KeyboardInterrupt: It was asked to stop; the message says how to go on.
    """
    with explained(out), ExitStack() as at_the_end:
        _train(
            dataset_folder,
            out,
            options,
            reporter,
            at_the_end,
            overwrite=overwrite,
            resume=resume,
            accept=accept,
            slides_roots=slides_roots,
        )
    return out


def _train(
    dataset_folder: Path,
    out: Path,
    options: TrainOptions,
    reporter: Reporter,
    at_the_end: ExitStack,
    *,
    overwrite: bool,
    resume: bool,
    accept: bool,
    slides_roots: Sequence[SlidesRoot],
) -> None:
    started, events = now(), wants_events(options.tensorboard)
    if not resume:
        check_out(out, overwrite=overwrite)
    dataset = Dataset(dataset_folder)
    for record in dataset.slides():
        if record.split != "test":
            dataset.locate(record, slides_roots)
    device = choose_device(options.device)
    before = _interrupted(out, dataset_folder) if resume else None
    plan = make_plan(dataset, options, device, reporter, kept=None if before is None else before.inherited)
    at_the_end.enter_context(computing(plan.options.threads))
    fabric = make_fabric(plan.options, device)
    first = fabric.global_rank == 0

    learner = Learner(dataset, plan, fabric, goes_on=before is not None)
    state = before or _new_state(plan, dataset_folder, device, started)
    if before is not None:
        check_same_training(before.run, fabric)
        learner.restore(before)
    checkpoints = Checkpoints(out, state, learner.snapshot, minutes=plan.options.save_minutes, writes=first)

    say_plan(plan, learner.module, device, fabric.world_size, dataset, reporter)
    head = None
    if isinstance(learner.kept.stemmed.network, DmmnP):
        head = HeadTraining(dataset, plan, learner.kept.stemmed, fabric, slides_roots, reporter)
    batches, draws, validation_batches = make_batches(dataset, plan, fabric, slides_roots, reporter)
    at_the_end.callback(batches.close)
    at_the_end.callback(validation_batches.close)
    learner.set_up()

    def judge() -> Validation:
        return head.validate() if head else validate(learner.kept, validation_batches, plan, dataset.class_map, fabric)

    start: Validation | None = None
    if plan.start is not None and (state.epoch, state.step) == (1, 0):
        start = judge()
        state.start_mean_iou = start.metrics.mean_iou
        state.start = {name: tensor.cpu().clone() for name, tensor in learner.kept.stemmed.state_dict().items()}
    if not resume:
        checkpoints.begin(overwrite=overwrite)
    steps = plan.steps_per_epoch
    log = TrainingLog(out, dataset.class_map, steps, state, reporter, events=events) if first else None
    run = _Run(out, dataset, plan, fabric, learner, state, checkpoints, log, reporter)
    if start is not None and log is not None:
        reporter.say(f"  {miou_text(start.metrics, ' before the first step')}")
        _keep_if_best(run, 0, start)
    if head is not None and state.epoch <= plan.rounds:
        _train_head(run, head)

    with StopRequest() as stop:
        for epoch in range(max(state.epoch, plan.rounds + 1), plan.last_epoch + 1):
            losses = _train_epoch(run, epoch, batches, draws, stop)
            validation = judge()
            if log is not None:
                _end_epoch(run, log, epoch, losses, learner.learning_rate, validation)
            state.losses = []
            if epoch < plan.last_epoch:
                checkpoints.save(epoch + 1, [])

    if log is not None:
        _conclude(run, log, head, slides_roots, accept=accept)
    fabric.barrier()


@dataclass(frozen=True, slots=True)
class _Run:
    """A training under way; ``log`` is None in all processes but the first."""

    out: Path
    dataset: Dataset
    plan: TrainingPlan
    fabric: Fabric
    learner: Learner
    state: TrainingState
    checkpoints: Checkpoints
    log: TrainingLog | None
    reporter: Reporter


def _new_state(plan: TrainingPlan, dataset_folder: Path, device: torch.device, started: str) -> TrainingState:
    options = plan.options.model_dump(mode="json")
    balance = None if plan.balance is None else plan.balance.model_dump(mode="json")
    slides = slides_by_split(Dataset(dataset_folder).slides())
    digest = dataset_digest(dataset_folder)
    facts = {"device": str(device), "balance": balance, "slides": slides, DATASET_DIGEST: digest}
    facts["dataset"] = str(dataset_folder.absolute())
    if plan.start is not None:
        facts["start_weights"] = plan.start.weights_sha256
    run = describe_run("train", options, started, **facts)
    inherited = as_kept(Inherited(plan.network, plan.convention, plan.licence, plan.attribution, plan.start))
    return TrainingState(options, run, str(dataset_folder.absolute()), digest, inherited=inherited)


def _interrupted(out: Path, dataset_folder: Path) -> TrainingState:
    """The state of an interrupted training, if the dataset is still the same."""
    state = load_state(out)
    if state.dataset_digest != dataset_digest(dataset_folder):
        raise DatasetError(
            f'dataset "{dataset_folder}" has changed since this training began; train anew without --resume, '
            "or with --overwrite"
        )
    return state


def _train_head(run: _Run, head: HeadTraining) -> None:
    """Trains the head, in the first process; all others get it from there.

    Stopped, it begins anew: what takes long is on disk.
    """
    run.state.history, run.state.best = [], max(run.state.start_mean_iou or -1.0, -1.0)
    if run.log is not None:
        try:
            for done in head.rounds():
                run.state.head = {"steps": done.fitted.steps, "self_training": done.added or "none"}
                _end_epoch(run, run.log, done.number, [done.fitted.loss], HEAD_RATE, done.validation)
                if done.added:
                    run.reporter.say(f"    {done.added}")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"stopped while the head learned; go on with dmmn-qp train --resume --out {run.out}"
            ) from None
    if run.fabric.world_size > 1:
        for tensor in run.learner.kept.state_dict().values():
            torch.distributed.broadcast(tensor, src=0)
    run.learner.take_kept()
    if run.plan.epochs:
        run.checkpoints.save(run.plan.rounds + 1, [])


def _train_epoch(run: _Run, epoch: int, batches: Batches, draws: EpochDraws, stop: StopRequest) -> list[float]:
    """Trains for one epoch, or for the rest of the one that was interrupted.

    Returns:
        The loss of each step.
    """
    options, learner, steps = run.plan.options, run.learner, run.plan.steps_per_epoch
    losses = list(run.state.losses) if epoch == run.state.epoch else []
    draws.start(epoch, skip=len(losses) * options.batch_size // run.fabric.world_size)
    learner.start_epoch()
    after = run.plan.steps_after(epoch)
    with run.reporter.task(f"epoch {epoch}/{run.plan.last_epoch}", steps, done=len(losses), after=after) as task:
        for drawn in batches:
            losses.append(learner.step(drawn, epoch, len(losses)))
            task.advance(note=step_note(losses[-1], learner.optimizer, options.batch_size, task.seconds_per_unit))
            if run.log is not None:
                run.log.step(epoch, len(losses), losses[-1], learner.learning_rate)
            if run.checkpoints.is_due():
                run.checkpoints.save(epoch, losses)
            if agreed(stop.requested, run.fabric):
                run.checkpoints.save(epoch, losses)
                raise KeyboardInterrupt(
                    f"stopped in epoch {epoch} after {len(losses)} of {steps} steps; go on with "
                    f"dmmn-qp train --resume --out {run.out}"
                )
    return losses


def _end_epoch(
    run: _Run, log: TrainingLog, epoch: int, losses: list[float], learning_rate: float, validation: Validation
) -> None:
    """Keeps an epoch's network as the model if none before was better; only then says and logs what came of it."""
    plan, state, elapsed, metrics = run.plan, run.state, run.checkpoints.elapsed(), validation.metrics
    names = run.dataset.class_map.names
    state.history.append(history_row(epoch, losses, learning_rate, metrics, elapsed, names))
    improved = _keep_if_best(run, epoch, validation)
    what = "round" if epoch <= plan.rounds else "epoch"
    run.reporter.say(
        f"  {what} {epoch:>{len(str(plan.last_epoch))}}/{plan.last_epoch}  loss {state.history[-1]['loss']:.3f}  "
        f"{miou_text(metrics)}{' (best)' if improved else ''}  "
        f"ETA {duration(elapsed / epoch * (plan.last_epoch - epoch))}"
    )
    log.epoch(epoch, metrics, validation.watched)
    warn_of_collapse(log.only_class, plan.options, run.dataset.folder / REPORT_PAGE, run.reporter)


def _keep_if_best(run: _Run, epoch: int, validation: Validation) -> bool:
    """Whether a network is better than all before, and so became the model."""
    state, metrics = run.state, validation.metrics
    improved = metrics.mean_iou > state.best or state.best < 0 or not is_whole(run.out)  # another's is no rival
    if improved:
        state.best = metrics.mean_iou
        state.kept = judging.as_kept(epoch, metrics.confusion, validation.shown) | {"head": state.head}
        save_as_model(run.out, run.plan, run.dataset, run.learner.kept, metrics, state, epoch)
    return improved


def _conclude(
    run: _Run, log: TrainingLog, head: HeadTraining | None, slides_roots: Sequence[SlidesRoot], *, accept: bool
) -> None:
    """Says what came of the training, writes its report, and removes what it could be resumed from."""
    log.close()
    state, reporter = run.state, run.reporter
    state.seconds = run.checkpoints.elapsed()
    write_json(run.out / RUN_FILE, {**state.run, "finished": now(), "seconds": round(state.seconds, 1)})
    if state.kept:
        metrics = Metrics.from_confusion(state.kept["confusion"].numpy())
        say_outcome(metrics, run.plan, run.dataset.class_map, state.seconds, reporter)
    else:  # the best epoch is from an earlier version, which kept no figures
        reporter.say(f"  best validation mIoU {state.best:.3f}, after {duration(state.seconds)}")
    if run.plan.start is not None and state.kept.get("epoch") == 0:
        reporter.warn(
            f'no epoch was better than model "{run.plan.start.model}", which this training started from; the weights '
            "that are kept are that model's"
        )
    worse: list[str] = []
    if run.plan.start is not None:
        comparison = f'the comparison with model "{run.plan.start.model}", without which the new one is not accepted,'
        with reporter.optional(comparison):
            roots = tuple(slides_roots)
            worse = give_verdict(
                run.out, run.dataset, run.plan, state, run.fabric, head, roots, reporter, accept=accept
            )
    with reporter.optional("what the card says of the training slides"):
        describe_training_slides(run.out, run.dataset, run.plan, run.fabric.device, slides_roots, reporter)
    with reporter.optional(f'"{run.out / REPORT_PAGE}"'):
        write_report(run.out, run.dataset, run.plan, state, slides_roots, worse)
    remove(run.out / STATE)
