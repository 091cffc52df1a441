"""What was run, with what, on what: the content of every folder's ``run.json``."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from dmmn_qp.files.addresses import shown_word
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
        "command": [shown_word(word) for word in sys.argv],
        "configuration": dict(configuration),
        "started": started,
        "finished": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": library_versions(),
        "code": code_digest(),
        **facts,
    }


def library_versions() -> dict[str, str | None]:
    """Version of each library that results may depend on; None of one that is not there."""
    return {name: _version_of(name) for name in LIBRARIES}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """A digest of the package's source files: what is installed may be newer than its version says."""
    return source_digest(Path(__file__).parents[1])


def source_digest(folder: Path) -> str:
    """A digest of the source files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*.py") if path.is_file()):  # an editor may keep links to nowhere
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


FINGERPRINTS = "training_fingerprints"
"""Key of a model's provenance: by what its training slides are known again."""

_SLIDES, _NUMBER = "slides", "training_slides"
"""Keys of a model's provenance: names of its training slides, in older cards; their number."""

_NAMELESS = (
    *("run_id", "version", "started_from", _NUMBER, FINGERPRINTS),
    *("source", "sha256", "preset", "repository", "iteration", "authors_validation_mean_iou"),
)
"""Keys of a model's provenance that say nothing of slides, paths and people."""


def training_provenance(run: Mapping[str, Any], fingerprints: Iterable[str]) -> dict[str, Any]:
    """Where a trained model comes from, for its card, which goes wherever the model goes.

    Slides are told by their fingerprints alone: whoever has one of them can tell that it was in the training, under
    whatever name, and nobody learns a name. The names are in ``run.json`` and in the dataset.

    Args:
        run: The training, as `describe_run` describes it.
        fingerprints: Of the training slides.
    """
    of_slides = sorted(fingerprints)
    return {"run_id": run["run_id"], "version": run["version"], _NUMBER: len(of_slides), FINGERPRINTS: of_slides}


def nameless_provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """A model's provenance without what others should not learn; names of slides become their number."""
    kept = {key: provenance[key] for key in _NAMELESS if key in provenance}
    if isinstance(names := provenance.get(_SLIDES), list):
        kept.setdefault(_NUMBER, len(names))
    return kept


def trained_slides(provenance: Mapping[str, Any]) -> list[str]:
    """The fingerprints of a model's training slides; of an older card their names."""
    prints, names = (provenance.get(key) for key in (FINGERPRINTS, _SLIDES))
    listed = prints if isinstance(prints, list) else names if isinstance(names, list) else []
    return [word for word in listed if isinstance(word, str)]


def was_trained_on(provenance: Mapping[str, Any], slide_id: str, fingerprint: str) -> bool:
    """Whether a slide was in the training of a model: by its fingerprint, in an older card by its name."""
    prints, names = (provenance.get(key) for key in (FINGERPRINTS, _SLIDES))
    if isinstance(prints, list):
        return fingerprint in prints
    return isinstance(names, list) and slide_id in names


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
