"""How good the network is on the validation patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from dmmn_qp.console import duration
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.model import load_model
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.metrics import Metrics, confusion_matrix
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.conventions import InputConvention, network_inputs, predicted_labels
from dmmn_qp.networks.devices import mean_of_processes
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.reports.training_report import PatchVerdict, draw_verdict, write_training_report
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED, ClassMap
from dmmn_qp.training.examples import EpochDraws, Example, WideExample, make_loader
from dmmn_qp.training.plan import TrainingPlan, validation_examples
from dmmn_qp.training.state import TrainingState

_WATCHED = 6
"""So many validation patches are drawn after every epoch."""

_EXAMPLES = 4
"""So many of the best and of the worst validation patches are in the report."""


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
