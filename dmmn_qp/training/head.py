"""The head of a network on frozen features: two layers that are trained on single cells, in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.errors import TrainingError
from dmmn_qp.labels.metrics import Metrics
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.training.cells import Cells

RATE = 1e-3
WEIGHT_DECAY = 1e-2
BATCH = 512
STEPS_BETWEEN_CHECKS = 50
LEAST_STEPS = 200
"""Few cells may like any number of steps best, and what fewer steps than these lose is more than they ever win."""

MOST_STEPS = 1000
PATIENCE = 8
"""So many checks without a better one end it."""

AVERAGING = 0.98
"""Weight of what was before in the running mean of the weights, which is what is judged and kept."""

LEAST_DEVIATION = 1e-3

AT_ONCE = 1024
"""Cells that are judged at once: what is larger takes memory that the system clears each time."""


@dataclass(slots=True)
class Fitted:
    """A head and how it came about.

    Attributes:
        weights: (H, D), (H,), (C, H) and (C,): two layers on the encoder's vectors as they are.
        steps: Steps after which it was taken.
        mean_iou: On the cells that chose them; NaN where none did.
        curve: Mean IoU at each check.
        loss: Mean loss since the last check before it.
    """

    weights: tuple[Tensor, Tensor, Tensor, Tensor]
    steps: int
    mean_iou: float
    curve: list[float] = field(default_factory=list)
    loss: float = math.nan


def put_into(network: DmmnP, weights: Sequence[Tensor]) -> None:
    """Gives a network a head: the first layer is cut into those of the single maps."""
    first, first_bias, last, last_bias = weights
    with torch.no_grad():
        for layer, part in zip(network.first, torch.split(first, list(network.channels), dim=1), strict=True):
            assert isinstance(layer, nn.Conv2d)
            layer.weight.copy_(part[:, :, None, None])
            if layer.bias is not None:
                layer.bias.copy_(first_bias)
        network.output.weight.copy_(last[:, :, None, None])
        assert network.output.bias is not None
        network.output.bias.copy_(last_bias)


def head_of(network: DmmnP) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The counterpart of `put_into`, on the CPU."""
    layers = [layer for layer in network.first if isinstance(layer, nn.Conv2d)]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    assert len(biases) == 1 and network.output.bias is not None
    first = torch.cat([layer.weight[:, :, 0, 0] for layer in layers], dim=1)
    return (
        first.detach().cpu().clone(),
        biases[0].detach().cpu().clone(),
        network.output.weight[:, :, 0, 0].detach().cpu().clone(),
        network.output.bias.detach().cpu().clone(),
    )


class _Head(nn.Module):
    """Standardises vectors and classifies them."""

    def __init__(self, mean: Tensor, deviation: Tensor, width: int, n_classes: int) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation
        self.first = nn.Linear(len(mean), width)
        self.last = nn.Linear(width, n_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) -> logits (N, C)."""
        logits: Tensor = self.last(functional.relu(self.first((vectors - self.mean) / self.deviation)))
        return logits

    def start_from(self, weights: Sequence[Tensor]) -> None:
        """Takes layers on vectors as they are."""
        first, first_bias, last, last_bias = (values.to(self.mean.device) for values in weights)
        with torch.no_grad():
            self.first.weight.copy_(first * self.deviation)
            self.first.bias.copy_(first_bias + first @ self.mean)
            self.last.weight.copy_(last)
            self.last.bias.copy_(last_bias)

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its layers on vectors as they are, on the CPU."""
        with torch.no_grad():
            first = self.first.weight / self.deviation
            bias = self.first.bias - first @ self.mean
            return first.cpu(), bias.cpu(), self.last.weight.cpu().clone(), self.last.bias.cpu().clone()


def fit_head(
    training: Cells,
    judging: Cells | None,
    n_classes: int,
    width: int,
    *,
    seed: int,
    device: torch.device,
    steps: int | None = None,
    start: Sequence[Tensor] | None = None,
    corrections: float = 1.0,
) -> Fitted:
    """Trains a head: every class is drawn equally often.

    Args:
        training: Cells to learn from.
        judging: Cells that choose the number of steps; None where ``steps`` is known.
        n_classes: Number of classes C.
        width: Width H of the hidden layer.
        seed: Seed of weights and draws.
        device: Where to compute.
        steps: Steps to take; None for as many as are best on ``judging``, `LEAST_STEPS` to `MOST_STEPS`.
        start: Layers to begin with; random ones unless given.
        corrections: How many times as often as others of its class a corrected cell is drawn.

    Raises:
        TrainingError: The loss is not a finite number.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = (values.to(device) for values in _spread(training.vectors))
        head = _Head(mean, deviation, width, n_classes).to(device)
        kept = _Head(mean, deviation, width, n_classes).to(device)
    if start is not None:
        head.start_from(start)
    kept.load_state_dict(head.state_dict())
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    drawn = [torch.nonzero(training.classes == c)[:, 0] for c in range(n_classes)]
    present = [_Deck.of(numbers, training.corrected[numbers], corrections) for numbers in drawn if len(numbers)]
    share = -(-BATCH // len(present))
    best = Fitted(kept.weights(), 0, math.nan)
    curve: list[float] = []
    losses: list[float] = []
    for step in range(1, (steps or MOST_STEPS) + 1):
        numbers = torch.cat([deck.drawn(share, generator) for deck in present])
        vectors, classes = training.vectors[numbers].to(device).float(), training.classes[numbers].to(device)
        loss = functional.cross_entropy(head(vectors), classes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        _average(kept, head, min(AVERAGING, step / (step + 10)))
        if step % STEPS_BETWEEN_CHECKS and step != steps:
            continue
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss of the head became {losses[-1]} after {step} steps; the encoder's features may be too large "
                "for it: take another --encoder"
            )
        found = math.nan if judging is None else mean_iou_on(kept, judging, n_classes)
        curve.append(found)
        if steps is not None or (step >= LEAST_STEPS and (not best.steps or found > best.mean_iou)):
            best = Fitted(kept.weights(), step, found, loss=float(np.mean(losses)))
        losses = []
        waited = len(curve) - best.steps // STEPS_BETWEEN_CHECKS
        if steps is None and (waited >= PATIENCE or best.mean_iou == 1):  # nothing is better than all right
            break
    best.curve = curve
    return best


class _Deck(NamedTuple):
    """Cells of a class, and how likely each is drawn: sums from the first to each; None where all are alike."""

    numbers: Tensor
    sums: Tensor | None

    @classmethod
    def of(cls, numbers: Tensor, corrected: Tensor, corrections: float) -> _Deck:
        if corrections == 1 or not bool(corrected.any()):
            return cls(numbers, None)
        return cls(numbers, torch.where(corrected, corrections, 1.0).double().cumsum(0))

    def drawn(self, n: int, generator: torch.Generator) -> Tensor:
        """So many of them, some perhaps more than once."""
        if self.sums is None:
            return self.numbers[torch.randint(len(self.numbers), (n,), generator=generator)]
        places = torch.rand(n, generator=generator, dtype=torch.float64) * self.sums[-1]
        return self.numbers[torch.searchsorted(self.sums, places, right=True).clamp_max(len(self.numbers) - 1)]


def _spread(vectors: Tensor, at_once: int = AT_ONCE) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension: (D,) and (D,), the latter at least `LEAST_DEVIATION`."""
    total = torch.zeros(2, vectors.shape[1], dtype=torch.float64)
    for part in torch.split(vectors, at_once):
        values = part.double()
        total += torch.stack([values.sum(0), values.square().sum(0)])
    mean, square = total / len(vectors)
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_DEVIATION)
    return mean.float(), deviation.float()


def _average(kept: nn.Module, head: nn.Module, share: float) -> None:
    with torch.no_grad():
        for mean, value in zip(kept.parameters(), head.parameters(), strict=True):
            mean.lerp_(value, 1 - share)


def mean_iou_on(head: nn.Module, cells: Cells, n_classes: int, at_once: int = AT_ONCE) -> float:
    """Mean IoU on cells, each counted as often as it stands for others."""
    device = next(head.parameters()).device
    counts = torch.zeros(n_classes * n_classes, dtype=torch.float64)
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(cells)), at_once):
            found = head(cells.vectors[part].to(device).float()).argmax(1).cpu()
            pairs = cells.classes[part] * n_classes + found
            counts += torch.bincount(pairs, cells.weights[part].double(), n_classes**2)
    confusion = np.rint(counts.reshape(n_classes, n_classes).numpy()).astype(np.int64)
    return Metrics.from_confusion(confusion).mean_iou


def steps_by_groups(
    training: Cells, n_classes: int, width: int, *, seed: int, device: torch.device, corrections: float = 1.0
) -> int:
    """The number of steps that is best on cells of other slides, where no slides are set apart to choose it.

    The groups are dealt into at most three parts; each is judged by heads that were trained on the others.

    Returns:
        The number of steps with the highest mean of the mean IoU; the first of equals.
    """
    groups = torch.unique(training.groups)
    order = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))]
    curves = []
    for part in order.chunk(min(_PARTS, len(groups))):
        apart = torch.isin(training.groups, part)
        learned = training.of(~apart)
        if len(learned) and len(torch.unique(learned.classes)) == len(torch.unique(training.classes)):
            judging = training.of(apart)
            found = fit_head(learned, judging, n_classes, width, seed=seed, device=device, corrections=corrections)
            curves.append(found.curve)
    if not curves:
        return _USUAL_STEPS
    shortest = min(map(len, curves))
    means = np.mean([curve[:shortest] for curve in curves], axis=0)
    first = LEAST_STEPS // STEPS_BETWEEN_CHECKS - 1
    return (first + int(means[first:].argmax()) + 1) * STEPS_BETWEEN_CHECKS


_PARTS = 3
_USUAL_STEPS = 300
