"""Random changes of a training patch (paper, section 2.5): the same for all its magnifications and its mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One drawn change.

    Attributes:
        quarter_turns: Rotation by multiples of 90 degrees.
        flip: Whether the rows are mirrored (with the turns this gives every flip).
        gain: (3,) contrast about mid-grey, per colour channel.
        offset: Brightness added, in parts of the full range.
    """

    quarter_turns: int
    flip: bool
    gain: NDArray[np.float32]
    offset: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Augmentation:
        """Draws a change: any turn and flip, contrast 0.8 .. 1.2, colour +-15 %, brightness +-10 %."""
        quarter_turns = int(rng.integers(4))
        flip = bool(rng.integers(2))
        gain = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.8, 1.2)
        return cls(quarter_turns, flip, gain.astype(np.float32), float(rng.uniform(-0.1, 0.1)))

    def move(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turns and flips the first two axes of (S, S) or (S, S, 3)."""
        turned = np.rot90(array, self.quarter_turns)
        return np.ascontiguousarray(turned[::-1] if self.flip else turned)

    def recolor(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Changes contrast, colour and brightness of (..., 3) uint8; never used on labels."""
        table = np.arange(256, dtype=np.float32)[:, None] / 255
        changed = (table - 0.5) * self.gain + 0.5 + self.offset
        lookup = np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)  # (256, 3)
        return np.stack([lookup[:, c][pixels[..., c]] for c in range(3)], axis=-1)
