"""Random changes of colour (paper, section 2.5): one matrix for each patch, of intensities or of stain densities."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin, sqrt
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import ColorRule

LUMA: Final = np.array([0.299, 0.587, 0.114])
"""What red, green and blue count for the brightness of a pixel."""

STAINS: Final = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston, 2001)."""

DENSITIES: Final = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Optical density of each value of a pixel; 0 is taken as 1."""


@dataclass(frozen=True, slots=True)
class ColorChange:
    """One drawn change of colour.

    Attributes:
        matrix: (3, 4) float32: new red, green and blue from the old ones and 1.
        of_density: Whether the matrix applies to optical densities, else to intensities from 0 to 1.
    """

    matrix: NDArray[np.float32]
    of_density: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, rule: ColorRule) -> ColorChange:
        """Draws a change.

        The paper names brightness, contrast and colour jitter and gives no ranges; these are ours. ``mild``: contrast
        +-10 %, each channel +-7 %, brightness +-5 %. ``paper``: contrast and saturation +-25 %, brightness +-10 %,
        hue +-15 degrees. ``hed``: the amount of each stain +-20 % and +-0.03 of optical density. ``none``: nothing.

        Args:
            rng: Source of randomness.
            rule: Which kind.
        """
        if rule == "mild":
            gain = rng.uniform(0.93, 1.07, 3) * rng.uniform(0.9, 1.1)
            return cls.about_grey(np.diag(gain), float(rng.uniform(-0.05, 0.05)))
        if rule == "paper":
            contrast, brightness = rng.uniform(0.75, 1.25), float(rng.uniform(-0.1, 0.1))
            turned = hue(float(rng.uniform(-pi / 12, pi / 12))) @ saturation(float(rng.uniform(0.75, 1.25)))
            return cls.about_grey(contrast * turned, brightness)
        if rule == "hed":
            return cls.of_stains(rng.uniform(0.8, 1.2, 3), rng.uniform(-0.03, 0.03, 3))
        return cls.about_grey(np.eye(3), 0.0)

    @classmethod
    def about_grey(cls, matrix: NDArray[np.float64], brightness: float) -> ColorChange:
        """A change that leaves mid-grey where it is, but for the brightness that is added to all channels."""
        offset = 0.5 - matrix @ np.full(3, 0.5) + brightness
        return cls(np.column_stack([matrix, offset]).astype(np.float32))

    @classmethod
    def of_stains(cls, factors: NDArray[np.float64], added: NDArray[np.float64]) -> ColorChange:
        """Changes the amount of each of the `STAINS`: times a factor, then more or less by some density."""
        stains = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
        matrix = stains.T @ np.diag(factors) @ np.linalg.inv(stains.T)
        return cls(np.column_stack([matrix, stains.T @ added]).astype(np.float32), of_density=True)

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Changes (rows, columns, 3) uint8; never used on labels."""
        matrix = self.matrix
        if self.of_density:
            density = cv2.transform(DENSITIES[pixels], matrix)
            return np.asarray(
                cv2.convertScaleAbs(cv2.exp(np.maximum(density, 0) * np.float32(-1)), alpha=255), np.uint8
            )
        if np.array_equal(matrix, np.eye(3, 4)):
            return pixels
        return np.asarray(cv2.transform(pixels, matrix * np.array([1, 1, 1, 255], np.float32)), np.uint8)


def hue(angle: float) -> NDArray[np.float64]:
    """Turns colours about the grey axis: (3, 3); grey stays grey."""
    c, s = cos(angle), sin(angle) / sqrt(3)
    return c * np.eye(3) + (1 - c) / 3 + s * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def saturation(factor: float) -> NDArray[np.float64]:
    """Moves colours away from the grey of their brightness: (3, 3); 0 gives grey, 1 changes nothing."""
    return factor * np.eye(3) + (1 - factor) * np.tile(LUMA, (3, 1))
