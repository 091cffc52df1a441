"""The one writer of our OME-Zarr pyramids, strip by strip; zarr-python is an extra.

A level is an array of tiles. In version 0.5 the tiles of a row lie together in files of up to `_TILES_IN_FILE`, so that
a large slide has hundreds of files and not a hundred thousand; in version 0.4 each tile is a file. Tiles of nothing but
0 are left out. Memory is bounded by a row of tiles of each level.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dmmn_qp.files import new_folder
from dmmn_qp.outputs.levels import TILE, Halve, Pixels, every_second, level_shapes, levels_of, means_of_four
from dmmn_qp.specs import ClassMap, LabelArray
from dmmn_qp.version import __version__

OmeZarrVersion = Literal["0.4", "0.5"]

MARKERS: Final[Mapping[OmeZarrVersion, str]] = {"0.4": ".zgroup", "0.5": "zarr.json"}
"""Version -> the file by which a folder is known to be of it."""

_TILES_IN_FILE: Final = 32

_LEVEL: Final = 3  # of zstd


@dataclass(frozen=True, slots=True)
class _Image:
    """What is told of an image apart from its pixels.

    Attributes:
        name: What it is called.
        shape: (channels, rows, columns).
        mpp: um/px.
        has_channels: Whether there is an axis of channels, or the only one is left out.
        method: How coarser levels are made, in a word.
        more: Metadata beside ``multiscales``.
    """

    name: str
    shape: tuple[int, int, int]
    mpp: float
    has_channels: bool
    method: str
    more: Mapping[str, Any]


def write_label_zarr(
    path: Path,
    rows: Iterable[LabelArray],
    shape: tuple[int, int],
    mpp: float,
    class_map: ClassMap,
    version: OmeZarrVersion,
) -> None:
    """Writes labels as an OME-Zarr label image: the pyramid of `write_label_pyramid`, with names and colours.

    The folder appears when it is complete, in place of one of ours.

    Args:
        path: The folder.
        rows: Consecutive strips from top to bottom, each (height, columns) uint8 of any height.
        shape: (rows, columns) of the whole.
        mpp: um/px of the raster.
        class_map: The classes.
        version: Of OME-Zarr.

    Raises:
        ValueError: The strips do not make up ``shape``, or ``mpp`` is no length.
    """
    classes = class_map.classes
    about = {
        **({"version": version} if version == "0.4" else {}),
        "colors": [{"label-value": c.label, "rgba": [*c.color, 255]} for c in classes],
        "properties": [{"label-value": c.label, "class": c.name} for c in classes],
    }
    image = _Image("labels", (1, *shape), mpp, False, "nearest", {"image-label": about})
    _write(path, (strip[None] for strip in rows), image, every_second, version)


def write_channels_zarr(
    path: Path,
    strips: Iterable[Pixels],
    shape: tuple[int, int],
    mpp: float,
    names: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    version: OmeZarrVersion,
) -> None:
    """Writes channels of uint8 as an OME-Zarr image: the pyramid of `write_probability_pyramid`.

    Args:
        path: The folder.
        strips: Consecutive strips from top to bottom, each (channels, height, columns) uint8 of any height.
        shape: (rows, columns) of the whole.
        mpp: um/px of the raster.
        names: Name of each channel.
        colors: Red, green, blue of each channel.
        version: Of OME-Zarr.

    Raises:
        ValueError: The strips do not make up ``shape``, names and colours differ in number, or ``mpp`` is no length.
    """
    channels = [
        {
            "label": name,
            "color": "{:02X}{:02X}{:02X}".format(*color),
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for name, color in zip(names, colors, strict=True)
    ]
    image = _Image(
        path.name.removesuffix(".ome.zarr"),
        (len(names), *shape),
        mpp,
        True,
        "mean",
        {"omero": {"channels": channels, "rdefs": {"model": "color"}}},
    )
    _write(path, strips, image, means_of_four, version)


class _Arrays:
    """The arrays of all levels, to which rows of tiles are written."""

    def __init__(self, folder: Path, image: _Image, version: OmeZarrVersion) -> None:
        import zarr

        about: Any = _metadata(image, version)
        group = zarr.create_group(
            store=folder,
            zarr_format=2 if version == "0.4" else 3,
            attributes=about if version == "0.4" else {"ome": about},
        )
        shapes = level_shapes(image.shape)
        self._has_channels = image.has_channels
        self._arrays = [_array(group, str(i), shape, image, version) for i, shape in enumerate(shapes)]

    def add(self, level: int, row: int, pixels: Pixels) -> None:
        """See `TileRows.add`."""
        rows = slice(row, row + pixels.shape[1])
        if self._has_channels:
            for channel, plane in enumerate(pixels):
                self._arrays[level][channel, rows, :] = plane
        else:
            self._arrays[level][rows, :] = pixels[0]


def _write(path: Path, strips: Iterable[Pixels], image: _Image, halve: Halve, version: OmeZarrVersion) -> None:
    """Writes a pyramid of which ``halve`` makes each coarser level from the finer one."""
    if min(image.shape) < 1 or not (math.isfinite(image.mpp) and image.mpp > 0):
        raise ValueError(f"{image.shape} px of {image.mpp} um/px")
    marker = next((name for name in MARKERS.values() if (path / name).is_file()), MARKERS[version])
    with new_folder(path, overwrite=True, marker=marker) as temporary:
        levels_of(image.shape, _Arrays(temporary, image, version), halve)[0].add_all(strips)


def _array(group: Any, name: str, shape: tuple[int, int, int], image: _Image, version: OmeZarrVersion) -> Any:
    """Makes the array of a level, all 0."""
    from zarr.codecs import ZstdCodec

    first = slice(0 if image.has_channels else 1, None)
    tile = (1, TILE, TILE)[first]
    across = min(_TILES_IN_FILE, -(-shape[2] // TILE))
    common = {"shape": shape[first], "chunks": tile, "dtype": "uint8", "fill_value": 0}
    if version == "0.4":
        key = {"name": "v2", "separator": "/"}
        return group.create_array(name, **common, compressors={"id": "zlib", "level": 1}, chunk_key_encoding=key)
    shards, axes = (1, TILE, TILE * across)[first], ("c", "y", "x")[first]
    return group.create_array(name, **common, shards=shards, compressors=ZstdCodec(level=_LEVEL), dimension_names=axes)


def _metadata(image: _Image, version: OmeZarrVersion) -> dict[str, Any]:
    """What the group of an image says by the specification of OME-Zarr.

    A pixel of level n stands for 2**n pixels of the finest, so its middle lies beyond theirs: hence the translation.
    """
    axes: list[dict[str, str]] = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    one = [1.0] if image.has_channels else []
    datasets = [
        {
            "path": str(n),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*one, *[image.mpp * 2**n] * 2]},
                {"type": "translation", "translation": [*(0.0 for _ in one), *[image.mpp * (2**n - 1) / 2] * 2]},
            ],
        }
        for n in range(len(level_shapes(image.shape)))
    ]
    multiscale = {
        **({"version": version} if version == "0.4" else {}),
        "name": image.name,
        "axes": [{"name": "c", "type": "channel"}, *axes] if image.has_channels else axes,
        "datasets": datasets,
        "type": image.method,
        "metadata": {"method": "dmmn-qp", "version": __version__},
    }
    return {**({} if version == "0.4" else {"version": version}), "multiscales": [multiscale], **image.more}
