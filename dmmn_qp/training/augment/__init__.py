"""Random changes of a training patch (paper, sections 2.3, 2.5): the same for all its magnifications and its mask."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np

from dmmn_qp.choices import ColorRule
from dmmn_qp.specs import MAX_ZOOM
from dmmn_qp.training.augment.color import ColorChange
from dmmn_qp.training.augment.warp import Warp, draw_nodes, turn


@dataclass(frozen=True, slots=True)
class AugmentRules:
    """How much patches are changed.

    Attributes:
        color: Which changes of colour.
        zoom: A patch shows up to this many times more or less tissue per side; 1 does not zoom.
    """

    color: ColorRule = "mild"
    zoom: float = MAX_ZOOM


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One drawn change.

    Attributes:
        warp: Where the pixels come from.
        color: What becomes of their colours.
    """

    warp: Warp
    color: ColorChange

    @classmethod
    def draw(
        cls, rng: np.random.Generator, rules: AugmentRules, size_px: int, magnifications: int, *, deformed: bool
    ) -> Augmentation:
        """Draws a change: any rotation, a flip or none, zoom and colour by the rules.

        Args:
            rng: Source of randomness.
            rules: How much.
            size_px: Side of the patch at each magnification.
            magnifications: Number of magnifications.
            deformed: Whether the patch is a deformed copy (section 2.3).
        """
        angle, zoom = rng.uniform(0, 2 * pi), rules.zoom ** rng.uniform(-1, 1)
        flip = bool(rng.integers(2))
        color = ColorChange.draw(rng, rules.color)
        nodes_px = draw_nodes(rng, size_px * 2 ** (magnifications - 1)) if deformed else None
        return cls(Warp(size_px, magnifications, turn(angle, zoom, flip), nodes_px), color)

    @classmethod
    def deformation(cls, rng: np.random.Generator, size_px: int, magnifications: int) -> Augmentation:
        """Draws nothing but what makes a deformed copy (section 2.3): as it lies, in its own colours.

        Args:
            rng: Source of randomness.
            size_px: Side of the patch at each magnification.
            magnifications: Number of magnifications.
        """
        nodes_px = draw_nodes(rng, size_px * 2 ** (magnifications - 1))
        unchanged = ColorChange.draw(rng, "none")
        return cls(Warp(size_px, magnifications, turn(0, 1, flip=False), nodes_px), unchanged)
