"""The folder of predictions: which slides it holds polygons of, and which file each of them was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.outputs import RUN_FILE
from dmmn_qp.slides.transformed import Change
from dmmn_qp.specs import FileModel

POLYGONS_SUFFIXES = (".geojson", ".geojson.gz")
"""What follows ``<slide>`` in the name of a file of predicted polygons."""

OTHERS_SUFFIX = ".tissue"
"""Ends the name of what lies beside a slide's polygons and is no prediction: ``<slide>.tissue.geojson``."""

INPUTS = "inputs"
"""Key of ``run.json`` under which the slides are told."""


class PredictedInput(FileModel):
    """The image that a prediction was made from.

    Attributes:
        path: Where its file was.
        fingerprint: Digest of the file.
        width: Level-0 columns in QuPath's frame; None before the file is opened.
        height: Level-0 rows in QuPath's frame.
        crop_to_bounds: Whether QuPath's frame starts at the scanned bounds.
        frame: Crops and turns that QuPath puts around the file, the one next to the file first.
    """

    path: str
    fingerprint: str
    width: int | None = Field(None, gt=0)
    height: int | None = Field(None, gt=0)
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()


_INPUTS: TypeAdapter[dict[str, PredictedInput]] = TypeAdapter(dict[str, PredictedInput])


def read_inputs(folder: Path) -> dict[str, PredictedInput]:
    """The images that the predictions of a folder were made from, as far as its ``run.json`` tells, by slide.

    Raises:
        AnnotationFileError: ``run.json`` is damaged.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_bytes())
        return _INPUTS.validate_python(content.get(INPUTS, {}))
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, RecursionError, ValidationError):
        raise AnnotationFileError(f'"{path}" is damaged; predict again, or remove it') from None


def merged_inputs(folder: Path, new: Mapping[str, PredictedInput]) -> dict[str, Any]:
    """The images of a folder's predictions after some more, as ``run.json`` tells them."""
    try:
        earlier = read_inputs(folder)
    except AnnotationFileError:
        earlier = {}
    kept = {name: image for name, image in earlier.items() if name not in new and polygons_of(folder, name)}
    return {name: image.model_dump(mode="json") for name, image in {**kept, **new}.items()}


def polygons_of(folder: Path, slide_id: str) -> Path | None:
    """The file of a slide's polygons; None where there is none."""
    return next((p for s in POLYGONS_SUFFIXES if (p := folder / f"{slide_id}{s}").is_file()), None)


def predicted_polygons(folder: Path) -> dict[str, Path]:
    """All files of polygons in a folder of predictions, by slide.

    Raises:
        AnnotationFileError: There is none, or a slide has two.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        suffix = next((s for s in POLYGONS_SUFFIXES if path.name.endswith(s)), None)
        if suffix is None or path.name.startswith(".") or not path.is_file():
            continue
        slide_id = path.name.removesuffix(suffix)
        if slide_id in files:
            raise AnnotationFileError(f'"{files[slide_id]}" and "{path}" are of the same slide; remove the older one')
        files[slide_id] = path
    for slide_id in [*files]:
        if slide_id.endswith(OTHERS_SUFFIX) and slide_id.removesuffix(OTHERS_SUFFIX) in files:
            del files[slide_id]
    if not files:
        raise AnnotationFileError(
            f'"{folder}" holds no predictions (no <slide>.geojson); pass the folder that dmmn-qp predict wrote'
        )
    return files
