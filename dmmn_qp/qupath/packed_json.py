"""Unpacks GeoJSON files, within bounds, and parses JSON as leniently as QuPath does."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Final, cast

import ijson
import numpy as np
import orjson

from dmmn_qp.text import shorten

MAX_TEXT_BYTES: Final = 2**30
"""A file may unpack to this many bytes: some two million outlines."""
MAX_RATIO: Final = 100
"""A file that unpacks to more than 16 MiB may grow so many times; drawn outlines grow 3 to 30 times."""
LARGE_BYTES: Final = 2**26
"""A text of more bytes is parsed feature by feature where it can be; its values would take ten times its size."""
BOM: Final = b"\xef\xbb\xbf"

_SMALL_BYTES: Final = 2**24
_CHUNK_BYTES: Final = 2**18
_MAX_WORD_BYTES: Final = 2**20
_MAX_DEPTH: Final = 1000  # what orjson takes
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)
_STEPS: Final = np.zeros(256, np.int8)
_STEPS[list(b"[{")], _STEPS[list(b"]}")] = 1, -1
_ENDS_WORD: Final = np.isin(np.arange(256), list(b"[]{},:"))
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


class TooLargeError(FileContentError):
    """A file that unpacks to more than its size justifies."""

    def __init__(self, limit: int) -> None:
        """Says how much is too much, in bytes."""
        super().__init__(f"unpacks to more than {limit >> 20} MiB, which drawn outlines never do; unpack it yourself")


class NotStreamableError(ValueError):
    """A text that cannot be parsed feature by feature; parsed as a whole it may be sound."""


def is_zip(data: bytes) -> bool:
    """Whether the bytes are an archive; an empty one has a mark of its own."""
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_gzip(data: bytes) -> bool:
    """Whether the bytes are one gzip-compressed file."""
    return data.startswith(b"\x1f\x8b")


class TextStream:
    """Bytes of one text, unpacked while they are read, within a bound.

    Args:
        open_text: Opens the unpacked text at its start.
        limit: Bytes to which it may unpack; None for a file that is not packed.
    """

    def __init__(self, open_text: Callable[[], IO[bytes]], limit: int | None = None) -> None:
        self._open, self.limit = open_text, limit
        self._file: IO[bytes] | None = None
        self.position = 0

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``.

        Raises:
            FileContentError: The packing is damaged, or there is more than the limit.
        """
        if self._file is None:
            self.rewind()
        assert self._file is not None
        if self.limit is None:
            data = self._file.read(size)
        else:
            try:
                data = self._file.read(min(size, self.limit - self.position + 1))
            except _BAD_ARCHIVE as error:
                raise _damaged(error) from error
        self.position += len(data)
        if self.limit is not None and self.position > self.limit:
            raise TooLargeError(self.limit)
        return data

    def rewind(self) -> None:
        """Starts again.

        Raises:
            FileContentError: The packing is damaged.
        """
        try:
            self._file = self._open()
        except _BAD_ARCHIVE as error:
            raise _damaged(error) from error
        self.position = 0


def open_text(file: IO[bytes], size: int) -> TextStream:
    """The text of a file that is packed with gzip, or not at all.

    Args:
        file: The file.
        size: Its bytes.
    """

    def plain() -> IO[bytes]:
        file.seek(0)
        return file

    def packed() -> IO[bytes]:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=plain()))

    return TextStream(packed, _limit(size)) if is_gzip(plain().read(2)) else TextStream(plain)


def open_archive(file: IO[bytes], size: int, suffixes: tuple[str, ...]) -> tuple[dict[str, TextStream], list[str]]:
    """The texts in an archive; the limit of each is that of all together.

    Args:
        file: The archive.
        size: Its bytes.
        suffixes: Endings of the texts' names, in lower case.

    Returns:
        The texts by name within the archive, and the names of all other files.

    Raises:
        FileContentError: It is damaged.
    """
    texts: dict[str, TextStream] = {}
    others: list[str] = []
    try:
        archive = zipfile.ZipFile(file)
        for entry in archive.infolist():
            if entry.is_dir() or re.search(r"(^__MACOSX/|(^|/)\.[^/]*$)", entry.filename):
                continue
            if entry.filename.lower().endswith(suffixes):
                texts[entry.filename] = TextStream(partial(archive.open, entry), _limit(size))
            else:
                others.append(entry.filename)
    except _BAD_ARCHIVE as error:
        raise _damaged(error) from error
    return texts, others


def is_roi_set(path: Path) -> bool:
    """Whether a file is an archive of outlines as ImageJ's ROI manager saves them, and of no GeoJSON."""
    if path.suffix.lower() != ".zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.lower() for name in archive.namelist()]
    except (OSError, ValueError, *_BAD_ARCHIVE):  # reading it will say why
        return False
    return any(name.endswith(".roi") for name in names) and not any(n.endswith((".geojson", ".json")) for n in names)


def stream_features(stream: TextStream) -> Iterator[object]:
    """The features of a text, parsed one at a time.

    Only strict JSON is read so: an array, or an object of the type FeatureCollection. What else it may be is known
    at its end only, after features have been given out.

    Args:
        stream: The text, from its start on.

    Raises:
        NotStreamableError: It is something else, so that it must be parsed as a whole.
        FileContentError: The packing is damaged.
    """
    start = stream.read(_CHUNK_BYTES).removeprefix(BOM).lstrip(b" \t\r\n")
    is_array = start.startswith(b"[")
    outline = _Outline(start, stream)
    try:
        yield from ijson.items(outline, "item" if is_array else "features.item", buf_size=_CHUNK_BYTES, use_float=True)
        top = () if is_array else json.loads(outline.top, object_pairs_hook=tuple)  # which tells an object from a list
    except FileContentError:
        raise
    except (ijson.JSONError, ValueError, OverflowError, RecursionError) as error:
        raise NotStreamableError from error
    if is_array:
        return
    named = [member for member in top if member[0] in ("type", "features")] if isinstance(top, tuple) else []
    if len(named) != 2 or dict(named) != {"type": "FeatureCollection", "features": []}:
        raise NotStreamableError


class _Outline:
    """A text on its way to the parser: how deep it nests, and how long its words are.

    The parser takes memory by the square of the one and time by the square of the other. ``top`` gathers the top
    level, with everything inside its members left out.
    """

    def __init__(self, start: bytes, rest: TextStream) -> None:
        self._start, self._rest = start, rest
        self._depth, self._in_text, self._is_escaped = 0, False, False
        self._word_bytes = 0
        self.top = bytearray()

    def read(self, size: int) -> bytes:
        if size == 0:
            return b""
        data, self._start = self._start or self._rest.read(size), b""
        if data:
            self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        if self._is_escaped:
            data, self._is_escaped = data[1:], False
        if b"\\" in data:
            data = _ESCAPED.sub(b"", data)
            self._is_escaped = data.endswith(b"\\")
        if not data:
            return
        codes = np.frombuffer(data, np.uint8)
        quotes = codes == ord('"')
        in_text = (np.cumsum(quotes, dtype=np.int32) + self._in_text) % 2 == 1
        steps = _STEPS[codes]
        steps[in_text] = 0
        depths = np.cumsum(steps, dtype=np.int32) + self._depth
        ends = np.flatnonzero(quotes | (_ENDS_WORD[codes] & ~in_text))
        self._word_bytes = len(data) - 1 - int(ends[-1]) if ends.size else self._word_bytes + len(data)
        self.top += codes[depths - np.maximum(steps, 0) <= 1].tobytes()
        if depths.max() > _MAX_DEPTH or max(self._word_bytes, len(self.top)) > _MAX_WORD_BYTES:
            raise NotStreamableError
        self._depth, self._in_text = int(depths[-1]), bool(in_text[-1])


def parse_json(data: bytes) -> tuple[object, bool]:
    """Parses JSON, with QuPath's leniency: comments, single quotes, NaN and infinities, a byte order mark.

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
    try:
        text, is_utf8 = data.decode("utf-8"), True
    except UnicodeDecodeError:
        text, is_utf8 = data.decode("utf-8", "replace"), False
    try:
        return _lenient(text), is_utf8
    except (ValueError, RecursionError):
        raise FileContentError(
            f"is truncated or no JSON ({strict_error}); export it again as one FeatureCollection"
        ) from strict_error


def _lenient(text: str) -> object:
    """Parses JSON with NaN and infinities and, where it is not large, with comments and single quotes.

    Raises:
        ValueError: It is none.
        RecursionError: It nests too deep.
    """
    try:
        return json.loads(text)
    except ValueError:
        if len(text) > LARGE_BYTES:  # its words would take thirty times its size
            raise
        return json.loads(_TOKENS.sub(_strict_token, text))


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


def _damaged(error: Exception) -> FileContentError:
    return FileContentError(f"is truncated, damaged or encrypted ({shorten(str(error), 100)}); export it again")
