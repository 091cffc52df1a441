"""A network with its optimiser, and the one step by which it learns (paper, section 2.5)."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from dmmn_qp.errors import TrainingError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.draws import class_weights
from dmmn_qp.networks.conventions import network_inputs
from dmmn_qp.networks.devices import mean_of_processes
from dmmn_qp.networks.losses import supervised_losses
from dmmn_qp.networks.supervision import SupervisedBranches
from dmmn_qp.training.averaging import LOOKS, WeightAverage
from dmmn_qp.training.checks import check_loss, too_large
from dmmn_qp.training.examples import Example, WideExample, augmented
from dmmn_qp.training.fine_tuning import freeze_encoders
from dmmn_qp.training.optimizers import make_optimizer
from dmmn_qp.training.plan import TrainingPlan, make_module
from dmmn_qp.training.state import TrainingState, restore, snapshot

GRADIENT_NORM = 1.0


class Learner:
    """What learns: in training, and in the few steps by which a dry run measures one.

    Attributes:
        module: The network with its branches.
        average: The average of its weights; None where the last weights count.
        optimizer: Its optimiser.
        schedule: The course of its learning rate; None where that stays the same.
    """

    def __init__(self, dataset: Dataset, plan: TrainingPlan, fabric: Fabric, *, goes_on: bool = False) -> None:
        """Builds the network on the device.

        Args:
            dataset: The dataset.
            plan: What is trained, and how.
            fabric: The device, the precision, and the processes that share a batch.
            goes_on: Whether `restore` will give it its weights.
        """
        options = plan.options
        torch.manual_seed(options.seed)
        self.module = make_module(plan, dataset, goes_on=goes_on).to(
            fabric.device
        )  # before its optimiser, whose state goes there too
        self.optimizer, self.schedule = make_optimizer(self.module, options, plan.total_steps)
        weights = class_weights(plan.draws.label_counts, options.class_weights)
        self._class_weights = torch.from_numpy(weights).to(fabric.device)
        self._plan, self._fabric, self._size_px = plan, fabric, dataset.patch_spec.size_px
        self.average: WeightAverage | None = None
        if options.weight_average:
            self.average = WeightAverage(self.module, options.weight_average, options.freeze)

    @property
    def kept(self) -> SupervisedBranches:
        """The network as it is validated and kept: the average of its weights, or the last ones."""
        return self.module if self.average is None else self.average.module

    def take_kept(self) -> None:
        """Goes on from the network that is kept."""
        if self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def restore(self, state: TrainingState) -> None:
        """Goes back to a state; before `set_up`."""
        restore(state, self.module, self.optimizer, self.schedule, self.average)

    def snapshot(self) -> dict[str, Any]:
        """States of everything that changes while training."""
        return snapshot(self.module, self.optimizer, self.schedule, self.average)

    def set_up(self) -> None:
        """Makes it ready for `step`: compiled if that is asked for, and shared by the processes."""
        compiled: nn.Module = torch.compile(self.module) if self._plan.options.compile else self.module  # type: ignore[assignment]
        self._model, self._shared_optimizer = self._fabric.setup(compiled, self.optimizer)

    def start_epoch(self) -> None:
        """Turns from validation to training."""
        self.module.train()
        freeze_encoders(self.module.stemmed, self._plan.options.freeze)

    def step(self, drawn: Example | WideExample, epoch: int, number: int) -> float:
        """Learns from one batch.

        Args:
            drawn: The patches as they were read.
            epoch: From 1, for errors.
            number: Which step of the epoch, from 0.

        Returns:
            The loss of the network's output, without the branches', as the mean of all processes.

        Raises:
            TrainingError: The loss is no longer a finite number, or the memory does not suffice.
        """
        options, fabric = self._plan.options, self._fabric
        batch = augmented(drawn, self._size_px, fabric.device)
        images = network_inputs(batch.images, self._plan.convention, fabric.device)  # M x (B, 3, S, S)
        targets = batch.targets.to(fabric.device).long()  # (B, M or 1, S, S)
        self._shared_optimizer.zero_grad(set_to_none=True)
        try:
            loss, with_branches = supervised_losses(
                self._model(images),
                targets,
                self._class_weights,
                options.loss_mean,
                options.branch_loss,
                lambda value: mean_of_processes(value, fabric),
            )
            fabric.backward(with_branches)
        except torch.OutOfMemoryError:
            raise TrainingError(too_large(self.module, images, options.batch_size, fabric)) from None
        if options.optimizer == "adamw":
            fabric.clip_gradients(self._model, self._shared_optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._shared_optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self._into_average(self.average, images, number)
        mean = mean_of_processes(loss.detach(), fabric).item()
        check_loss(mean, epoch, options)
        return mean

    def _into_average(self, average: WeightAverage, images: list[Tensor], number: int) -> None:
        """Takes the weights into their average, which at the end of an epoch sees the batches too."""
        average.update(self.module)
        steps = self._plan.steps_per_epoch
        look = number - max(0, steps - LOOKS)
        if look >= 0:
            with self._fabric.autocast():
                average.look(images, look)
