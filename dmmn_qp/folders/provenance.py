"""What was run, with what, on what: the content of every folder's ``run.json``."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from uuid import uuid4

from dmmn_qp.version import __version__

LIBRARIES = (
    "torch",
    "numpy",
    "shapely",
    "rasterio",
    "openslide-python",
    "openslide-bin",
    "pillow",
    "pydantic",
    "safetensors",
)


def now() -> str:
    """The present moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_run(stage: str, configuration: Mapping[str, Any], started: str, **facts: Any) -> dict[str, Any]:
    """Describes a run that has just ended.

    Args:
        stage: ``import``, ``train``, ``predict`` or ``evaluate``.
        configuration: The resolved options.
        started: `now` at its start.
        facts: What else is worth keeping (device, seed, figures).
    """
    return {
        "run_id": str(uuid4()),
        "stage": stage,
        "version": __version__,
        "command": sys.argv,
        "configuration": dict(configuration),
        "started": started,
        "finished": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version_of(name) for name in LIBRARIES},
        **facts,
    }


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
