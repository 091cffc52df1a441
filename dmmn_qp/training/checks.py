"""What may go wrong in a training, and what to say then."""

from __future__ import annotations

import errno
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dmmn_qp.console import Reporter
from dmmn_qp.errors import TrainingError
from dmmn_qp.files.failures import FULL_DISK
from dmmn_qp.networks.devices import memory_gib
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training.options import RATE, TrainOptions
from dmmn_qp.training.state import STATE

EPOCHS_OF_COLLAPSE = 3
"""So many epochs with a single predicted class are worth a warning."""


@contextmanager
def explained(out: Path) -> Iterator[None]:
    """Says what errors from below mean to a training, and the way out.

    Args:
        out: The model folder.

    Raises:
        TrainingError: A disk is full, memory does not suffice, or a process or a device is lost; other errors pass.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError, EOFError) as error:
        reason = _reason_of(error, out)
        if reason is None:
            raise
        raise TrainingError(f"{reason}, {way_on(out)}") from error


def way_on(out: Path) -> str:
    """How to go on with a training that has stopped."""
    if (out / STATE).is_file():
        return f"then go on with dmmn-qp train --resume --out {shlex.quote(str(out))}"
    return "then start it again"


def _reason_of(error: Exception, out: Path) -> str | None:
    """What has happened, and what to do before the training goes on; None where nothing more is known than it says."""
    text = str(error)
    if isinstance(error, _OF_PIPES):
        return _READER_KILLED
    if isinstance(error, OSError):
        if error.errno in FULL_DISK:
            return f'no space is left on the disk of "{error.filename or out}" to write the training; free some'
        if error.errno != errno.EMFILE:
            return None
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the memory of the GPU does not suffice; train anew with a smaller --batch-size or --width, or end other "
            "programs that use it"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "the memory of this machine does not suffice; read with less (--workers 0, --cache 64), or free some"
    for part, reason in _KNOWN:
        if re.search(part, text, re.IGNORECASE):
            return reason
    return None


_READER_KILLED = (
    "a reading process was killed, most likely because memory ran out; read with less (--workers 0, --cache 64), or "
    "free some"
)

_OF_PIPES = (ConnectionResetError, ConnectionAbortedError, ConnectionRefusedError, EOFError)
"""What the main process meets of a reading process that is killed while it hands over a batch."""

_KNOWN = (
    ("DataLoader worker .*(killed|exited)", _READER_KILLED),
    (
        "too many open files|ancillary data",
        "too many files are open; raise the limit (ulimit -n 4096) or read without processes (--workers 0)",
    ),
    (
        "gloo|nccl|connection (closed|reset|refused)|TCPStore|barrier timed out",
        "the processes of this training have lost each other; see what the others said, and mend that",
    ),
    ("CUDA error|cuDNN error|cuBLAS error|HIP error", "the GPU has stopped working for this process; see nvidia-smi"),
)
"""What torch says of accidents -> what happened, and the way out."""


def check_same_training(run: Mapping[str, Any], fabric: Fabric) -> None:
    """Refuses to go on where the processes found different trainings.

    Raises:
        TrainingError: They did.
    """
    if fabric.world_size > 1 and fabric.broadcast(run["run_id"]) != run["run_id"]:
        raise TrainingError("the processes found different interrupted trainings; name the one to go on with by --out")


def check_loss(loss: float, epoch: int, options: TrainOptions) -> None:
    """Raises `TrainingError` when the loss is no longer a finite number."""
    if math.isfinite(loss):
        return
    likely = "bf16 may be too coarse for it: --precision fp32, or " if options.precision == "bf16" else ""
    raise TrainingError(
        f"the loss became {loss} in epoch {epoch}, most likely because the steps are too large; {likely}train with a "
        f"lower --learning-rate (it was {options.learning_rate or RATE:g}). The best epoch so far is kept"
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


def warn_of_collapse(only_class: list[str | None], options: TrainOptions, report: Path, reporter: Reporter) -> None:
    """Says when the network has predicted one class only for some epochs."""
    latest = only_class[-EPOCHS_OF_COLLAPSE:]
    if len(latest) == EPOCHS_OF_COLLAPSE and latest[0] is not None and len(set(latest)) == 1:
        reporter.warn(
            f'the network has predicted only "{latest[0]}" for {EPOCHS_OF_COLLAPSE} epochs; most likely the learning '
            f"rate ({options.learning_rate or RATE:g}) is too high or too low, or the classes are too unequal: see "
            f"the balance in {report}"
        )


def step_note(loss: float, optimizer: torch.optim.Optimizer, batch_size: int, seconds: float) -> str:
    """``loss 0.412  rate 4.1e-03  12 patches/s  0.9 GiB``."""
    rate = optimizer.param_groups[0]["lr"]
    speed = f"  {batch_size / seconds:.1f} patches/s" if seconds > 0 else ""
    return f"loss {loss:.3f}  rate {rate:.1e}{speed}  {memory_gib():.1f} GiB"
