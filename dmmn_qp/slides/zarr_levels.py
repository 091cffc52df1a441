"""What the metadata of an array of Zarr say: checked before any chunk of it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from dmmn_qp.slides.tiff_tiles import MAX_SEGMENT_BYTES
from dmmn_qp.text import shorten

MAX_CHUNKS_OF_SHARD: Final = 1 << 18
"""Longest index of a shard is 4 MiB."""

COMPRESSORS: Final = frozenset({"gzip", "zlib", "zstd", "blosc", "lz4"})
_CODECS: Final = COMPRESSORS | {"bytes", "transpose", "crc32c", "sharding_indexed"}
_MAX_SIDE: Final = 2**31
_MAX_CODECS: Final = 6


@dataclass(frozen=True, slots=True)
class ZarrLevel:
    """One array of the pyramid, checked.

    Attributes:
        path: Its folder below that of the slide.
        metadata: Its metadata, as the file has them.
        shape: Its sides, by axis.
        chunk: Sides of what is decoded at once, by axis.
        stored: Sides of what a file holds: chunks, or shards of several.
        axes: Letters of its axes, such as ``tczyx``.
    """

    path: str
    metadata: Mapping[str, Any]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    stored: tuple[int, ...]
    axes: str

    def side(self, axis: str) -> int:
        """Returns how long an axis is; 1 where there is none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.side("x"), self.side("y")


def sequence(value: Any) -> list[Any]:
    """Returns a list of metadata, if it is one and holds something.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("a list in its metadata is empty, or is none")
    return value


def checked_level(path: str, metadata: Mapping[str, Any], form: int, axes: str) -> ZarrLevel:
    """Checks what is said of an array.

    Args:
        path: Its folder below that of the slide.
        metadata: What the file says.
        form: 2 or 3, the format of Zarr.
        axes: Letters of its axes.

    Raises:
        ValueError: It contradicts itself, or claims what cannot be; so do `KeyError`, `TypeError` and their like.
    """
    shape = _sides(metadata["shape"], len(axes))
    _check_type(metadata["data_type"] if form == 3 else metadata["dtype"])
    chunk, stored = _of_v3(metadata, len(axes)) if form == 3 else _of_v2(metadata, len(axes))
    if prod(chunk) > MAX_SEGMENT_BYTES:
        raise ValueError(f"its chunks are of {' x '.join(map(str, chunk))} px, too large to be read in parts")
    if prod(stored) // prod(chunk) > MAX_CHUNKS_OF_SHARD:
        raise ValueError("its shards hold too many chunks")
    return ZarrLevel(path, metadata, shape, chunk, stored, axes)


def _sides(value: Any, count: int) -> tuple[int, ...]:
    sides = tuple(sequence(value))
    if len(sides) != count or not all(type(side) is int and 0 < side < _MAX_SIDE for side in sides):
        raise ValueError(f"an array or its chunks have sides {shorten(str(value), 60)}")
    return sides


def _check_type(said: Any) -> None:
    if said not in ("|u1", "<u1", ">u1", "uint8"):
        raise ValueError(f"its pixels are of type {shorten(str(said), 30)} instead of 8 bits (uint8)")


def _of_v2(metadata: Mapping[str, Any], count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns sides of chunks, and of files, of format 2."""
    compressor = metadata["compressor"]
    _check_codecs([] if compressor is None else [compressor["id"]], COMPRESSORS)
    if metadata.get("filters"):
        raise ValueError("its chunks have filters, which are not read")
    if metadata.get("dimension_separator", ".") not in ("/", ".") or metadata.get("order") not in ("C", "F"):
        raise ValueError("its chunks are named or ordered in an unknown way")
    chunk = _sides(metadata["chunks"], count)
    return chunk, chunk


def _of_v3(metadata: Mapping[str, Any], count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns sides of chunks, and of files, of format 3."""
    grid, naming = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or naming["name"] not in ("default", "v2") or _separator(naming) not in ("/", "."):
        raise ValueError("its chunks are laid or named in an unknown way")
    if metadata.get("storage_transformers"):
        raise ValueError("it has storage transformers, which are not read")
    stored = chunk = _sides(grid["configuration"]["chunk_shape"], count)
    codecs = _check_codecs([codec["name"] for codec in sequence(metadata["codecs"])], _CODECS)
    if "sharding_indexed" in codecs:
        shards = metadata["codecs"][codecs.index("sharding_indexed")]["configuration"]
        chunk = _sides(shards["chunk_shape"], count)
        _check_codecs([codec["name"] for codec in sequence(shards["codecs"])], _CODECS - {"sharding_indexed"})
        _check_codecs([codec["name"] for codec in sequence(shards["index_codecs"])], frozenset({"bytes", "crc32c"}))
        if any(whole % part for whole, part in zip(stored, chunk, strict=True)) or len(codecs) > 1:
            raise ValueError("its shards are no whole number of chunks, or coded once more")
    return chunk, stored


def _check_codecs(names: list[Any], known: frozenset[str]) -> list[Any]:
    unknown = [name for name in names if name not in known]
    if unknown or len(names) > _MAX_CODECS:
        raise ValueError(
            f"its chunks are coded by {shorten(str(unknown or names), 60)}; {', '.join(sorted(known))} are read"
        )
    return names


def chunk_key(level: ZarrLevel, place: list[int]) -> str:
    """Returns the name of the file of a chunk, or shard."""
    if "chunk_grid" not in level.metadata:
        return str(level.metadata.get("dimension_separator", ".")).join(map(str, place))
    naming = level.metadata["chunk_key_encoding"]
    return _separator(naming).join(["c", *map(str, place)] if naming["name"] == "default" else map(str, place))


def _separator(naming: Mapping[str, Any]) -> str:
    """Returns what stands between the numbers in names of chunks of format 3."""
    usual = "/" if naming["name"] == "default" else "."
    return str(naming.get("configuration", {}).get("separator", usual))
