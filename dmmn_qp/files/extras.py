"""How an extra of the package is installed."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlparse
from urllib.request import url2pathname

_FILE = "file"


def install_command(extra: str) -> str:
    """The command that installs an extra, from where this package came: no index has it under its name."""
    origin = ""
    with suppress(PackageNotFoundError, ValueError, TypeError, KeyError):
        url = urlparse(str(json.loads(distribution("dmmn-qp").read_text("direct_url.json") or "")["url"]))
        origin = url2pathname(url.path) if url.scheme == _FILE else url.geturl()
    if origin:
        return f'pip install "{origin}[{extra}]"'
    return f'pip install ".[{extra}]" in the folder of dmmn-qp'
