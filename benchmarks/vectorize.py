"""Label maps to QuPath polygons: ours from tracing to GeoJSON, against GDAL's tracing of the whole map alone.

Each side runs in a process of its own, which gives its peak memory; time is CPU time. Read the ratios.

Usage: python benchmarks/vectorize.py [--sides 4096 8192 16384] [--paper] [--tolerances] [--profile]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window
from scipy import sparse

from dmmn_qp.regions import Region

PAPER = (38_380, 53_711)
CLASSES = 6
STRIP_PX = 1024
SHRINK = 4
MPP = 0.5


def label_map(rows: int, columns: int, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Smooth blobs at two scales with borders that are ragged pixel by pixel, in strips of `STRIP_PX` rows."""
    rng = np.random.default_rng(seed)
    fields = [(pitch, weight, rng.normal(size=(CLASSES, rows // (SHRINK * pitch) + 5, columns // (SHRINK * pitch) + 5)))
              for pitch, weight in ((96, 1.0), (16, 0.45))]  # fmt: skip
    margin = 8
    for top in range(0, rows, STRIP_PX):
        height = min(STRIP_PX, rows - top)
        small_y = np.arange(height // SHRINK + 2 * margin) + top // SHRINK
        small_x = np.arange(columns // SHRINK + 2 * margin)
        total = 0.0
        for pitch, weight, lattice in fields:
            down, across = _cubic(small_y / pitch, lattice.shape[1]), _cubic(small_x / pitch, lattice.shape[2])
            total = total + weight * np.stack([(across @ (down @ one).T).T for one in lattice]).astype(np.float32)
        smooth = np.argmax(total, 0).astype(np.uint8) + 1
        jitter = rng.normal(0, 1.0, (2, height // 2 + 1, columns // 2 + 1)).astype(np.float32)
        jitter = np.kron(jitter, np.ones((1, 2, 2), np.float32))[:, :height, :columns]
        y = ((np.arange(height)[:, None] + jitter[0]) / SHRINK + margin).astype(np.int32)
        x = ((np.arange(columns)[None] + jitter[1]) / SHRINK + margin).astype(np.int32)
        yield smooth[y, x]


def _cubic(at: NDArray[np.float64], size: int) -> sparse.csr_array:
    """Weights of a cubic B-spline lattice at some places."""
    cell = at.astype(int)
    t = at - cell
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    index = np.minimum(np.stack([cell + i for i in range(4)]), size - 1)
    row = np.broadcast_to(np.arange(len(at)), index.shape)
    return sparse.csr_array((weights.ravel(), (row.ravel(), index.ravel())), shape=(len(at), size))


class Raster:
    """A label raster in a file, read in windows."""

    def __init__(self, path: Path) -> None:
        self._file = rasterio.open(path)
        self.shape = self._file.shape

    def read(self, window: Region) -> NDArray[np.uint8]:
        """Labels of a window inside the raster."""
        labels: NDArray[np.uint8] = self._file.read(1, window=Window(window.x, window.y, window.width, window.height))
        return labels
