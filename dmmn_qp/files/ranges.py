"""A file on a server, of which only the parts are fetched that are read."""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Final

from dmmn_qp.files.servers import Facts, Server

BLOCK_BYTES: Final = 128 * 1024
"""What is fetched at least: tiles that lie beside each other in the file then come in one answer."""

ALONE_BYTES: Final = 96 * 1024
"""From how many bytes on a tile is fetched as it is."""

KEPT_BLOCKS: Final = 128
"""Blocks that an open file keeps: 16 MiB."""


class RemoteFile(io.RawIOBase):
    """A file on a server, open for reading; several threads may use `read_at`.

    What is about as large as a block is fetched as it is, less in whole blocks, of which the last ones are kept.

    Args:
        server: How it is fetched.
        address: Its address.
        shown: The same for messages.
        facts: Its size and version, which stay what they are, or reading fails.
    """

    def __init__(self, server: Server, address: str, shown: str, facts: Facts) -> None:
        super().__init__()
        self.name = shown
        self.size = facts.size
        self._server, self._address, self._facts = server, address, facts
        self._place = 0
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()

    def read_at(self, offset: int, count: int) -> bytes:
        """Returns ``count`` bytes from an offset on, fewer where the file ends.

        Raises:
            SlideUnreachableError: The server does not answer, or refuses.
            SlideChangedError: The file became another one.
        """
        end = min(offset + count, self.size)
        if offset >= end:
            return b""
        if end - offset >= ALONE_BYTES:
            return self._fetched(offset, end)
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        data = b"".join(self._block(number) for number in range(first, last + 1))
        return data[offset - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _block(self, number: int) -> bytes:
        """Returns a block; of threads that want the same one the first fetches it."""
        with self._lock:
            known = self._blocks.get(number)
            if known is None:
                mine: Future[bytes] = Future()
                self._blocks[number] = mine
                while len(self._blocks) > KEPT_BLOCKS:
                    self._blocks.popitem(last=False)
            else:
                self._blocks.move_to_end(number)
        if known is not None:
            return known.result()
        start = number * BLOCK_BYTES
        try:
            mine.set_result(self._fetched(start, min(start + BLOCK_BYTES, self.size)))
        except BaseException as error:
            with self._lock:
                if self._blocks.get(number) is mine:
                    del self._blocks[number]
            mine.set_exception(error)
            raise
        return mine.result()

    def _fetched(self, start: int, end: int) -> bytes:
        return self._server.read(self._address, self.name, start, end, self._facts)

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether it has places: always."""
        return True

    def tell(self) -> int:
        """Returns the place where it is read next."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        """Reads on from the place where it is."""
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._place, len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)
