"""Optimisers and the course of their rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.training.options import RATE, TrainOptions

WARM_UP = 0.15
RATE_OF_A_LAYER_BELOW = 0.8
"""Rate of a block of a pretrained encoder, in parts of that of the block above it."""


def make_optimizer(
    network: nn.Module, options: TrainOptions, total_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """SGD with a constant rate (section 2.5), or AdamW with a one-cycle rate."""
    trained = [p for p in network.parameters() if p.requires_grad]
    rate = RATE if options.learning_rate is None else options.learning_rate
    total_steps = max(1, total_steps)
    if options.optimizer == "sgd":
        sgd = torch.optim.SGD(trained, lr=rate, momentum=options.momentum, weight_decay=options.weight_decay)
        return sgd, None
    groups: list[dict[str, Any]] = []
    rates: list[float] = []
    for share, parameters in by_rate(network):
        for kernels in (True, False):  # biases and normalisation are not decayed
            chosen = [p for p in parameters if (p.ndim > 1) == kernels]
            if chosen:
                rates.append(rate * share)
                groups.append({"params": chosen, "weight_decay": options.weight_decay if kernels else 0.0})
    adamw = torch.optim.AdamW(groups, lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adamw, rates, total_steps=total_steps, pct_start=WARM_UP)
    return adamw, schedule


def by_rate(network: nn.Module) -> list[tuple[float, list[nn.Parameter]]]:
    """The parameters that learn, by the part of the learning rate at which they do: the lower of an encoder, the less.

    All have the whole rate in a network from scratch.
    """
    encoder = next((m.encoder for m in network.modules() if isinstance(m, DmmnP)), None)
    layers = [] if encoder is None else list(reversed(getattr(encoder, "layers", [encoder])))
    found: list[tuple[float, list[nn.Parameter]]] = []
    of_encoder: set[nn.Parameter] = set()
    for depth, layer in enumerate(layers, start=1):
        own = [p for p in layer.parameters() if p.requires_grad]
        of_encoder.update(own)
        found.append((RATE_OF_A_LAYER_BELOW**depth, own))
    rest = [p for p in network.parameters() if p.requires_grad and p not in of_encoder]
    return [(1.0, rest), *found]
