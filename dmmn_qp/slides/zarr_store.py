"""What zarr-python is given to read: files of a folder and nothing else, and decoders that no chunk makes overflow.

Imported only where OME-Zarr is read, because zarr is an extra.
"""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import imagecodecs
import numcodecs.abc  # type: ignore[import-untyped]
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.storage import StorePath

from dmmn_qp.files.ranges import RemoteFile
from dmmn_qp.files.remote import RemotePath
from dmmn_qp.slides.zarr_levels import COMPRESSORS, ZarrLevel

_OPEN_SHARDS: Final = 4
_SLACK_BYTES: Final = 1 << 16
"""How much longer a chunk may be in its file than decoded."""


def opened_array(folder: Path, level: ZarrLevel, zarr_format: int) -> Any:
    """Opens an array whose metadata were checked.

    Args:
        folder: The folder of the picture.
        level: The array.
        zarr_format: 2 or 3.

    Raises:
        Exception: Of any kind, where zarr does not take the metadata.
    """
    limit = prod(level.chunk)
    content = dict(level.metadata)
    metadata: Any
    if zarr_format == 2:
        compressor = content["compressor"]
        content["compressor"] = None if compressor is None else _BoundedOfV2(compressor["id"], limit)
        metadata = ArrayV2Metadata.from_dict(content)
    else:
        codecs = [_bounded(codec, limit) for codec in content["codecs"]]
        metadata = ArrayV3Metadata.from_dict({**content, "codecs": codecs})
    store = _Files(folder, prod(level.stored) + _SLACK_BYTES + 20 * (prod(level.stored) // limit))
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=StorePath(store, level.path)))


def decompressed(name: str, data: bytes, limit: int) -> bytes:
    """Decompresses a chunk.

    Args:
        name: Which compressor.
        data: What lies in the file.
        limit: Bytes of the chunk.

    Raises:
        Exception: Of any kind: it is damaged, or would become longer.
    """
    if name in ("gzip", "zlib"):
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        decoded = decoder.decompress(data, limit + 1)
    elif name == "lz4":
        if int.from_bytes(data[:4], "little") > limit:
            raise ValueError("a chunk that is longer than its array says")
        decoded = bytes(imagecodecs.lz4_decode(data, header=True, out=limit))
    else:
        decode = imagecodecs.zstd_decode if name == "zstd" else imagecodecs.blosc_decode
        decoded = bytes(decode(data, out=limit))
    if len(decoded) > limit:
        raise ValueError("a chunk that is longer than its array says")
    return decoded


@dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """Stands for a compressor of format 3."""

    name: str
    limit: int
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "configuration": {}}

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return chunk_spec.prototype.buffer.from_bytes(decompressed(self.name, chunk_bytes.to_bytes(), self.limit))

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError


class _BoundedOfV2(numcodecs.abc.Codec):  # type: ignore[misc]
    """Stands for a compressor of format 2."""

    codec_id = "bounded"

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit

    def encode(self, buf: Any) -> Any:
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> bytes:
        return decompressed(self._name, bytes(buf), self._limit)


def _bounded(codec: dict[str, Any], limit: int) -> Any:
    """Returns a codec of format 3 as zarr takes it, compressors replaced, those in shards included."""
    if codec["name"] in COMPRESSORS:
        return _Bounded(codec["name"], limit)
    if codec["name"] == "sharding_indexed":
        said = codec["configuration"]
        return ShardingCodec(
            chunk_shape=said["chunk_shape"],
            codecs=[_bounded(inner, limit) for inner in said["codecs"]],
            index_codecs=said["index_codecs"],
            index_location=said.get("index_location", "end"),
        )
    return codec


class _Files(Store):
    """The files below a folder, of which none is read that is longer than ``most_bytes``."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, folder: Path, most_bytes: int) -> None:
        super().__init__(read_only=True)
        self._folder, self._most_bytes = folder, most_bytes
        self._shards: OrderedDict[str, RemoteFile] = OrderedDict()
        self._lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Files) and self._folder == other._folder

    def __hash__(self) -> int:
        return hash(self._folder)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread((self._folder / key).is_file)

    async def set(self, key: str, value: Any) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        raise NotImplementedError
        yield

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError
        yield

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError
        yield

    def _read(self, key: str, byte_range: Any) -> bytes | None:
        path = self._folder / key
        if byte_range is None and isinstance(path, RemotePath):
            return path.whole(self._most_bytes)
        if isinstance(path, RemotePath):
            shard = self._shard(key, path)
            return None if shard is None else shard.read_at(*_place(byte_range, shard.size, self._most_bytes))
        if not path.is_file():
            return None
        start, count = _place(byte_range, path.stat().st_size, self._most_bytes)
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)

    def _shard(self, key: str, path: RemotePath) -> RemoteFile | None:
        """Returns a shard on a server, open: its index and chunks beside each other then come in one answer."""
        with self._lock:
            if key not in self._shards:
                try:
                    self._shards[key] = path.open("rb")
                except FileNotFoundError:
                    return None
                while len(self._shards) > _OPEN_SHARDS:
                    self._shards.popitem(last=False)
            return self._shards[key]


def _place(byte_range: Any, size: int, most_bytes: int) -> tuple[int, int]:
    """Returns (start, count) of what zarr asks for of a file.

    Raises:
        ValueError: It is more than chunks have.
    """
    start, end = 0, size
    if isinstance(byte_range, RangeByteRequest):
        start, end = byte_range.start, min(byte_range.end, size)
    elif isinstance(byte_range, OffsetByteRequest):
        start = byte_range.offset
    elif isinstance(byte_range, SuffixByteRequest):
        start = max(0, size - byte_range.suffix)
    if end - start > most_bytes:
        raise ValueError(f"{end - start:,} bytes for one chunk")
    return start, max(0, end - start)
