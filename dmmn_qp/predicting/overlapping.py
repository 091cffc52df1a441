"""Targets that overlap, so that no border between two of them shows: where they lie, and how they are blended."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from dmmn_qp.regions import Region

PERIOD: Final = 8
"""After so many sides of a target the places repeat: one begins where a block does, and needs no further neighbour."""

LEAST_OVERLAP: Final = 10
"""Neighbours share at least this fraction of a side: a tenth. With 24 px of 256 seams begin to show."""

RAMP: Final = 8
"""The weight of a target rises from its border over this fraction of its side: an eighth."""

Corner = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the overlapping targets of a slide lie. It depends on the slide alone, not on blocks or on what is wanted.

    The last target of a row ends at the slide's border, not behind it: none is mostly outside.

    Attributes:
        size: Side of a target in grid px.
        tops: Their first rows in grid px, ascending.
        lefts: Their first columns.
    """

    size: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, int], size: int, step: int, ahead: int = 0) -> Self:
        """Lays targets on a slide.

        Args:
            shape: Its (rows, columns) in grid px.
            size: Side of a target.
            step: Targets start on multiples of so many grid px.
            ahead: So far behind a block's border no target begins: what is enlarged depends on pixels beyond it.
        """
        tops, lefts = (starts(side, size, step, -(-ahead // step) * step) for side in shape)
        return cls(size, tops, lefts)

    def corners(self, block: Region, targets: Sequence[Sequence[bool]]) -> list[Corner]:
        """(row, column) in grid px of all that touch a wanted square of a block, row by row.

        Args:
            block: Squares of side ``size``, in grid px.
            targets: (rows, columns) of them, those that are wanted.
        """
        tops, lefts = self._touching(self.tops, block.y, block.bottom), self._touching(self.lefts, block.x, block.right)
        rows, columns = len(targets), len(targets[0])

        def squares(start: int, first: int, count: int) -> range:
            return range(
                max(0, (start - first) // self.size), min(count, (start + self.size - 1 - first) // self.size + 1)
            )

        return [
            (top, left)
            for top in tops
            for left in lefts
            if any(
                targets[row][column]
                for row in squares(top, block.y, rows)
                for column in squares(left, block.x, columns)
            )
        ]

    def around(self, block: Region) -> Region:
        """The region in grid px that all targets which touch a block cover together."""
        tops, lefts = self._touching(self.tops, block.y, block.bottom), self._touching(self.lefts, block.x, block.right)
        return Region(lefts[0], tops[0], lefts[-1] - lefts[0] + self.size, tops[-1] - tops[0] + self.size)

    def _touching(self, starts: Sequence[int], first: int, end: int) -> Sequence[int]:
        return starts[bisect_left(starts, first - self.size + 1) : bisect_left(starts, end)]


def starts(length: int, size: int, step: int, shift: int = 0) -> tuple[int, ...]:
    """Where targets begin along a side of a slide, ascending multiples of ``step``.

    They are spread evenly over each `PERIOD`. The first begins at the slide's border, and the last one ends there, or
    less than ``step`` behind it.

    Args:
        length: The side in grid px.
        size: Side of a target.
        step: Targets start on multiples of so many grid px.
        shift: The period begins so many grid px after the slide.
    """
    last = max(0, -(-(length - size) // step) * step)
    overlap, period = size // LEAST_OVERLAP, PERIOD * size
    count = -(-period // max(step, (size - overlap) // step * step))
    found = [0]
    for number in range(1, last // period * count + count + 1):
        start = number * period // count // step * step + shift
        if found[-1] < start < last:
            found.append(start)
    if len(found) > 1 and found[-2] + size - overlap >= last:
        found.pop()  # the last one covers what it would add
    return (*found, last) if last else (0,)


def turned(
    corners: Sequence[Corner], size: int, shape: tuple[int, int], quarters: int, *, mirrored: bool
) -> list[Corner]:
    """Where squares of a canvas lie once it is mirrored at a vertical axis and turned as `numpy.rot90` does.

    Args:
        corners: Their (row, column).
        size: Their side.
        shape: (rows, columns) of the canvas before.
        quarters: Quarter turns, counter-clockwise.
        mirrored: Whether it is mirrored first.

    Returns:
        Their (row, column) afterwards, in ascending order.
    """
    rows, columns = shape
    found = [(row, columns - size - column if mirrored else column) for row, column in corners]
    for _ in range(quarters % 4):
        found = [(columns - size - column, row) for row, column in found]
        rows, columns = columns, rows
    return sorted(found)


def blended(
    corners: Sequence[Corner],
    size: int,
    width: int,
    predict: Callable[[Sequence[Corner]], Iterator[tuple[Sequence[Corner], Tensor]]],
) -> Iterator[tuple[int, Tensor]]:
    """Mean logits of overlapping targets, each weighted less towards its border.

    The mean of logits moves a border between classes gradually from one target to the next; that of probabilities
    often jumps in the middle, where one of them is sure. Memory is a row of targets: rows of pixels are given as soon
    as no further target reaches them.

    Args:
        corners: (row, column) of the targets on a canvas, in ascending order.
        size: Their side.
        width: Columns of the canvas.
        predict: Some corners -> parts of them, with logits (B, C, size, size).

    Yields:
        (first row, mean logits (1, C, rows, width)); 0 where no target lies.
    """
    tops = sorted({top for top, _ in corners})
    weights: Tensor | None = None
    for number, top in enumerate(tops):
        for places, logits in predict([corner for corner in corners if corner[0] == top]):
            if weights is None:
                exact = torch.promote_types(logits.dtype, torch.float32)
                weights = _hat(size, logits.device).to(exact)
                summed = logits.new_zeros(logits.shape[1], size, width, dtype=exact)
                counted = logits.new_zeros(size, width, dtype=exact)
            for (_, left), part in zip(places, logits, strict=True):
                summed[..., left : left + size] += part * weights
                counted[:, left : left + size] += weights
        done = min(size, tops[number + 1] - top) if number + 1 < len(tops) else size
        yield top, (summed[:, :done] / counted[:done].clamp(min=1e-6))[None]
        for canvas in (summed, counted):
            canvas[..., : size - done, :] = canvas[..., done:, :].clone()
            canvas[..., size - done :, :] = 0


def _hat(size: int, device: torch.device) -> Tensor:
    """(size, size) weights: 1 inside, falling to nearly 0 at the border."""
    place = torch.arange(size, device=device) + 0.5
    rise = (torch.minimum(place, size - place) / max(1, size // RAMP)).clamp(max=1)
    return torch.outer(rise, rise)


def enlarged_bands(
    canvas: Tensor, factor: int, rows: int, enlarge: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Enlarges a canvas in bands, to the pixels that it would have as a whole.

    Args:
        canvas: (1, C, h, w).
        factor: How many times it is enlarged.
        rows: Rows of a band before.
        enlarge: Enlarges; a pixel depends on its neighbours alone.

    Yields:
        (first row afterwards, (1, C, rows * factor or less, w * factor)).
    """
    for top in range(0, canvas.shape[-2], rows):
        above = min(top, 1)
        large = enlarge(canvas[..., top - above : top + rows + 1, :])
        yield top * factor, large[..., above * factor :, :][..., : rows * factor, :]
