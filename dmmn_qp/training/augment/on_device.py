"""The same changes as on the CPU, made in batches where the network computes."""

from __future__ import annotations

from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dmmn_qp.labels.reach import MAX_DISPLACEMENT, PAPER_FIELD_PX, SAMPLING_MARGIN_PX
from dmmn_qp.specs import MAX_ZOOM
from dmmn_qp.training.augment import Augmentation
from dmmn_qp.training.augment.warp import NODES, node_weights


class DrawnChange(NamedTuple):
    """An `Augmentation` as tensors, or a batch of them.

    Attributes:
        matrix: (2, 2) float32, see `Warp`.
        nodes_px: (2, 17, 17) float32; zeros for no elastic deformation.
        color: (3, 4) float32, see `ColorChange`.
        of_density: bool, whether the colours' matrix applies to optical densities; the same for a whole batch.
    """

    matrix: Tensor
    nodes_px: Tensor
    color: Tensor
    of_density: Tensor

    @classmethod
    def of(cls, change: Augmentation) -> DrawnChange:
        """The tensors of a change."""
        nodes_px = change.warp.nodes_px
        return cls(
            torch.from_numpy(change.warp.matrix.astype(np.float32)),
            torch.zeros(2, NODES, NODES) if nodes_px is None else torch.from_numpy(nodes_px),
            torch.from_numpy(change.color.matrix),
            torch.tensor(change.color.of_density),
        )


def wide_margin_px(size_px: int, magnifications: int) -> int:
    """Pixels around a field, on each side, that hold all that any change may show at any magnification.

    It is the margin of the finest, in whose pixels elastic displacements are largest.
    """
    displaced = MAX_DISPLACEMENT * min(size_px * 2.0 ** (magnifications - 1), PAPER_FIELD_PX)
    return ceil(MAX_ZOOM * sqrt(2) * (size_px / 2 + displaced) - size_px / 2) + SAMPLING_MARGIN_PX


def augment_on_device(
    images: Tensor, targets: Tensor, change: DrawnChange, size_px: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Samples a batch of wide fields by their maps and recolours them.

    Args:
        images: (B, M, 3, W, W) uint8, W = S + 2 `wide_margin_px`; the uint8 values travel to the device.
        targets: (B, T, W, W) uint8 labels of the finest T magnifications.
        change: The batch's changes.
        size_px: S.
        device: Where to compute.

    Returns:
        (B, M, 3, S, S) uint8 and (B, T, S, S) uint8, on the device; with `Warp` and `ColorChange` they agree but for
        rounding, of labels where a place is halfway between two pixels.
    """
    of_density = bool(change.of_density.any())
    images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
    matrix, nodes_px, color = (t.to(device, non_blocking=True) for t in change[:3])
    fields, labels = [], []
    for m in range(images.shape[1]):
        places = _places(matrix, nodes_px, size_px, m, images.shape[1], images.shape[-1])
        fields.append(functional.grid_sample(images[:, m].float(), places, padding_mode="border", align_corners=False))
        if m < targets.shape[1]:
            of_field = targets[:, m, None].float()
            labels.append(functional.grid_sample(of_field, places, mode="nearest", align_corners=False)[:, 0])
    return _recolored(torch.stack(fields, 1), color, of_density), torch.stack(labels, 1).round().to(torch.uint8)


def _places(
    matrix: Tensor, nodes_px: Tensor, size_px: int, magnification: int, magnifications: int, side_px: int
) -> Tensor:
    """Where the pixels of one magnification come from, as ``grid_sample`` wants it: (B, S, S, 2)."""
    about_centre = torch.arange(size_px, device=matrix.device, dtype=torch.float32) + 0.5 - size_px / 2
    y, x = torch.meshgrid(about_centre, about_centre, indexing="ij")
    weights = torch.from_numpy(node_weights(size_px, magnification, magnifications)).to(matrix.device)
    displaced = torch.stack([x, y]) + weights @ nodes_px @ weights.T / 2**magnification  # (B, 2, S, S)
    return torch.einsum("bij,bjyx->byxi", matrix, displaced) * (2 / side_px)


def _recolored(pixels: Tensor, matrix: Tensor, of_density: bool) -> Tensor:
    """Applies (B, 3, 4) matrices to (B, M, 3, S, S) float32 from 0 to 255: uint8."""
    values = -(pixels.clamp(min=1) / 255).log() if of_density else pixels / 255
    changed = torch.einsum("bij,bmjyx->bmiyx", matrix[:, :, :3], values) + matrix[:, None, :, 3, None, None]
    intensity = (-changed.clamp(min=0)).exp() if of_density else changed.clamp(0, 1)
    return (intensity * 255).round().to(torch.uint8)
