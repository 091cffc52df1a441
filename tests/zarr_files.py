"""OME-Zarr written for tests, by zarr-python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr


def axes_of(letters: str, unit: str | None = "micrometer") -> list[dict[str, str]]:
    """The axes of a picture as OME-Zarr says them."""
    types = {"t": "time", "c": "channel"}
    return [
        {"name": a, "type": types.get(a, "space"), **({"unit": unit} if unit and a in "zyx" else {})} for a in letters
    ]


def write_ome_zarr(
    path: Path,
    levels: list[np.ndarray],
    *,
    version: str = "0.5",
    axes: str = "tczyx",
    chunk: tuple[int, ...] = (1, 1, 1, 64, 96),
    mpp: float = 0.5,
    unit: str | None = "micrometer",
    **options: Any,
) -> Path:
    """A picture of some levels, (rows, columns, 3) uint8 each, finest first."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for number, pixels in enumerate(levels):
        down, across = (full / side for full, side in zip(levels[0].shape[:2], pixels.shape[:2], strict=True))
        scale = {"t": 1.0, "c": 1.0, "z": 1.0, "y": down * mpp, "x": across * mpp}
        corner = {"t": 0.0, "c": 0.0, "z": 0.0, "y": (down - 1) / 2 * mpp, "x": (across - 1) / 2 * mpp}
        steps = [
            {"type": "scale", "scale": [scale[a] for a in axes]},
            {"type": "translation", "translation": [corner[a] for a in axes]},
        ]
        datasets.append({"path": str(number), "coordinateTransformations": steps})
        data = np.moveaxis(pixels, 2, 0)
        if "z" in axes:
            data = data[:, None]
        if "t" in axes:
            data = data[None]
        group.create_array(str(number), data=data, chunks=chunk[-len(axes) :], **options)
    image: dict[str, Any] = {"axes": axes_of(axes, unit), "datasets": datasets, "name": "slide"}
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{"version": version, **image}]
    return path
