"""What a model folder says of itself, read at a glance: without its weights, and whatever is missing or damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dmmn_qp.files import RUN_FILE
from dmmn_qp.files.locks import is_held

CARD: Final = "model.json"

UNFINISHED: Final = "resume.pt"
"""In a model's folder for as long as its training is not finished."""

SHIPPED: Final = "demo"
"""Folder of the model that comes with the project; it is never taken unless it is named."""

MAX_BYTES: Final = 4 * 2**20
"""So much of a card or a ``run.json`` is read; what is longer is taken for damaged."""

DATASET_DIGEST: Final = "dataset_digest"
"""Key of ``run.json`` under which a training tells the content of its dataset."""


@dataclass(frozen=True, slots=True)
class ModelGlance:
    """A model folder.

    Attributes:
        folder: The folder.
        name: The model's name.
        run_id: Its training: what predictions know it by.
        created: When it was made, UTC, ISO 8601; empty where it does not tell.
        accepted: Whether it may take the place of the models before it.
        mean_iou: mIoU on its validation patches; None where it does not tell.
        constant_mean_iou: That of saying one class everywhere; None likewise.
        is_unfinished: Whether its training was interrupted, or is running.
        is_running: Whether something works in the folder.
        is_damaged: Whether it has no card that can be read.
        seconds: How long it was trained; None where nobody knows.
        dataset_digest: Content of its dataset; None likewise.
        configuration: The options of its training; empty likewise.
    """

    folder: Path
    name: str
    run_id: str
    created: str = ""
    accepted: bool = True
    mean_iou: float | None = None
    constant_mean_iou: float | None = None
    is_unfinished: bool = False
    is_running: bool = False
    is_damaged: bool = False
    seconds: float | None = None
    dataset_digest: str | None = None
    configuration: Mapping[str, Any] | None = None


def glance_models(models: Path) -> list[ModelGlance]:
    """The model folders in a folder, the last made last; the model that comes with the project is none of them."""
    try:
        folders = sorted(path for path in models.iterdir() if path.is_dir())
    except OSError:
        return []
    found = [
        _glance(path)
        for path in folders
        if not path.name.startswith(".")
        and path.name != SHIPPED
        and ((path / CARD).is_file() or (path / UNFINISHED).is_file())
    ]
    return sorted(found, key=lambda model: (model.created, model.name))


def newest(models: list[ModelGlance]) -> ModelGlance | None:
    """The model that `predict` takes where none is named; None where there is none."""
    usable = [m for m in models if m.accepted and not m.is_damaged]
    return max(usable, key=lambda model: (model.created, model.folder.name), default=None)


def _glance(folder: Path) -> ModelGlance:
    card, run = read_object(folder / CARD), read_object(folder / RUN_FILE)
    is_unfinished, is_running = (folder / UNFINISHED).is_file(), is_held(folder)
    name = _text(card.get("name")) or folder.name
    if not card:
        return ModelGlance(
            folder,
            name,
            "",
            is_unfinished=is_unfinished,
            is_running=is_running,
            is_damaged=(folder / CARD).is_file(),
        )
    provenance, validation = _object(card.get("provenance")), _object(card.get("validation"))
    run_id = _text(provenance.get("run_id")) or name
    is_its_run = run.get("run_id") == run_id
    return ModelGlance(
        folder=folder,
        name=name,
        run_id=run_id,
        created=_text(card.get("created")) or "",
        accepted=card.get("accepted") is not False,
        mean_iou=number(validation.get("mean_iou")),
        constant_mean_iou=number(validation.get("constant_mean_iou")),
        is_unfinished=is_unfinished,
        is_running=is_running,
        seconds=number(run.get("seconds")) if is_its_run else None,
        dataset_digest=_text(run.get(DATASET_DIGEST)) if is_its_run else None,
        configuration=_object(run.get("configuration")) if is_its_run else None,
    )


def read_object(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """An object of JSON in a file; an empty one where it is missing, damaged, too long or something else."""
    try:
        if not path.is_file():  # such as a pipe, which one would wait for
            return {}
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
        return _object(json.loads(content)) if len(content) <= max_bytes else {}
    except (OSError, ValueError, RecursionError):
        return {}


def number(value: object) -> float | None:
    """A finite number of at least 0; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e12 else None


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
