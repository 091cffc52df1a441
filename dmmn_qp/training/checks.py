"""What may go wrong in a training, and what to say then."""

from __future__ import annotations

import math

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dmmn_qp.console import Reporter
from dmmn_qp.errors import TrainingError
from dmmn_qp.networks.devices import memory_gib
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training.options import TrainOptions

EPOCHS_OF_COLLAPSE = 3
"""So many epochs with a single predicted class are worth a warning."""


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


def warn_of_collapse(only_class: list[str | None], options: TrainOptions, reporter: Reporter) -> None:
    """Says when the network has predicted one class only for some epochs."""
    latest = only_class[-EPOCHS_OF_COLLAPSE:]
    if len(latest) == EPOCHS_OF_COLLAPSE and latest[0] is not None and len(set(latest)) == 1:
        reporter.warn(
            f'the network has predicted only "{latest[0]}" for {EPOCHS_OF_COLLAPSE} epochs; most likely the learning '
            f"rate ({options.learning_rate:g}) is too high or too low, or the classes are too unequal: see the balance "
            "in dataset/report.html"
        )


def step_note(loss: float, optimizer: torch.optim.Optimizer, batch_size: int, seconds: float) -> str:
    """``loss 0.412  rate 4.1e-03  12 patches/s  0.9 GiB``."""
    rate = optimizer.param_groups[0]["lr"]
    speed = f"  {batch_size / seconds:.1f} patches/s" if seconds > 0 else ""
    return f"loss {loss:.3f}  rate {rate:.1e}{speed}  {memory_gib():.1f} GiB"
