"""What Windows does otherwise, imitated on Linux for the code under test."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

SHARING_VIOLATION, ACCESS_DENIED = 32, 5


class RefusedError(PermissionError):
    """As Windows says no: with a number of its own."""

    def __init__(self, winerror: int, text: str, *paths: str) -> None:
        super().__init__(errno.EACCES, text, paths[0], None, *paths[1:])
        self.winerror = winerror


def open_files() -> set[str]:
    """Files that this process has open or mapped, by whatever library."""
    found = set()
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(str(number.readlink()))
    maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    return found | {line.split(maxsplit=5)[5] for line in maps if line.count("/")}


def open_in(path: str) -> str | None:
    """A file that is open, at a path or below it; None where there is none."""
    real = str(Path(path).parent.resolve() / Path(path).name)
    return next((name for name in open_files() if name == real or name.startswith(real + os.sep)), None)


_RELEASE = FileLock.release


class Windows:
    """Puts its rules in place; each refusal is noted.

    Attributes:
        refused: What was refused, in words.
    """

    def __init__(self, monkeypatch) -> None:
        self.refused: list[str] = []
        real = {name: getattr(os, name) for name in ("replace", "rename", "unlink", "rmdir")}

        def refuse(number: int, text: str, *paths: str) -> None:
            self.refused.append(f"{text}: {' -> '.join(paths)}")
            raise RefusedError(number, text, *paths)

        def replace(source, target, **dirs):
            source, target = os.fspath(source), os.fspath(target)
            if open_in(source):
                refuse(SHARING_VIOLATION, "The process cannot access the file", source, target)
            if Path(target).is_dir() or open_in(target):
                refuse(ACCESS_DENIED, "Access is denied", source, target)
            real["replace"](source, target, **dirs)

        def rename(source, target, **dirs):
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(source))
            replace(source, target, **dirs)

        def unlink(path, **dirs):
            if open_in(os.fspath(path)):
                refuse(SHARING_VIOLATION, "The process cannot access the file", os.fspath(path))
            real["unlink"](path, **dirs)

        def no_links(source, *_, **__):
            raise OSError(errno.EPERM, "A required privilege is not held by the client", os.fspath(source))

        for name, call in {"replace": replace, "rename": rename, "unlink": unlink, "remove": unlink}.items():
            monkeypatch.setattr(os, name, call)
        monkeypatch.setattr(os, "symlink", no_links)
        monkeypatch.setattr(shutil, "_use_fd_functions", False, raising=False)  # they remove by names without a folder
        monkeypatch.setattr("dmmn_qp.files.locks.REMOVES_WHAT_IS_OPEN", False)
        monkeypatch.setattr(FileLock, "release", self._release)
        for module in ("resource", "fcntl", "pwd", "grp", "termios"):
            monkeypatch.setitem(sys.modules, module, None)
        for name in ("sched_getaffinity", "fork", "getuid", "geteuid", "kill", "killpg", "statvfs", "mkfifo", "sync"):
            monkeypatch.delattr(os, name, raising=False)
        for name in ("alarm", "pthread_kill", "SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "setitimer"):
            monkeypatch.delattr(signal, name, raising=False)

    @staticmethod
    def _release(lock, force: bool = False) -> None:
        """As filelock does it there: the file goes once it is closed."""
        _RELEASE(lock, force)
        if not lock.is_locked and not open_in(lock.lock_file):
            Path(lock.lock_file).unlink(missing_ok=True)
