"""The folder of predictions: which slides it holds polygons of, and which file each of them was made from."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.features.domain import FromTraining
from dmmn_qp.files import RUN_FILE
from dmmn_qp.slides.transformed import Change
from dmmn_qp.specs import ClassMap, FileModel

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
        frame: Crops, turns and flips that QuPath puts around the file, the one next to the file first.
    """

    path: str
    fingerprint: str
    width: int | None = Field(None, gt=0)
    height: int | None = Field(None, gt=0)
    crop_to_bounds: bool = True
    frame: tuple[Change, ...] = ()


class Prediction(BaseModel):
    """What ``run.json`` says of the prediction of one slide; keys that it does not know are left alone.

    Attributes:
        run_id: The run that made the polygons.
        model: Name of the model.
        model_run: Run id of the model's training, or its name where it has none.
        weights: Digest of the model's weights; None where an earlier version wrote it.
        card: Digest of what else of the model the labels depend on; None likewise.
        class_map: The model's classes; None likewise.
        request: What the labels depend on, by the words in which it is told to people; None likewise.
        polygons: What the polygons depend on besides; None likewise.
        files: Digest of each raster beside the polygons, by what follows ``<slide>.`` in its name; None likewise.
        labels_run: The run that made the labels, where the polygons were made anew from them later; else None.
        distance_from_training: How far the slide is from the model's training slides; None where that is not known.
        distance_threshold: Distance from which on a slide is unlike them; None where the model knows none.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    run_id: str
    model: str
    model_run: str
    weights: str | None = None
    card: str | None = None
    class_map: ClassMap | None = None
    request: dict[str, Any] | None = None
    polygons: dict[str, Any] | None = None
    files: dict[str, str] | None = None
    labels_run: str | None = None
    distance_from_training: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    distance_threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    @property
    def mpp(self) -> float | None:
        """um/px of level 0 as the slide was predicted; None where that is not recorded, or is no size of a pixel."""
        told = (self.request or {}).get("um_per_px")
        return float(told) if isinstance(told, int | float) and 0 < told <= sys.float_info.max else None

    @property
    def is_unlike(self) -> bool:
        """Whether the slide is unlike the model's training slides, as far as that is known."""
        distance = self.distance_from_training
        return distance is not None and FromTraining(distance, self.distance_threshold).is_unlike


PREDICTIONS = "predictions"
"""Key of ``run.json`` under which the predictions are told, by slide."""

EARLIER = "earlier"
"""Folder in a folder of predictions: ``<run id>/<slide>.geojson.gz`` with polygons that were replaced."""

REGIONS = "roi"
"""Folder in a folder of predictions in which QuPath's script keeps those of selected regions."""


def read_run(folder: Path) -> dict[str, Any]:
    """What ``run.json`` of a folder says, unchecked; nothing where it is missing or damaged."""
    try:
        content = json.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_predictions(folder: Path) -> dict[str, Prediction]:
    """What ``run.json`` says of each slide's prediction; what it does not say, or says damaged, is left out."""
    try:
        told = json.loads((folder / RUN_FILE).read_bytes())[PREDICTIONS]
        items = list(told.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    found: dict[str, Prediction] = {}
    for name, facts in items:
        with suppress(ValidationError):
            found[name] = Prediction.model_validate(facts)
    return found


def is_by(prediction: Prediction | None, weights_sha256: str | None) -> bool:
    """Whether a model made a prediction, as far as both tell; where one of them does not, it may have.

    Args:
        prediction: What is recorded of it.
        weights_sha256: Digest of the model's weights, as its card has it.
    """
    made_by = prediction.weights if prediction is not None else None
    return made_by is None or weights_sha256 is None or weights_sha256.startswith(made_by)


def model_of(folder: Path) -> Path | None:
    """The model of the last run that predicted into a folder; None where it is not told, or not there any more."""
    try:
        model = Path(json.loads((folder / RUN_FILE).read_bytes())["configuration"]["model"])
        return model if model.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


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


def merged_inputs(folder: Path, new: Mapping[str, PredictedInput], without: Collection[str] = ()) -> dict[str, Any]:
    """The images of a folder's predictions after some more, as ``run.json`` tells them, sorted by slide.

    Args:
        folder: The folder; of slides that are not in it any more, nothing is told.
        new: The images that are told anew.
        without: Slides of which nothing is to be told.
    """
    try:
        earlier = read_inputs(folder)
    except AnnotationFileError:
        earlier = {}
    merged = {name: image for name, image in earlier.items() if name not in without and _is_there(folder, name)}
    return {name: image.model_dump(mode="json") for name, image in sorted({**merged, **new}.items())}


def merged_predictions(folder: Path, new: Mapping[str, Prediction], without: Collection[str] = ()) -> dict[str, Any]:
    """The predictions of a folder after some more, as ``run.json`` tells them; see `merged_inputs`."""
    earlier = read_predictions(folder)
    merged = {name: told for name, told in earlier.items() if name not in without and _is_there(folder, name)}
    return {name: told.model_dump(mode="json", exclude_none=True) for name, told in sorted({**merged, **new}.items())}


def _is_there(folder: Path, slide_id: str) -> bool:
    """Whether a folder holds a slide's prediction, or at least its labels."""
    return polygons_of(folder, slide_id) is not None or (folder / f"{slide_id}.{LABELS_SUFFIX}").is_file()


def polygons_of(folder: Path, slide_id: str) -> Path | None:
    """The file of a slide's polygons; None where there is none."""
    return next((p for s in POLYGONS_SUFFIXES if (p := folder / f"{slide_id}{s}").is_file()), None)


def polygon_files(folder: Path) -> dict[str, list[Path]]:
    """All files of polygons in a folder of predictions by slide, replaced ones and those of regions included."""
    files: dict[str, list[Path]] = {}
    both = (folder, folder / REGIONS)
    for place in (*both, *(run for top in both for run in sorted(top.glob(f"{EARLIER}/*/"), reverse=True))):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            suffix = next((s for s in POLYGONS_SUFFIXES if path.name.endswith(s)), None)
            slide_id = path.name.removesuffix(suffix or "")
            if suffix and path.is_file() and not path.name.startswith(".") and not slide_id.endswith(OTHERS_SUFFIX):
                files.setdefault(slide_id, []).append(path)
    return files


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


LABELS_SUFFIX = "labels.ome.tif"
"""What follows ``<slide>.`` in the name of a predicted label raster."""

PROBABILITIES_SUFFIX = "probabilities.ome.tif"
"""What follows ``<slide>.`` in the name of a raster of probabilities."""

UNCERTAINTY_SUFFIX = "uncertainty.ome.tif"
"""What follows ``<slide>.`` in the name of a raster of uncertainty."""

LABELS_ZARR_SUFFIX: Final = "labels.ome.zarr"
"""What follows ``<slide>.`` in the name of the folder with the same labels as OME-Zarr."""

PROBABILITIES_ZARR_SUFFIX: Final = "probabilities.ome.zarr"
"""The same for probabilities."""

UNCERTAINTY_ZARR_SUFFIX: Final = "uncertainty.ome.zarr"
"""The same for uncertainty."""

SEGMENTATION_SUFFIX: Final = "seg.dcm"
"""What follows ``<slide>.`` in the name of a DICOM segmentation."""

OVERVIEW_SUFFIX: Final = "overview.png"
"""What follows ``<slide>.`` in the name of the picture of a slide and its classes."""

TISSUE_SUFFIX: Final = "tissue.geojson"
"""What follows ``<slide>.`` in the name of the tissue's outline."""
