"""Turned and mirrored copies of an image, for means over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class View(NamedTuple):
    """How a copy is made: mirrored or not, then turned by so many quarters."""

    mirrored: bool
    quarters: int


VIEWS: dict[int, tuple[View, ...]] = {
    1: (View(False, 0),),
    3: (View(False, 0), View(True, 1), View(False, 2)),
    8: tuple(View(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)),
}
"""Number of copies -> the copies, the image itself first."""


def as_seen(image: Tensor, view: View) -> Tensor:
    """An image (..., h, w) as a view shows it."""
    return torch.rot90(image.flip(-1) if view.mirrored else image, view.quarters, (-2, -1))


def turned_back(seen: Tensor, view: View) -> Tensor:
    """What was found on a view, (..., h, w), as it lies on the image."""
    back = torch.rot90(seen, -view.quarters, (-2, -1))
    return back.flip(-1) if view.mirrored else back
