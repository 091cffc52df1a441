"""Maps of different resolutions about one centre, laid on one lattice of cells.

Lengths are in px of the finest magnification. A map of cells of e px has its cell i about the px e (i + 1/2), counted
from its own border. Between the middles of cells values are linear, and beyond the outermost middles they stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def laid_on_each_other(
    maps: Sequence[Tensor], cells_px: Sequence[int], cell_px: int, rows: int, columns: int, around: int = 0
) -> Tensor:
    """The sum of maps of as many channels.

    Args:
        maps: (B, C, h, w) each.
        cells_px: Side of their cells.
        cell_px: Side of the cells that are wanted, which is no larger.
        rows: How many, about the maps' centre.
        columns: Likewise.
        around: Cells beyond these on each side, 0 or 1.

    Returns:
        (B, C, rows + 2 * around, columns + 2 * around).
    """
    together: dict[int, Tensor] = {}
    total: Tensor | None = None
    for features, side_px in zip(maps, cells_px, strict=True):
        window = _on_lattice(features, side_px, cell_px, rows, columns)
        if window is not None:
            together[side_px] = together[side_px] + window if side_px in together else window
            continue
        part = _between(features, side_px, cell_px, rows + 2 * around, columns + 2 * around)
        total = part if total is None else total + part
    for side_px, window in together.items():
        part = _enlarged(window, side_px // cell_px, rows, columns, around)
        total = part if total is None else total + part
    assert total is not None
    return total


def at_cells(
    maps: Sequence[Tensor], cells_px: Sequence[int], cell_px: int, cells: Tensor, rows: int, columns: int
) -> Tensor:
    """Values of maps at single cells.

    Args:
        maps: (C_k, h, w) each.
        cells_px: Side of their cells.
        cell_px: Side of the cells that are wanted.
        cells: (N, 2) row and column of these.
        rows: How many rows of them there are about the maps' centre.
        columns: Likewise.

    Returns:
        (N, sum of C_k).
    """
    found = []
    for features, side_px in zip(maps, cells_px, strict=True):
        y, x = (
            _places(count, features.shape[axis - 2], side_px, cell_px, features)[cells[:, axis]]
            for axis, count in enumerate((rows, columns))
        )
        (top, bottom, down), (left, right, across) = (
            _neighbours(y, features.shape[-2]),
            _neighbours(x, features.shape[-1]),
        )
        above = torch.lerp(features[:, top, left], features[:, top, right], across)
        below = torch.lerp(features[:, bottom, left], features[:, bottom, right], across)
        found.append(torch.lerp(above, below, down))
    return torch.cat(found).T


def cut(features: Tensor, side_px: int, height_px: int, width_px: int) -> Tensor:
    """The middle of a map (..., h, w) that so many px about its centre depend on, or the whole where that is less."""
    rows, columns = (
        min(side, _covering(length, side_px, side))
        for side, length in zip(features.shape[-2:], (height_px, width_px), strict=True)
    )
    top, left = (features.shape[-2] - rows) // 2, (features.shape[-1] - columns) // 2
    return features[..., top : top + rows, left : left + columns]


def _covering(length_px: int, side_px: int, side: int) -> int:
    """The least number of cells, as even or odd as ``side``, that reaches a cell beyond so many px on either side."""
    needed = -(-length_px // side_px) + 2
    return needed + (side - needed) % 2


def _places(count: int, side: int, side_px: int, cell_px: int, like: Tensor) -> Tensor:
    """Where the middles of ``count`` cells lie on an axis of a map of ``side`` cells, in its cells: (count,)."""
    steps = torch.arange(count, device=like.device, dtype=torch.float32)
    return ((steps + 0.5 - count / 2) * cell_px / side_px + side / 2 - 0.5).clamp(0, side - 1)


def _neighbours(places: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells before and behind places, and how far each place is from the one towards the other."""
    low = places.floor()
    before = low.long()
    return before, (before + 1).clamp(max=side - 1), places - low


def _between(features: Tensor, side_px: int, cell_px: int, rows: int, columns: int) -> Tensor:
    """A map at the cells that are wanted, wherever its own lie."""
    for axis, count in ((-2, rows), (-1, columns)):
        side = features.shape[axis]
        before, behind, part = _neighbours(_places(count, side, side_px, cell_px, features), side)
        part = part.to(features.dtype)
        features = torch.lerp(
            features.index_select(axis, before),
            features.index_select(axis, behind),
            part[:, None] if axis == -2 else part,
        )
    return features


def _on_lattice(features: Tensor, side_px: int, cell_px: int, rows: int, columns: int) -> Tensor | None:
    """The cells of a map that cover the wanted ones, and one more on each side; None where they begin between them."""
    wanted = []
    for axis, count in ((-2, rows), (-1, columns)):
        side, length_px = features.shape[axis], count * cell_px
        before_px = side * side_px - length_px  # twice what lies before the first wanted cell
        if side_px % cell_px or before_px % (2 * side_px):
            return None
        first = before_px // (2 * side_px) - 1
        wanted.append((first, first + -(-length_px // side_px) + 2, side))
    (top, bottom, high), (left, right, wide) = wanted
    window = features[..., max(0, top) : min(bottom, high), max(0, left) : min(right, wide)]
    missing = (max(0, -left), max(0, right - wide), max(0, -top), max(0, bottom - high))
    return functional.pad(window, missing, mode="replicate") if any(missing) else window


def _enlarged(window: Tensor, factor: int, rows: int, columns: int, around: int) -> Tensor:
    """A window with a cell more on each side, so many times as fine, of which ``around`` of the fine cells are left."""
    if factor > 1:
        window = functional.interpolate(window, scale_factor=factor, mode="bilinear", align_corners=False)
    first = factor - around
    return window[..., first : factor + rows + around, first : factor + columns + around]
