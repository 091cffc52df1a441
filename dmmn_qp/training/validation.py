"""How good the network is on the validation patches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from dmmn_qp.console import duration
from dmmn_qp.errors import TrainingError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_card
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.conventions import InputConvention, network_inputs, predicted_labels
from dmmn_qp.networks.devices import mean_of_processes
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.reports.training_report import PatchVerdict, StartedFrom, write_training_report
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.text import count_of
from dmmn_qp.training.judging import ShownPatches, from_kept
from dmmn_qp.training.outcome import advice
from dmmn_qp.training.plan import TrainingPlan, validation_examples
from dmmn_qp.training.reading import Batches
from dmmn_qp.training.state import TrainingState

WATCHED = 6
"""So many validation patches are drawn after every epoch."""

_MOST_CLASSES = 30
"""Of so many classes, the first ones, the report shows the most right patch."""


def verdicts_on(
    network: Callable[[list[Tensor]], Tensor],
    batches: Batches,
    patches: Iterable[PatchRef],
    n_classes: int,
    convention: InputConvention,
    device: torch.device,
) -> Iterator[PatchVerdict]:
    """Looks at what a network in evaluation mode makes of patches, one after the other.

    Args:
        network: Images -> logits (B, C, S, S).
        batches: The patches, in their order.
        patches: Their index.
        n_classes: Number of classes C.
        convention: How pixels become the network's input.
        device: Where it computes.

    Yields:
        The verdict on each patch.
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


@dataclass(frozen=True, slots=True)
class Validation:
    """A network on the validation patches.

    Attributes:
        metrics: On their labelled pixels.
        watched: Some of them, the same ones each time.
        shown: Those that a report shows; of several processes, each has its own.
    """

    metrics: Metrics
    watched: list[PatchVerdict]
    shown: ShownPatches


def validate(
    module: SupervisedBranches,
    batches: Batches,
    plan: TrainingPlan,
    class_map: ClassMap,
    fabric: Fabric,
) -> Validation:
    """Looks at the labelled pixels of the validation patches.

    Each process looks at its part, of whatever length, through the bare module: wrapped for several processes, it would
    wait for the others at every call. The statistics of its normalisation are those of the first process, which are
    the ones that are kept.
    """
    rank, world = fabric.global_rank, fabric.world_size
    if world > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)
    draws = plan.validation_draws[rank::world]
    mine = [plan.validation[draw.patch] for draw in draws]
    distance = max(1, sum(not draw.deformed for draw in draws) // WATCHED)
    confusion = np.zeros((len(class_map), len(class_map)), np.int64)
    watched: list[PatchVerdict] = []
    shown = ShownPatches()
    module.eval()

    def logits(images: list[Tensor]) -> Tensor:
        with fabric.autocast():
            own: Tensor = module(images)[0]
            return own

    for i, verdict in enumerate(verdicts_on(logits, batches, mine, len(class_map), plan.convention, fabric.device)):
        confusion += confusion_matrix(verdict.truth, verdict.predicted, len(class_map))
        if draws[i].deformed:
            continue  # reports show slides as they are
        shown.add(rank + i * world, verdict)
        if i % distance == 0 and len(watched) < WATCHED:
            watched.append(verdict)
    if world > 1:
        mean = mean_of_processes(torch.from_numpy(confusion).double().to(fabric.device), fabric)
        confusion = np.rint(mean.cpu().numpy() * world).astype(np.int64)
    return Validation(Metrics.from_confusion(confusion), watched, shown)


def write_report(
    out: Path,
    dataset: Dataset,
    plan: TrainingPlan,
    state: TrainingState,
    slides_roots: Sequence[SlidesRoot],
    worse: Sequence[str] = (),
) -> None:
    """Writes the report of the model that was kept, from what was found when it was validated.

    Args:
        out: The model.
        dataset: Its dataset.
        plan: Its training.
        state: Where that ended.
        slides_roots: Where to look for slides that have been moved.
        worse: What is worse than with the model that it started from, a line each.

    Raises:
        DmmnQpError: A slide or the model cannot be read, or an earlier version kept no figures.
    """
    kept = state.kept
    if not kept:
        raise TrainingError("the best epoch is from an earlier version of dmmn-qp, which kept no figures for a report")
    examples = validation_examples(dataset, plan, slides_roots)

    def verdict_of(values: Mapping[str, Any]) -> PatchVerdict:
        judged = from_kept(values)
        patch, (images, targets, *_) = plan.validation[judged.number], examples[Draw(judged.number, seed=0)]
        return PatchVerdict(
            slide_id=patch.slide_id,
            place_px=(patch.x, patch.y),
            images=images.permute(0, 2, 3, 1).numpy(),
            truth=targets[0].numpy(),
            predicted=judged.predicted,
            accuracy=judged.accuracy,
        )

    started_from = None
    if plan.start is not None and state.start_mean_iou is not None:
        started_from = StartedFrom(plan.start.model, plan.start.matched, plan.start.new, state.start_mean_iou, worse)
    classes: dict[int, list[str]] = {}
    for label, values in list(kept["best"].items())[:_MOST_CLASSES]:
        classes.setdefault(values["number"], []).append(dataset.class_map.names[label - 1])
    best = {values["number"]: values for values in kept["best"].values()}
    head = kept.get("head") or {}
    facts = {"steps of the head": str(head["steps"]), "self-training": head["self_training"] or "none"} if head else {}
    if copies := len(plan.validation_draws) - len(plan.validation):
        more = count_of(copies, "deformed copy", "deformed copies")
        facts["validation patches"] = f"{len(plan.validation):,} and {more}"
    metrics = Metrics.from_confusion(kept["confusion"].numpy())
    epoch = f"{kept['epoch']} of {len(state.history)}" if kept["epoch"] else "none"
    write_training_report(
        out,
        load_card(out),
        state.history,
        metrics,
        worst=[verdict_of(values) for values in kept["worst"]],
        best=[(", ".join(names), verdict_of(best[number])) for number, names in classes.items()],
        facts={"round kept" if plan.rounds else "epoch kept": epoch, "time": duration(state.seconds), **facts},
        started_from=started_from,
        advice=advice(metrics, plan, dataset.class_map),
    )
