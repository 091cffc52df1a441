"""Random changes of a training patch (paper, section 2.5): the same for all its magnifications and its mask."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_ZOOM = 1.25
"""A patch shows at most this many times more or less tissue per side than it does unchanged."""

MAX_AUGMENTED_FIELD = MAX_ZOOM * sqrt(2) + 0.02
"""Side of the square that any rotation and zoom may show of a field, in sides of the field."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One drawn change.

    Attributes:
        angle: Rotation about the centre in radians.
        zoom: Pixels of the source per pixel of the patch; above 1 shows more tissue.
        flip: Whether the rows are mirrored; with the rotation this gives every flip.
        gain: (3,) contrast about mid-grey, per colour channel.
        offset: Brightness added, in parts of the full range.
    """

    angle: float
    zoom: float
    flip: bool
    gain: NDArray[np.float32]
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        """Draws a change: any rotation, flip, zoom, contrast +-10 %, colour +-7 %, brightness +-5 %."""
        angle, zoom = rng.uniform(0, 2 * pi), MAX_ZOOM ** rng.uniform(-1, 1)
        flip = bool(rng.integers(2))
        gain = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.9, 1.1)
        return cls(angle, zoom, flip, gain.astype(np.float32), float(rng.uniform(-0.05, 0.05)))

    def margin_px(self, size_px: int) -> int:
        """Pixels needed around a field of ``size_px`` on each side, at every magnification."""
        return ceil(size_px * (self.zoom * sqrt(2) - 1) / 2) + 2

    def move(self, source: NDArray[np.uint8], size_px: int, *, labels: bool) -> NDArray[np.uint8]:
        """Rotates, zooms and flips about the centre.

        Args:
            source: (S + 2 margin, S + 2 margin) labels or (..., 3) pixels, concentric with the patch.
            size_px: S.
            labels: Whether the values are labels, which are never mixed.

        Returns:
            (S, S) or (S, S, 3).
        """
        a, b = self.zoom * cos(self.angle), self.zoom * sin(self.angle)
        down = -1 if self.flip else 1
        middle, half = source.shape[0] / 2, size_px / 2
        matrix = (a, -b * down, middle - (a - b * down) * half, b, a * down, middle - (b + a * down) * half)
        moved = Image.fromarray(source).transform(
            (size_px, size_px),
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.NEAREST if labels else Image.Resampling.BILINEAR,
        )
        return np.array(moved)

    def recolor(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Changes contrast, colour and brightness of (..., 3) uint8; never used on labels."""
        table = np.arange(256, dtype=np.float32)[:, None] / 255
        changed = (table - 0.5) * self.gain + 0.5 + self.offset
        lookup = np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)  # (256, 3)
        return np.stack([lookup[:, c][pixels[..., c]] for c in range(3)], axis=-1)
