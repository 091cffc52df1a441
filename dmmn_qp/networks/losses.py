"""The loss of partially annotated patches (paper, section 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from dmmn_qp.choices import LossMean
from dmmn_qp.specs import UNLABELLED


def partial_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weights: Tensor,
    mean: LossMean,
    mean_over_processes: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Weighted cross entropy in which unlabelled pixels count nothing.

    ``patch`` is the paper's Eq. 1: the weighted sum over the labelled pixels is divided by *all* pixels of the patch,
    so sparsely annotated patches count less. ``labelled`` divides by the weights of the labelled pixels instead.

    Args:
        logits: (B, C, S, S); output ``i`` stands for label ``i + 1``.
        target: (B, S, S) int64 labels, 0 = unlabelled.
        weights: (C,) weights of the classes (Eq. 2).
        mean: What the sum is divided by.
        mean_over_processes: Gives the mean of a value over all processes that share a batch, so that their losses,
            averaged, are that of the whole batch; None where there is one.

    Returns:
        Scalar; 0 with zero gradient when no pixel is labelled.
    """
    total = functional.cross_entropy(
        logits.float(), target - 1, weight=weights, ignore_index=UNLABELLED - 1, reduction="sum"
    )
    if mean == "patch":
        return total / target.numel()
    labelled = target > UNLABELLED
    weight_sum = (weights[(target - 1).clamp(min=0)] * labelled).sum()
    if mean_over_processes is not None:
        weight_sum = mean_over_processes(weight_sum)
    return total / weight_sum.clamp(min=1e-6)


def supervised_losses(
    outputs: Sequence[Tensor],
    targets: Tensor,
    weights: Tensor,
    mean: LossMean,
    branch_loss: float,
    mean_over_processes: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of the target (Eq. 1), and the same with a part of that of each coarser branch for its own field.

    Args:
        outputs: Logits (B, C, S, S) of the target, then of each coarser field.
        targets: (B, 1 or more, S, S) labels of them.
        weights: (C,) weights of the classes.
        mean: What each sum is divided by.
        branch_loss: How much each branch counts.
        mean_over_processes: See `partial_cross_entropy`.
    """
    own, *branches = (
        partial_cross_entropy(logits, targets[:, m], weights, mean, mean_over_processes)
        for m, logits in enumerate(outputs)
    )
    return own, own + branch_loss * sum(branches, own.new_zeros(()))
