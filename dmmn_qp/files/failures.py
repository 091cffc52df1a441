"""Errors that are not ours, in one line: what happened, why, and the way out.

Libraries and the system say what went wrong in their own words, often without the file, and never what to do. `line_of`
does, for whoever tells the user; what nobody foresaw is kept with its traceback in a file, to be reported.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution, metadata
from pathlib import Path
from typing import Final

from dmmn_qp.errors import DmmnQpError
from dmmn_qp.text import shorten, words_of

_QUOTA: Final = getattr(errno, "EDQUOT", errno.ENOSPC)

FULL_DISK: Final = (errno.ENOSPC, _QUOTA, errno.EFBIG)
"""What the system says where a disk, a quota, or the size of a file is at its end."""

_FULL_DISK_TEXTS: Final = {
    "no space left on device": errno.ENOSPC,
    "not enough space": errno.ENOSPC,
    "disk full": errno.ENOSPC,
    "quota exceeded": _QUOTA,
    "os error 28": errno.ENOSPC,
    "pytorchstreamwriter failed": errno.ENOSPC,
}
"""How libraries put it that pass on no number."""

_NO_MEMORY_TEXTS: Final = (
    "can't allocate memory", "cannot allocate memory", "not enough memory", "insufficient memory", "std::bad_alloc",
    "unable to allocate",
)  # fmt: skip

_WAYS_OUT: Final = {
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "the disk can only be read; choose another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk or the connection to it, and repeat the command",
    getattr(errno, "ESTALE", errno.EIO): "check the connection to the disk, and repeat the command",
}

OPEN_ELSEWHERE: Final = (5, 32, 33)
"""What Windows says (``winerror``) of files that are open: access denied, sharing violation, locked."""

_TOO_LONG: Final = (2, 3, 206)
"""What it says of paths that are too long: among others that they are not there."""

_NOT_LOADED: Final = (126, 127, 1114)
"""What it says of a DLL that is missing or does not fit."""

_LONGEST_PATH: Final = 248
"""From here on; of folders, for files it is 260."""

_ISSUES: Final = ("issues", "bug tracker", "tracker", "repository")

_DEEPEST: Final = 16


def line_of(error: BaseException) -> str:
    """An error of any kind as one line for the user.

    What nobody foresaw is written into a file with its traceback, which the line names.
    """
    if isinstance(error, DmmnQpError):
        return str(error)
    line = _foreseen(error)
    return line if line is not None else _unforeseen(error)


def is_full_disk(error: BaseException) -> bool:
    """Whether a full disk or quota is behind an error, so that nothing else can be written either."""
    return full_disk(error) is not None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says in errors of a full disk what was written, where system or library do not.

    Raises:
        OSError: The disk is full, and the error names ``path``.
    """
    try:
        yield
    except DmmnQpError:
        raise
    except Exception as error:
        full = full_disk(error)
        if full is None or (full[1] is not None and not _is_hidden(Path(full[1]), path.parent)):
            raise
        raise OSError(full[0], os.strerror(full[0]), str(path)) from error


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path below a folder is one of ours that nobody is to see, or in such a folder."""
    below = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return any(part.startswith(".") for part in below.parts)


def _foreseen(error: BaseException) -> str | None:
    """The line of an error of a kind that is known; None for others."""
    if (full := full_disk(error)) is not None:
        return _of_full_disk(*full)
    text = str(error)
    if (
        "CUDA out of memory" in text
        or "MPS backend out of memory" in text
        or type(error).__name__ == "OutOfMemoryError"
    ):
        return "the memory of the GPU does not suffice; pass a smaller --batch-size, or --device cpu"
    if (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or any(known in text.lower() for known in _NO_MEMORY_TEXTS)
    ):
        return (
            f"the memory of this machine does not suffice{_in_brackets(text)}; close other programs, or pass smaller "
            "--workers and --batch-size"
        )
    if isinstance(error, RuntimeError) and re.search(r"CUDA|cuDNN|cuBLAS|MPS backend", text):
        return f"the GPU fails{_in_brackets(text)}; repeat the command, or pass --device cpu"
    if isinstance(error, UnicodeEncodeError):
        return (
            f'a text cannot be written as {error.encoding}: "{shorten(error.object)}"; set PYTHONUTF8=1, or a locale '
            "of UTF-8 such as LC_ALL=C.UTF-8, and repeat the command"
        )
    if _is_of_library(error):
        return line_of_library(error)
    return _of_system(error) if isinstance(error, OSError) else None


def _is_of_library(error: BaseException) -> bool:
    """Whether another's module or shared object is missing, or does not fit."""
    if isinstance(error, ImportError):
        return (error.name or "").partition(".")[0] != "dmmn_qp"
    number = getattr(error, "winerror", None)
    return isinstance(error, OSError) and (number in _NOT_LOADED or "shared object file" in str(error))


def line_of_library(error: BaseException) -> str:
    """The line of an error by which a library cannot be loaded."""
    return f"a library cannot be loaded ({words_of(error)}); dmmn-qp doctor says more"


def _of_full_disk(number: int, path: str | None) -> str:
    """The line of a full disk; ``path`` is what could not be written, where it is known."""
    what = f'"{shorten(path, 200)}"' if path else "a file"
    if number == errno.EFBIG:
        return (
            f"{what} becomes larger than the disk or a limit of this process allows (ulimit -f); choose another disk, "
            "or raise the limit, and repeat the command"
        )
    why = "the quota is used up" if number == _QUOTA != errno.ENOSPC else "no space is left on the disk"
    return f"{what} cannot be written, {why}; free some space, or choose another disk, and repeat the command"


def _of_system(error: OSError) -> str | None:
    """The line of an error of the operating system."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f'too many files are open{_limit()}; raise the limit with "ulimit -n 4096", and repeat the command'
    if error.errno is None or error.strerror is None:
        return None
    where = " and ".join(f'"{shorten(os.fsdecode(name), 200)}"' for name in _names(error))
    way_out = _WAYS_OUT.get(error.errno)
    if getattr(error, "winerror", None) in _TOO_LONG and _is_long(error):
        way_out = "choose a folder with a shorter path, or have Windows take long ones (LongPathsEnabled)"
    elif getattr(error, "winerror", None) in OPEN_ELSEWHERE:
        way_out = "close it in other programs (Windows replaces nothing that is open), or check its permissions"
    return (where + ": " if where else "") + error.strerror + (f"; {way_out}" if way_out else "")


def _is_long(error: OSError) -> bool:
    return any(len(os.fsdecode(name)) >= _LONGEST_PATH for name in _names(error))


def _names(error: OSError) -> Iterator[str | bytes]:
    for name in (error.filename, error.filename2):
        if isinstance(name, str | bytes):
            yield name


def _limit() -> str:
    """How many files may be open, in brackets."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # which Windows has not

        return f" (of {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} that this process may have)"
    return ""


def _unforeseen(error: BaseException) -> str:
    """The line of an error that is a mistake of ours, or of a library for which we do not allow."""
    kept = _keep_traceback(error)
    what = "nested too deeply to be read" if isinstance(error, RecursionError) else shorten(str(error), 200)
    name = type(error).__name__
    way_out = (
        f'report it{_address()} with "{kept}"' if kept else f"set DMMN_QP_DEBUG=1 to see where, report it{_address()}"
    )
    return f"unexpected {name}{': ' if what else ''}{what}; please {way_out}"


def install_command(extra: str) -> str:
    """The command that installs an extra, from where this package came: no index has it under its name."""
    with suppress(PackageNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        told = json.loads(distribution("dmmn-qp").read_text("direct_url.json") or "")
        url = told["url"]
        if told.get("dir_info", {}).get("editable"):
            return f'pip install -e "{url}[{extra}]"'
        if vcs := told.get("vcs_info"):
            url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        return f'pip install "dmmn-qp[{extra}] @ {url}"'
    return f'pip install ".[{extra}]" in the folder of dmmn-qp'


def _address() -> str:
    """Where mistakes are reported, as the package's metadata say it."""
    with suppress(PackageNotFoundError):
        for line in metadata("dmmn-qp").get_all("Project-URL") or ():
            name, _, address = line.partition(",")
            if name.strip().lower() in _ISSUES:
                return f" at {address.strip()}"
    return " to the project"


def _keep_traceback(error: BaseException) -> Path | None:
    """Writes a traceback into a new file in the folder for temporary files; None where that is not possible."""
    try:
        number, name = tempfile.mkstemp(prefix="dmmn-qp-", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return Path(name)


def _in_brackets(text: str) -> str:
    return f" ({shorten(text, 120)})" if text else ""


def full_disk(error: BaseException) -> tuple[int, str | None] | None:
    """(number, path or None) of a full disk behind an error, or behind what it was raised for."""
    found: int | None = None
    path: str | None = None
    for cause in _causes(error):
        number = getattr(cause, "errno", None)
        if number not in FULL_DISK and not isinstance(cause, DmmnQpError):
            text = str(cause).lower()
            number = next((known for words, known in _FULL_DISK_TEXTS.items() if words in text), None)
        if number in FULL_DISK:
            found = found or number
            name = getattr(cause, "filename2", None) or getattr(cause, "filename", None)  # of two, the one written
            path = path or (os.fsdecode(name) if isinstance(name, str | bytes) else None)
    return None if found is None else (found, path)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those while or because of which it was raised."""
    seen: BaseException | None = error
    for _ in range(_DEEPEST):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
