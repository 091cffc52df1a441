"""The running average of a network's weights: it is validated and kept, while the network itself goes on learning.

With a high rate the network jumps about a good place; its average stays there. What is averaged needs statistics of its
own for batch normalisation: those of the network belong to other weights, and lag behind them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from dmmn_qp.choices import Freeze
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training.fine_tuning import freeze_encoders

LOOKS: Final = 16
"""The average looks at the batches of so many last steps of an epoch, for the statistics of its normalisation."""

_STEPS = "steps"


class WeightAverage:
    """An exponential average of the weights of a network in training.

    Attributes:
        module: The average, a network of the same kind.
        steps: How often it was updated.
    """

    def __init__(self, module: SupervisedBranches, decay: float, freeze: Freeze) -> None:
        """Begins with the network as it is.

        Args:
            module: The network in training.
            decay: What is left of the average with each step, once there are many; the first steps count more.
            freeze: Part of the network that is not trained.
        """
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.steps = 0
        self._decay, self._freeze = decay, freeze
        self._normalised = [m for m in self.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    @torch.no_grad()
    def update(self, module: SupervisedBranches) -> None:
        """Takes the network's weights in, after a step."""
        self.steps += 1
        part = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        for average, weights in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(weights, part)

    @torch.no_grad()
    def look(self, images: list[Tensor], number: int) -> None:
        """Lets the average see a batch, for the statistics of its batch normalisation: their plain mean.

        Args:
            images: M images (B, 3, S, S), as the network was given them.
            number: Which of the looks of an epoch, from 0; the first forgets those before.
        """
        if not self._normalised:
            return
        self.module.train()
        freeze_encoders(self.module.stemmed, self._freeze)
        for layer in self._normalised:
            if layer.training:
                layer.momentum = 1 / (number + 1)  # a mean; torch's own would not go on after a resumption
        self.module.stemmed(images)

    def state(self) -> dict[str, Any]:
        """All that changes."""
        return {**self.module.state_dict(), _STEPS: self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        self.module.load_state_dict({name: value for name, value in state.items() if name != _STEPS})
        self.steps = state[_STEPS]
