"""Training every branch of a network on its own field (not in the paper).

The coarser branches of DMMN-M3 and DMMN-M2S see 4 and 16 times the tissue of the target, but the paper's loss reaches
them through the target alone. A 1x1 convolution behind each of them predicts the classes of its whole field, so that
every annotation in view teaches. These convolutions serve training only and are no part of the model.
"""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

from torch import Tensor, nn

from dmmn_qp.networks.blocks import initialise
from dmmn_qp.networks.stem import Stemmed


@runtime_checkable
class HasBranches(Protocol):
    """A network whose coarser branches are decoded to the full size of their fields."""

    def forward_branches(self, images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits, and d0 of each coarser branch: (B, f, S, S) of its own, wider field."""
        ...


class SupervisedBranches(nn.Module):
    """A network in training: its logits, and those of each coarser branch for its own field.

    Args:
        stemmed: The network; unless it `HasBranches`, its own logits are all there is.
        classes: Number of outputs C.
        width: Base width f; None leaves the branches to the target's loss, as the paper does.
    """

    def __init__(self, stemmed: Stemmed, classes: int, width: int | None) -> None:
        super().__init__()
        self.stemmed = stemmed
        self.heads = nn.ModuleList()
        if width is not None and isinstance(stemmed.network, HasBranches):
            self.heads.extend(nn.Conv2d(width, classes, 1) for _ in range(stemmed.used - 1))
        initialise(self.heads)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """M images (B, 3, S, S), finest first -> logits (B, C, S, S) of the target and of each coarser field."""
        if not self.heads:
            return [self.stemmed(images)]
        network = cast(HasBranches, self.stemmed.network)
        logits, coarser = network.forward_branches(self.stemmed.behind_stem(images))
        own = [head(maps) for head, maps in zip(self.heads, coarser, strict=True)]
        return [self.stemmed.enlarge(x) for x in (logits, *own)]
