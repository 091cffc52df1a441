"""The objects of a file of predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from uuid import UUID

from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.qupath.cutting import Feature
from dmmn_qp.qupath.marks import METADATA_KEY, is_ours
from dmmn_qp.qupath.notes import open_bytes, parse_uuid
from dmmn_qp.qupath.packed_json import FileContentError, NotStreamableError, open_text, stream_features

KINDS: Final = ("annotation", "detection")
"""Kinds of objects that predictions are, as QuPath's GeoJSON calls them."""


def kind_of(feature: Feature) -> str:
    """The kind of an object, as QuPath's GeoJSON calls it."""
    return str((feature.get("properties") or {}).get("objectType", "annotation"))


# ---- files


def read_features(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of predictions, as GeoJSON.

    Raises:
        AnnotationFileError: It is damaged, or holds objects that are not ours, which no later push could replace.
    """
    what = "file of predictions"
    try:
        with open_bytes(path, what, "predict again") as file:
            features = list(stream_features(open_text(file, path.stat().st_size)))
    except (FileContentError, NotStreamableError) as error:
        raise AnnotationFileError(f'{what} "{path}" is damaged or no FeatureCollection; predict again') from error
    ids: set[UUID] = set()
    for number, feature in enumerate(features, start=1):
        object_id = parse_uuid(feature.get("id")) if isinstance(feature, dict) else None
        if not isinstance(feature, dict) or object_id is None or object_id in ids or not is_ours(feature):
            raise AnnotationFileError(
                f'"{path}" is no prediction of ours: feature {number} has no id of its own, or not the mark '
                f'"{METADATA_KEY}"; push only what dmmn-qp predict wrote'
            )
        if kind_of(feature) not in KINDS:
            raise AnnotationFileError(
                f'"{path}": feature {number} is neither an annotation nor a detection; predict again'
            )
        feature.setdefault("properties", {}).setdefault("objectType", "annotation")
        ids.add(object_id)
    return [feature for feature in features if isinstance(feature, dict)]
