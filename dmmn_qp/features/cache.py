"""Maps of tiles on disk, so that the next training need not look at the same places again.

A folder holds the maps of one slide as one encoder sees it, in a file for each tile, which appears whole or not at all.
Folders that were not asked for the longest go first when there is no room. What cannot be kept is computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from dmmn_qp.console import Reporter
from dmmn_qp.errors import ConfigError
from dmmn_qp.files import new_file
from dmmn_qp.files.paths import user_cache
from dmmn_qp.files.renaming import clear_away, remove_if_empty, remove_tree
from dmmn_qp.regions import Region

DEFAULT_BYTES = 4 * 2**30

_MARK = "features"
"""First part of the name of every folder of ours."""


@dataclass(slots=True)
class FeatureCache:
    """A bounded folder of maps.

    Attributes:
        folder: Where they are kept; None for nowhere.
        limit_bytes: Most that they may take on disk.
        reporter: Where it is said, once, that they cannot be kept.
    """

    folder: Path | None
    limit_bytes: int
    reporter: Reporter
    _broken: bool = False

    def folder_of(self, key: str) -> KeptMaps:
        """The maps of a slide under a key (hexadecimal digits)."""
        return KeptMaps(self, None if self.folder is None else self.folder / f"{_MARK}-{key[:40]}")

    @contextmanager
    def room(self) -> Iterator[None]:
        """Makes room before what is added, and again after it."""
        self._shrink()
        try:
            yield
        finally:
            self._shrink()

    def keep(self, path: Path, content: bytes) -> None:
        """Writes a file; after the first that cannot be written, none."""
        if self._broken:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with new_file(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            self._broken = True
            self.reporter.warn(
                f'what the encoder saw cannot be kept in "{path.parent}" ({error.strerror or error}), so the next '
                "training looks again; free some space, or name another folder in DMMN_QP_CACHE"
            )

    def _shrink(self) -> None:
        if self.folder is None or not self.folder.is_dir():
            return
        with suppress(OSError):
            found = [(folder.stat().st_mtime, _bytes_in(folder), folder) for folder in our_folders(self.folder)]
            used = sum(size for _, size, _ in found)
            for _, size, folder in sorted(found, key=lambda one: one[0])[:-1]:
                if used <= self.limit_bytes:
                    break
                clear_away(folder)
                used -= size


@dataclass(frozen=True, slots=True)
class KeptMaps:
    """The maps of one slide.

    Attributes:
        cache: The cache that they are in.
        folder: Their folder, which need not exist; None for none.
    """

    cache: FeatureCache
    folder: Path | None

    def has(self, tile: Region) -> bool:
        """Whether the maps of a tile are kept."""
        return self.folder is not None and self._path(tile).is_file()

    def get(self, tile: Region) -> list[Tensor] | None:
        """The maps of a tile; None where they are not kept, or damaged."""
        if self.folder is None:
            return None
        try:
            tensors = load_file(self._path(tile))
            self.folder.touch()
            return [tensors[f"{i}"] for i in range(len(tensors))]
        except (OSError, SafetensorError, KeyError):
            return None

    def put(self, tile: Region, maps: Sequence[Tensor]) -> None:
        """Keeps the maps of a tile."""
        if self.folder is not None:
            self.cache.keep(self._path(tile), save({f"{i}": features for i, features in enumerate(maps)}))

    def _path(self, tile: Region) -> Path:
        assert self.folder is not None
        return self.folder / f"{tile.x}_{tile.y}.safetensors"


def usual_cache(reporter: Reporter) -> FeatureCache:
    """The cache of this user; one that keeps nothing where the system knows no home folder."""
    try:
        return FeatureCache(user_cache() / "features", DEFAULT_BYTES, reporter)
    except ConfigError:
        return FeatureCache(None, DEFAULT_BYTES, reporter)


def our_folders(folder: Path) -> list[Path]:
    """The folders of maps in a cache."""
    return [path for path in folder.glob(f"{_MARK}-*") if path.is_dir()] if folder.is_dir() else []


def clear(folder: Path) -> int:
    """Removes all maps in a cache, and the folder if nothing else is in it.

    Returns:
        The bytes that they took.

    Raises:
        OSError: They cannot be removed.
    """
    freed = 0
    for kept in our_folders(folder):
        freed += _bytes_in(kept)
        remove_tree(kept)
    remove_if_empty(folder)
    return freed


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
