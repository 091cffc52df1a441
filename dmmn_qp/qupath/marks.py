"""How our own objects are told from those that somebody drew, in every version of QuPath from 0.4 on.

QuPath before 0.5 loses the metadata of annotations when it imports GeoJSON, but keeps ids. So the id carries a mark
too: its first eight digits, in a UUID of version 5. QuPath's own ids are random, of version 4, so none of them ever
has the mark. Editing an object in QuPath keeps both marks; an object drawn, copied or split there has a new id.

Measurements survive every version as well, but every change of an outline removes them. So they say two things:
`PERIMETER` on an object of ours that nobody has reshaped it since, and `CLASS_CODE` which class it was predicted as.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5
from zlib import crc32

from dmmn_qp.annotations import Annotation
from dmmn_qp.qupath.notes import full_class_name, parse_uuid

METADATA_KEY: Final = "dmmn_qp"
"""Marks our objects in QuPath: the metadata key that holds the model's name."""

RUN_KEY: Final = "dmmn_qp_run"
"""Metadata key that holds the id of the prediction."""

MODEL_RUN_KEY: Final = "dmmn_qp_model_run"
"""Metadata key that holds the id of the model's training."""

CLASS_KEY: Final = "dmmn_qp_class"
"""Metadata key that holds the full name of the predicted class."""

ORIGIN_KEY: Final = "dmmn_qp_origin"
"""Metadata key by which a dataset's annotations say that a prediction was corrected."""

AREA_UM2: Final = "Area \u00b5m^2"
AREA_MM2: Final = "Area mm^2"
PERIMETER: Final = "Perimeter \u00b5m"
MEAN_PROBABILITY: Final = "Mean probability"
CLASS_CODE: Final = "Predicted class code"
"""Names of the measurements of our objects; `class_code` is the value of the last."""

OUR_MEASUREMENTS: Final = frozenset({AREA_UM2, AREA_MM2, PERIMETER, MEAN_PROBABILITY, CLASS_CODE})

ID_PREFIX: Final = "d1337b0f"
"""The first eight digits of the ids of our objects."""

TISSUE_MARK: Final = "tissue"
"""What the metadata of a tissue outline have in place of a model's name."""

TISSUE_CLASS: Final = "Tissue"
"""Class of the tissue outline that we write, which is nothing to be trained on."""

SUGGESTION_MARK: Final = "suggestion"
"""What the metadata of a suggested region have in place of a model's name."""

SUGGESTION_CLASS: Final = "Region*"
"""Class of the suggested regions that we write, which QuPath ignores and which is nothing to be trained on."""

SUGGESTION_RANK: Final = "Suggestion rank"
"""Measurement of a suggested region, which it loses like all others when its outline is changed."""

_OUTLINE_GROUP: Final = "0000"
"""The next four digits of the id of a tissue's outline, which is no prediction; other ids of ours never have them."""

_SUGGESTION_GROUP: Final = "0002"
"""The same for suggested regions; of ids of predictions, those of earlier versions may have them by chance."""

_NEVER_OUTLINE: Final = "0001"

_GROUP_END: Final = len(ID_PREFIX) + len(_OUTLINE_GROUP)
_NAMESPACE: Final = uuid5(NAMESPACE_URL, "https://pypi.org/project/dmmn-qp")
_OURS: Final = 5
"""Version of our UUIDs: made of a name, not at random."""


def marked_id(content: str) -> UUID:
    """The id of a predicted object: the same for the same content, and recognised by :func:`is_marked`.

    Args:
        content: What makes the object this one: slide, model, class and outline.
    """
    digits = uuid5(_NAMESPACE, content).hex
    group, rest = digits[len(ID_PREFIX) : _GROUP_END], digits[_GROUP_END:]
    return UUID(ID_PREFIX + (_NEVER_OUTLINE if group in (_OUTLINE_GROUP, _SUGGESTION_GROUP) else group) + rest)


def outline_id(content: str) -> UUID:
    """The id of an outline of ours that is no predicted object, recognised by :func:`is_outline_id`.

    Args:
        content: What makes it this one: slide and outline.
    """
    return UUID(ID_PREFIX + _OUTLINE_GROUP + uuid5(_NAMESPACE, content).hex[_GROUP_END:])


def suggestion_id(content: str) -> UUID:
    """The id of a suggested region, recognised by :func:`is_suggestion_id`.

    Args:
        content: What makes it this one: slide and place.
    """
    return UUID(ID_PREFIX + _SUGGESTION_GROUP + uuid5(_NAMESPACE, content).hex[_GROUP_END:])


def class_code(name: str) -> int:
    """A number that stands for a class's full name, whatever its label is in one class map or another.

    It has 24 bits, so that it stays exact in QuPath's 32-bit measurements too.
    """
    return crc32(name.encode("utf-8", "replace")) & 0xFFFFFF


def is_marked(object_id: UUID | None) -> bool:
    """Whether an id is one of ours."""
    return object_id is not None and object_id.version == _OURS and object_id.hex.startswith(ID_PREFIX)


def with_marks_of_its_class(annotation: Annotation) -> Annotation:
    """An object whose class was renamed, with marks that tell the same of it by the name that it was renamed to.

    Else what is unchecked would look corrected wherever it is read next. What was corrected is marked as such, because
    both of its classes may have one name now.
    """
    if annotation.predicted_as is None:
        return annotation
    name = full_class_name([annotation.predicted_as]) or annotation.predicted_as
    metadata, measurements = dict(annotation.metadata), dict(annotation.measurements)
    if CLASS_KEY in metadata:
        metadata[CLASS_KEY] = name
    if CLASS_CODE in measurements:
        measurements[CLASS_CODE] = class_code(name)
    if annotation.origin == "corrected":
        metadata[ORIGIN_KEY] = annotation.origin
    return replace(annotation, metadata=metadata, measurements=measurements)


def is_outline_id(object_id: UUID | None) -> bool:
    """Whether an id is that of an outline of ours which is no predicted object, as that of the tissue."""
    return (
        object_id is not None and is_marked(object_id) and object_id.hex[len(ID_PREFIX) : _GROUP_END] == _OUTLINE_GROUP
    )


def is_suggestion_id(object_id: UUID | None) -> bool:
    """Whether an id is that of a suggested region."""
    return (
        object_id is not None
        and is_marked(object_id)
        and object_id.hex[len(ID_PREFIX) : _GROUP_END] == _SUGGESTION_GROUP
    )


def is_ours(feature: Mapping[str, Any]) -> bool:
    """Whether QuPath's GeoJSON of an object shows that we made it: by its metadata or by its id."""
    metadata = (feature.get("properties") or {}).get("metadata")
    return (isinstance(metadata, dict) and METADATA_KEY in metadata) or is_marked(parse_uuid(feature.get("id")))


def is_locked(feature: Mapping[str, Any]) -> bool:
    """Whether somebody has locked the object, which is how a corrected prediction is kept."""
    return (feature.get("properties") or {}).get("isLocked") is True
