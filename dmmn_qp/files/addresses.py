"""Addresses of slides as texts: taken apart, checked, and shown and stored without what is secret in them.

Nothing is asked, and nothing opened, whoever wrote them.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from pathlib import PurePath, PurePosixPath
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from dmmn_qp.errors import SlideError
from dmmn_qp.text import shorten

WEB: Final = frozenset({"http", "https"})
STORES: Final = frozenset({"s3", "gs", "az", "abfs", "abfss"})

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_WEB_ADDRESS: Final = re.compile(r"^(https?://)(?:[^/?#]*@)?([^?#]*).*$", re.IGNORECASE | re.DOTALL)
"""Protocol; server and path; user and password before, and query behind, are in none."""

_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::[0-9]*)?")
_OF_NUMBERS: Final = re.compile(r"[\[\]]|::")
_ODD: Final = re.compile(r"[\x00-\x20\x7f\\]")


def is_address(text: str) -> bool:
    """Whether a text begins as an address (``https://``, ``s3://`` ...), of whatever protocol."""
    return _ADDRESS.match(text) is not None


def pure_place(text: str) -> PurePosixPath | None:
    """Returns an address as a path to compare with others: protocol, server, folders and name, and nothing secret.

    Nothing is opened, whoever wrote the text; None where it is no address that is read.
    """
    try:
        return pure_of(split_address(text))
    except SlideError:
        return None


def is_pure_place(path: PurePath | None) -> bool:
    """Whether a path that is stored somewhere was made by `pure_place`; it is none on a disk."""
    return path is not None and path.parts[:1] in {(f"{protocol}:",) for protocol in WEB | STORES}


def shown_place(path: PurePath) -> str:
    """Returns a stored path for a message; one made by `pure_place` as the address that it was."""
    return str(path).replace(":/", "://", 1) if is_pure_place(path) else str(path)


def shown_word(word: str) -> str:
    """Returns a word of a command line without what is secret in the addresses of web servers in it.

    Args:
        word: Such as ``https://me:pw@server/a.tif?sig=1``, ``--slides-root=https://...`` or ``OLD=https://...``.
    """
    shown = []
    for part in re.split(r"=(?=https?://)", word, flags=re.IGNORECASE):
        shown.append(_WEB_ADDRESS.sub(r"\1\2", part))
        if shown[-1] != part and "?" in part:
            break  # what follows is of the query too
    return "=".join(shown)


def split_address(text: str) -> SplitResult:
    """Takes an address apart.

    Raises:
        SlideError: It is none that is read.
    """
    shown = _without_secrets(text)
    try:
        parsed = urlsplit(text)
        named = _names_server(parsed)
    except ValueError:
        named, parsed = False, SplitResult("", "", "", "", "")
    if parsed.scheme and parsed.scheme not in WEB | STORES:
        raise SlideError(
            f'"{shown}" is an address of kind {shorten(parsed.scheme, 20)}://, which is not read; those of kind '
            "https://, http://, s3://, gs:// and az:// are"
        )
    if parsed.scheme in STORES:  # whose names may hold "?" and "#"
        bucket, _, path = text.partition("://")[2].partition("/")
        parsed = SplitResult(parsed.scheme, bucket, f"/{path}" if path else "", "", "")
        named = bool(bucket) and ":" not in bucket and ("@" not in bucket or parsed.scheme in ("abfs", "abfss"))
    parts = _path_of(parsed).split("/")
    chained = text.replace(server_in(parsed), "", 1) if parsed.scheme in WEB else text  # an IPv6 address may have "::"
    if not named or _ODD.search(text if parsed.scheme in WEB else parsed.netloc) or "::" in chained or parsed.fragment:
        raise SlideError(f'"{shown}" is no address of a slide; write it as https://server/folder/slide.svs')
    if (
        ".." in parts
        or _ODD.search("".join(parts).replace(" ", ""))
        or unquote(parsed.path).count("/") != parsed.path.count("/")
    ):
        raise SlideError(f'"{shown}" has a name that no slide has; write the address without .. and control characters')
    return parsed


def _names_server(parsed: SplitResult) -> bool:
    """Whether an address says on which server it is: by a name, or by a number, that of IPv6 in brackets.

    Raises:
        ValueError: It cannot say that.
    """
    number = _BRACKETED.fullmatch(server_in(parsed))
    if number is not None:
        return parsed.port != 0 and IPv6Address(number[1]).scope_id is None
    return bool(parsed.hostname) and parsed.port != 0 and not _OF_NUMBERS.search(server_in(parsed))


def _without_secrets(text: str) -> str:
    """Returns an address, or what was meant for one, for a message."""
    protocol, sign, rest = text.partition("://")
    server, slash, path = rest.partition("/")
    return shorten(protocol + sign + server.rpartition("@")[2] + slash + path.partition("?")[0], 300)


def server_in(parsed: SplitResult) -> str:
    """Server and port; of Azure the container before it, which is no secret."""
    return parsed.netloc if parsed.scheme in STORES else parsed.netloc.rpartition("@")[2]


def pure_of(parsed: SplitResult) -> PurePosixPath:
    """See `pure_place`."""
    return PurePosixPath(f"{parsed.scheme}:", server_in(parsed), *filter(None, _path_of(parsed).split("/")))


def _path_of(parsed: SplitResult) -> str:
    """The path as the server knows it; stores know no escapes."""
    return unquote(parsed.path) if parsed.scheme in WEB else parsed.path
