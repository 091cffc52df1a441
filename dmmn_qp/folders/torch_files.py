"""Weights in torch's format from elsewhere, which is a pickle: numbers are built from it and nothing else."""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

import torch

from dmmn_qp.errors import ModelError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.text import shorten

_ZIP: Final = b"PK\x03\x04"
_MAX_PARTS: Final = 100_000  # of an archive; each tensor is one
_AGAIN: Final = "take it again from its source"


def read_torch_file(
    file: Path,
    what: str,
    *,
    allowed: Sequence[Any] = (),
    expect: Callable[[str], None] | None = None,
    again: str = _AGAIN,
) -> tuple[Any, str]:
    """Reads a file of torch, old or new format.

    Args:
        file: The file.
        what: What it is called in messages, such as ``checkpoint``.
        allowed: Types that may be built from it beside tensors and plain values.
        expect: Is given the SHA-256 before anything is built, and raises where it is another than expected.
        again: The way out where it is damaged.

    Returns:
        Content and SHA-256.

    Raises:
        ModelError: It is missing, damaged, wants more than numbers, or would unpack to more than it holds.
    """
    if not file.is_file():
        raise ModelError(f'{what} "{file}" {why_not_there(file) or "is no file"}; check the path')
    try:
        opened = file.open("rb")
    except OSError as error:
        raise ModelError(f'{what} "{file}" cannot be read ({error.strerror}); {again}') from error
    with opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on pickles is for their authors
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        if expect is not None:
            expect(sha256)
        opened.seek(0)
        try:
            _check_archive(opened, file, what, again)
            opened.seek(0)
            with torch.serialization.safe_globals(list(allowed)):
                return torch.load(opened, map_location="cpu", weights_only=True), sha256
        except ModelError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            refused = re.search(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>", str(error))
            if refused:
                raise ModelError(
                    f'{what} "{file}" wants to use {refused[1] or refused[2]}, which weights do not need, and was '
                    "not loaded; take it from its source only, and do not open it with other programs"
                ) from error
            raise ModelError(f'"{file}" is not a {what} that torch can read, or is damaged; {again}') from error


def _check_archive(opened: IO[bytes], file: Path, what: str, again: str) -> None:
    """Compares the checksums of an archive; nothing where the file is none, as torch once wrote.

    Raises:
        ModelError: A part of it is damaged, or it would unpack to more than the file holds. torch packs nothing.
    """
    if opened.read(len(_ZIP)) != _ZIP:
        return
    with zipfile.ZipFile(opened) as archive:
        parts = archive.infolist()
        if len(parts) > _MAX_PARTS or sum(part.file_size for part in parts) > file.stat().st_size:
            raise ModelError(f'{what} "{file}" would unpack to more than it holds, as no {what} does; {again}')
        damaged = archive.testzip()
    if damaged is not None:
        raise ModelError(f'{what} "{file}" is damaged (the checksum of "{shorten(damaged)}" in it is wrong); {again}')
