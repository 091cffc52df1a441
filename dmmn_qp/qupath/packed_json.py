"""Unpacks GeoJSON files, within bounds, and parses JSON as leniently as QuPath does."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
import zlib
from typing import Final

import orjson

MAX_TEXT_BYTES: Final = 2**30
"""A file may unpack to this many bytes: some two million outlines."""
MAX_RATIO: Final = 100
"""A file that unpacks to more than 16 MiB may grow so many times; drawn outlines grow 3 to 30 times."""
BOM: Final = b"\xef\xbb\xbf"

_SMALL_BYTES: Final = 2**24
_BAD_ARCHIVE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,  # encrypted; includes NotImplementedError, for unknown methods
    ValueError,
    LookupError,
    OverflowError,
    ImportError,
)
# Strings first, so that what looks like a comment inside one is left alone. What is never closed goes on to
# the end: if it did not match, the search would start over within it, again and again.
_TOKENS: Final = re.compile(
    r""""(?:[^"\\]++|\\.?)*+(?:"|\Z)"""
    r"""|'(?:[^'\\]++|\\.?)*+(?:'|\Z)"""
    r"""|//[^\r\n]*|\#[^\r\n]*|/\*.*?(?:\*/|\Z)""",
    re.DOTALL,
)


class FileContentError(ValueError):
    """A whole file that cannot be read; the message goes on from its name and ends with the way out."""


def is_zip(data: bytes) -> bool:
    """Whether the bytes are an archive; an empty one has a mark of its own."""
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_gzip(data: bytes) -> bool:
    """Whether the bytes are one gzip-compressed file."""
    return data.startswith(b"\x1f\x8b")


def unpack_gzip(data: bytes) -> bytes:
    """Unpack a gzip file.

    Raises:
        FileContentError: It is damaged, or unpacks to too much.
    """
    limit = _limit(len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            text = packed.read(limit + 1)
    except _BAD_ARCHIVE as error:
        raise FileContentError(f"is truncated or damaged ({error}); export it again") from error
    if len(text) > limit:
        raise _too_large(limit)
    return text


def unpack_zip(data: bytes, suffixes: tuple[str, ...]) -> tuple[dict[str, bytes], list[str]]:
    """Unpack the files with some suffixes from an archive.

    Args:
        data: The archive.
        suffixes: Endings of names, in lower case.

    Returns:
        The files by name within the archive, and the names of all others.

    Raises:
        FileContentError: It is damaged or encrypted, or unpacks to too much.
    """
    left = limit = _limit(len(data))
    texts: dict[str, bytes] = {}
    others: list[str] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                name = entry.filename
                if entry.is_dir() or name.startswith("__MACOSX/"):
                    continue
                if not name.lower().endswith(suffixes):
                    others.append(name)
                    continue
                with archive.open(entry) as file:
                    texts[name] = file.read(left + 1)
                left -= len(texts[name])
                if left < 0:
                    raise _too_large(limit)
    except FileContentError:
        raise
    except _BAD_ARCHIVE as error:
        raise FileContentError(f"is a damaged or encrypted archive ({error}); export it again") from error
    return texts, others


def parse_json(data: bytes) -> tuple[object, bool]:
    """Parse JSON, with QuPath's leniency: comments, single quotes, NaN and infinities, a byte order mark.

    Returns:
        The value, and whether the text was UTF-8; what is not comes out as U+FFFD.

    Raises:
        FileContentError: It is no JSON, or UTF-16.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileContentError("is UTF-16; save it as UTF-8")
    data = data.removeprefix(BOM)
    try:
        return orjson.loads(data), True
    except orjson.JSONDecodeError as error:
        strict_error = error
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(_TOKENS.sub(_strict_token, text))
    except (ValueError, RecursionError):
        raise FileContentError(
            f"is truncated or no JSON ({strict_error}); export it again as one FeatureCollection"
        ) from strict_error
    return value, _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _strict_token(match: re.Match[str]) -> str:
    """What a token of lenient JSON is in strict JSON: comments vanish, single quotes become double."""
    token = match[0]
    if token[0] == '"':
        return token
    if token[0] == "'":
        return '"' + token[1:-1].replace("\\'", "'").replace('\\"', '"').replace('"', '\\"') + '"'
    return " "


def _limit(packed_bytes: int) -> int:
    """How many bytes a packed file of that size may unpack to."""
    return min(MAX_TEXT_BYTES, max(_SMALL_BYTES, MAX_RATIO * packed_bytes))


def _too_large(limit: int) -> FileContentError:
    return FileContentError(
        f"unpacks to more than {limit >> 20} MiB, which drawn outlines never do; unpack it yourself"
    )
