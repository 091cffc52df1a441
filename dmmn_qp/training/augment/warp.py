"""One geometric change of a patch: where every pixel of every magnification comes from (paper, sections 2.3, 2.5)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.labels.reach import MAX_SIGMAS, PAPER_FIELD_PX, SIGMA_PX
from dmmn_qp.regions import Region

NODES = 17
"""Nodes of the elastic grid on each axis (section 2.3); the outer ones are on the corners of the widest field."""


cv2.setNumThreads(1)  # patches are read by processes; OpenCV's own threads would not outlive their fork


def draw_nodes(rng: np.random.Generator, widest_px: int) -> NDArray[np.float32]:
    """Draws the displacements of the elastic grid: (2, 17, 17) grid px, x before y, normally distributed.

    The deviation is the paper's 4 px. On a field narrower than the paper's it is less by the same factor, so that the
    nodes, which are then closer together, do not pass each other and fold the tissue.

    Args:
        rng: Source of randomness.
        widest_px: Side of the widest field in grid px.
    """
    sigma = SIGMA_PX * min(1.0, widest_px / PAPER_FIELD_PX)
    nodes = rng.normal(0, sigma, (2, NODES, NODES))
    return np.clip(nodes, -MAX_SIGMAS * sigma, MAX_SIGMAS * sigma).astype(np.float32)


def turn(angle: float, zoom: float, flip: bool) -> NDArray[np.float64]:
    """The matrix of a rotation (radians), a zoom (above 1 shows more tissue) and a flip of the rows: (2, 2)."""
    a, b, down = zoom * cos(angle), zoom * sin(angle), -1 if flip else 1
    return np.array([[a, -b * down], [b, a * down]])


@lru_cache(maxsize=32)
def node_weights(size_px: int, magnification: int, magnifications: int) -> NDArray[np.float32]:
    """How much each node counts for each pixel on one axis: (S, 17), rows with a sum of 1.

    Cubic convolution after Keys with a = -1/2; beyond the outer nodes the grid goes on linearly.

    Args:
        size_px: S, side of the patch at each magnification.
        magnification: Number of the magnification, 0 = finest.
        magnifications: Number of magnifications; the grid spans the coarsest field.
    """
    about_centre = (np.arange(size_px) + 0.5 - size_px / 2) * 2**magnification  # grid px
    position = (about_centre / (size_px * 2 ** (magnifications - 1)) + 0.5) * (NODES - 1)
    left = np.clip(np.floor(position).astype(int), 0, NODES - 2)
    t = position - left
    cubic = np.stack(
        [
            ((-0.5 * t + 1) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ]
    )
    padded = np.zeros((size_px, NODES + 2))
    for k in range(4):
        padded[np.arange(size_px), left + k] = cubic[k]
    weights = padded[:, 1:-1].copy()
    for outer, first, second in ((0, 0, 1), (-1, -1, -2)):
        weights[:, first] += 2 * padded[:, outer]
        weights[:, second] -= padded[:, outer]
    return weights.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where the pixels of one magnification come from.

    Attributes:
        x: (S, S) float32 columns in px of the magnification; 0 is the first column of the unchanged field.
        y: (S, S) float32 rows.
        source: The smallest region that holds all that is needed, likewise about the unchanged field's corner.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    source: Region

    def source_in(self, field: Region) -> Region:
        """What to read, given the unchanged field in pixels of the magnification's grid."""
        return Region(field.x + self.source.x, field.y + self.source.y, self.source.width, self.source.height)

    def sample(self, pixels: NDArray[np.uint8], *, labels: bool = False) -> NDArray[np.uint8]:
        """The changed patch.

        Args:
            pixels: The source region: (rows, columns) labels or (rows, columns, 3) pixels.
            labels: Whether the values are labels, of which the nearest is taken and none are mixed.

        Returns:
            (S, S) or (S, S, 3), interpolated linearly but for labels.
        """
        x, y = self.x - np.float32(self.source.x), self.y - np.float32(self.source.y)
        how = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
        moved = cv2.remap(pixels, x, y, how, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved, np.uint8)


@dataclass(frozen=True, slots=True)
class Warp:
    """The one map of a patch, from which all magnifications and the mask are sampled.

    A pixel of the changed patch at ``p`` grid px from the common centre shows the tissue at ``matrix @ (p + d(p))``
    from the same centre. The elastic grid that gives ``d`` lies on the patch as the network sees it, so it spans the
    widest field whatever the rotation.

    Attributes:
        size_px: S, side of the patch at each magnification, in its own pixels.
        magnifications: Number of magnifications.
        matrix: (2, 2) float64 of `turn`.
        nodes_px: (2, 17, 17) displacements of `draw_nodes` in grid px; None for no elastic deformation.
    """

    size_px: int
    magnifications: int
    matrix: NDArray[np.float64]
    nodes_px: NDArray[np.float32] | None = None

    def sampling(self, magnification: int) -> Sampling:
        """Where the pixels of magnification number ``magnification`` come from; the mask is at number 0."""
        middle = self.size_px / 2 - 0.5
        about_centre = np.arange(self.size_px, dtype=np.float32) - np.float32(middle)
        matrix = self.matrix.astype(np.float32)
        x, y = (matrix[i, 0] * about_centre + (matrix[i, 1] * about_centre)[:, None] for i in (0, 1))
        if self.nodes_px is not None:
            weights = node_weights(self.size_px, magnification, self.magnifications)
            moved = np.einsum("ij,jkl->ikl", matrix, self.nodes_px) / np.float32(2**magnification)
            x += _spread(weights, moved[0])
            y += _spread(weights, moved[1])
        x += np.float32(middle)
        y += np.float32(middle)
        left, top = floor(x.min()), floor(y.min())
        return Sampling(x, y, Region(left, top, ceil(x.max()) + 1 - left, ceil(y.max()) + 1 - top))


def _spread(weights: NDArray[np.float32], nodes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolates between nodes: (S, S). OpenCV's product stays in one thread, where NumPy's would start others."""
    rows = cv2.gemm(weights, nodes, 1.0, None, 0.0)  # type: ignore[call-overload]
    dense = cv2.gemm(rows, weights, 1.0, None, 0.0, flags=cv2.GEMM_2_T)  # type: ignore[call-overload]
    return np.asarray(dense, np.float32)
