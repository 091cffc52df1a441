"""Files on servers, as paths: what an address stands for, shown and stored without what is secret in it.

Only `typed_place` makes them, of what a person typed, and ``/`` of those: no address out of a file is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from collections.abc import Generator
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlunsplit

from dmmn_qp.errors import SlideError
from dmmn_qp.files.addresses import WEB, pure_of, server_in, split_address
from dmmn_qp.files.ranges import RemoteFile
from dmmn_qp.files.servers import Facts, server_of

FACTS_LAST_S: Final = 10.0
"""How long it is not asked again whether a file is there, and how large it is; reading asks anew."""

_MOST_KNOWN: Final = 100_000

ZARR_SUFFIX: Final = ".zarr"
ZARR_MARKS: Final = ("zarr.json", ".zgroup", ".zattrs")
"""Files by which a folder shows that it is of Zarr."""

if TYPE_CHECKING:
    _NativePath = Path
else:
    _NativePath = type(Path())


class RemotePath(_NativePath):
    """A file or folder on a server; as text its address without user, password and what follows ``?``.

    It takes the place of a path wherever slides are found and read: what asks the disk asks the server instead.

    Args:
        address: As it was typed.

    Raises:
        SlideError: It is no address of the protocols that are read, or would leave its folder.
    """

    def __new__(cls, address: str) -> RemotePath:
        """Makes the path of what may be shown."""
        return super().__new__(cls, pure_of(split_address(address)))

    def __init__(self, address: str) -> None:
        self._parsed = split_address(address)
        if sys.version_info >= (3, 12):
            super().__init__(pure_of(self._parsed))

    def __reduce__(self) -> Any:
        return RemotePath, (self.address,)

    @property
    def address(self) -> str:
        """The whole address, secrets included: for the server alone."""
        return urlunsplit(self._parsed)

    @property
    def pure(self) -> PurePosixPath:
        """See `pure_place`."""
        return pure_of(self._parsed)

    @property
    def is_of_web(self) -> bool:
        """Whether it is on a web server, whose folders cannot be listed."""
        return self._parsed.scheme in WEB

    @property
    def may_be_zarr(self) -> bool:
        """Whether it is named as one of OME-Zarr, or lies in what is: others are not asked for its files."""
        return any(part.lower().endswith(ZARR_SUFFIX) for part in self.pure.parts[2:])

    def __str__(self) -> str:
        return urlunsplit(self._parsed._replace(netloc=server_in(self._parsed), query=""))

    def __fspath__(self) -> str:
        return str(self)

    def as_posix(self) -> str:
        """Returns the address without secrets."""
        return str(self)

    def as_uri(self) -> str:
        """Returns the address without secrets."""
        return str(self)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, key: str | os.PathLike[str]) -> RemotePath:
        return self.joinpath(key)

    def joinpath(self, *others: str | os.PathLike[str]) -> RemotePath:
        """Returns what is below it; whatever the names are, it stays below."""
        names = [part for other in others for part in os.fspath(other).split("/") if part not in ("", ".")]
        added = "/".join(quote(name, safe="") if self.is_of_web else name for name in names)
        return RemotePath(urlunsplit(self._parsed._replace(path=f"{self._parsed.path.rstrip('/')}/{added}")))

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in; that of a server, or of a bucket, is itself."""
        above = self._parsed.path.rstrip("/").rpartition("/")[0]
        return RemotePath(urlunsplit(self._parsed._replace(path=above)))

    def with_segments(self, *segments: str | os.PathLike[str]) -> Path:
        """Returns what pathlib makes of parts: no address."""
        return Path(*segments)

    def is_relative_to(self, other: str | os.PathLike[str], *_: Any) -> bool:
        """Whether it is another one, or below it."""
        return isinstance(other, RemotePath) and self.pure.is_relative_to(other.pure)

    def with_suffix(self, suffix: str) -> RemotePath:
        """Returns the file beside it that has another ending."""
        return self.parent / (self.stem + suffix)

    def with_name(self, name: str) -> RemotePath:
        """Returns the file beside it of another name."""
        return self.parent / name

    def resolve(self, strict: bool = False) -> RemotePath:
        """Returns itself."""
        return self

    def absolute(self) -> RemotePath:
        """Returns itself."""
        return self

    def expanduser(self) -> RemotePath:
        """Returns itself."""
        return self

    def is_symlink(self) -> bool:
        """Whether it is a link: never."""
        return False

    def facts(self) -> Facts | None:
        """Returns what the server says of the file; None where there is none.

        Raises:
            SlideUnreachableError: The server does not answer, or refuses.
        """
        known = _KNOWN.get(self)
        if known is not None and time.monotonic() - known[0] <= FACTS_LAST_S:
            return known[1]
        facts = server_of(self._parsed.scheme).facts(self.address, str(self))
        _remember(self, facts)
        return facts

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """What the system says of files, made of what the server says.

        Raises:
            FileNotFoundError: There is nothing.
            SlideUnreachableError: The server does not answer, or refuses.
        """
        facts = self.facts()
        if facts is None and not self.is_dir():
            raise FileNotFoundError(f"{self} is not there")
        facts = facts or Facts(0, "", is_folder=True)
        kind = stat.S_IFDIR if facts.is_folder else stat.S_IFREG
        place, version = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in
                          (self.address, facts.version))  # fmt: skip
        return os.stat_result((kind | 0o444, version, place, 1, 0, 0, facts.size, 0, 0, 0))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether a file or folder is there."""
        return self.is_file() or self.is_dir()

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether a file is there."""
        facts = self.facts()
        return facts is not None and not facts.is_folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether a folder is there; on web servers only one of OME-Zarr is seen."""
        if self.is_of_web:
            return self.may_be_zarr and any((self / name).is_file() for name in ZARR_MARKS)
        facts = self.facts()
        return facts is not None and facts.is_folder

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Yields what is in a folder, but for names that no slide has.

        Raises:
            OSError: It is on a web server, which cannot list it.
        """
        if self.is_of_web:
            raise NotADirectoryError("folders on web servers cannot be listed")
        for name, facts in server_of(self._parsed.scheme).names(self.address, str(self)):
            try:
                child = self / name
            except SlideError:
                continue
            _remember(child, facts)
            yield child

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> RemoteFile:  # type: ignore[override]
        """Opens the file for reading; see `RemoteFile`.

        Raises:
            FileNotFoundError: There is none.
            SlideUnreachableError: The server does not answer, or refuses.
        """
        if mode != "rb":
            raise OSError(f"{self} can only be read")
        server = server_of(self._parsed.scheme)
        facts = server.facts(self.address, str(self))
        _remember(self, facts)
        if facts is None or facts.is_folder:
            raise FileNotFoundError(f"{self} is not there")
        return RemoteFile(server, self.address, str(self), facts)

    def whole(self, most_bytes: int) -> bytes | None:
        """Returns the content of a small file, in one request; None where there is none.

        Raises:
            SlideError: It is larger than ``most_bytes``, or the server does not answer, or refuses.
        """
        return server_of(self._parsed.scheme).whole(self.address, str(self), most_bytes)


_KNOWN: Final[dict[RemotePath, tuple[float, Facts | None]]] = {}


def _remember(path: RemotePath, facts: Facts | None) -> None:
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[path] = time.monotonic(), facts


def below(stored: PurePath | None, root: RemotePath) -> RemotePath | None:
    """Returns where a stored address leads to if it lies below one that was typed; None where it does not."""
    if not isinstance(stored, PurePosixPath) or isinstance(stored, Path) or not stored.is_relative_to(root.pure):
        return None
    return root.joinpath(*stored.relative_to(root.pure).parts)
