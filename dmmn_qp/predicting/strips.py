"""Strips of a slide's prediction on disk: each appears when it is finished, so that an interrupted one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dmmn_qp.errors import DatasetError
from dmmn_qp.files import new_file, write_json
from dmmn_qp.files.renaming import clear_away, remove, remove_tree
from dmmn_qp.regions import Region

KEY_FILE = "plan.json"
"""Everything that the strips beside it depend on."""

LABELS = "labels"
"""The kind that is written last; a strip that has it is finished."""


@dataclass(frozen=True, slots=True)
class StripStore:
    """A folder of finished strips, a compressed file for each of them and each kind of pixels.

    Attributes:
        folder: The folder.
        shape: (rows, columns) of the whole.
        strip_rows: Rows of a strip; the last may have fewer.
        channels: Kind of pixels -> number of channels, 0 for pixels that are single values.
    """

    folder: Path
    shape: tuple[int, int]
    strip_rows: int
    channels: Mapping[str, int]

    def begin(self, key: Mapping[str, Any]) -> bool:
        """Makes the folder for strips of a key, or takes up the one that is there, if it has just this key.

        Strips in it that are damaged count as missing from then on.

        Args:
            key: Everything that the strips depend on, as JSON.

        Returns:
            Whether finished strips of another key were there, and were removed.

        Raises:
            OSError: They cannot be removed, or the folder cannot be written.
        """
        if self.has_key(key):
            (self.folder / KEY_FILE).touch()  # whoever asks when they were begun is to see this call
            self._drop_damaged()
            return False
        was_there = self.finished() > 0
        remove_tree(self.folder)  # or what stays of another key would pass for this one's
        self.folder.mkdir(parents=True)
        write_json(self.folder / KEY_FILE, key)
        return was_there

    def has_key(self, key: Mapping[str, Any]) -> bool:
        """Whether the folder is there and its strips are of just this key."""
        try:
            return bool(json.loads((self.folder / KEY_FILE).read_bytes()) == json.loads(json.dumps(key)))
        except (OSError, ValueError):
            return False

    def _drop_damaged(self) -> None:
        """Lets strips that cannot be read count as missing."""
        for strip in filter(self.has, range(self.count)):
            try:
                for kind in self.channels:
                    self.read(strip, kind)
            except DatasetError:
                remove(self._path(strip, LABELS))

    @property
    def count(self) -> int:
        """Number of strips."""
        return -(-self.shape[0] // self.strip_rows)

    def region(self, strip: int) -> Region:
        """Where a strip lies."""
        y = strip * self.strip_rows
        return Region(0, y, self.shape[1], min(self.strip_rows, self.shape[0] - y))

    def has(self, strip: int) -> bool:
        """Whether a strip is finished."""
        return self._path(strip, LABELS).is_file()

    def finished(self) -> int:
        """How many strips are finished."""
        return sum(self.has(strip) for strip in range(self.count))

    def empty(self, strip: int) -> dict[str, NDArray[np.uint8]]:
        """Pixels of every kind for a strip, all 0: (rows, columns) or (channels, rows, columns) uint8."""
        return {kind: np.zeros(self._shape_of(strip, kind), np.uint8) for kind in self.channels}

    def write(self, strip: int, pixels: Mapping[str, NDArray[np.uint8]]) -> None:
        """Writes a finished strip, all kinds of it."""
        for kind in sorted(self.channels, key=lambda kind: kind == LABELS):
            with new_file(self._path(strip, kind)) as temporary:
                temporary.write_bytes(imagecodecs.zstd_encode(pixels[kind].tobytes(), level=1))

    def read(self, strip: int, kind: str = LABELS) -> NDArray[np.uint8]:
        """Pixels of one kind of a finished strip.

        Raises:
            DatasetError: The file is missing or damaged.
        """
        path, shape = self._path(strip, kind), self._shape_of(strip, kind)
        try:
            data = imagecodecs.zstd_decode(path.read_bytes(), out=prod(shape))
            return np.frombuffer(data, np.uint8).reshape(shape)
        except (OSError, ValueError, imagecodecs.ZstdError) as error:
            raise DatasetError(
                f'unfinished prediction "{path}" is damaged; delete the folder "{self.folder}" and predict again'
            ) from error

    def strips(self, kind: str = LABELS) -> Iterator[NDArray[np.uint8]]:
        """Pixels of one kind of all strips, from top to bottom.

        Raises:
            DatasetError: A strip is missing or damaged.
        """
        return (self.read(strip, kind) for strip in range(self.count))

    def source(self, kind: str) -> StripPixels:
        """All pixels of a kind that is single values, to be read by regions."""
        return StripPixels(self, kind)

    def remove(self) -> None:
        """Removes the folder and what is in it, as far as that is possible."""
        clear_away(self.folder)

    def _path(self, strip: int, kind: str) -> Path:
        return self.folder / f"{strip:05d}.{kind}.zst"

    def _shape_of(self, strip: int, kind: str) -> tuple[int, ...]:
        region, channels = self.region(strip), self.channels[kind]
        return (channels, region.height, region.width) if channels else (region.height, region.width)


class StripPixels:
    """Pixels of one kind of all strips; the strip that was read last is kept.

    Args:
        store: The strips, all of them finished.
        kind: A kind that is single values.
    """

    def __init__(self, store: StripStore, kind: str) -> None:
        self._store = store
        self._kind = kind
        self._last: tuple[int, NDArray[np.uint8]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._store.shape

    def read(self, window: Region) -> NDArray[np.uint8]:
        """Pixels of a window, 0 outside: (height, width) uint8.

        Raises:
            DatasetError: A strip is missing or damaged.
        """
        pixels = np.zeros((window.height, window.width), np.uint8)
        side = self._store.strip_rows
        for strip in range(max(0, window.y // side), min(self._store.count, -(-window.bottom // side))):
            place = self._store.region(strip)
            part = place.intersection(window)
            if part is None:
                continue
            if self._last is None or self._last[0] != strip:
                self._last = strip, self._store.read(strip, self._kind)
            pixels[part.y - window.y : part.bottom - window.y, part.x - window.x : part.right - window.x] = self._last[
                1
            ][part.y - place.y : part.bottom - place.y, part.x : part.right]
        return pixels
