"""How our own objects are told from those that somebody drew, in every version of QuPath from 0.4 on.

QuPath before 0.5 loses the metadata of annotations when it imports GeoJSON, but keeps ids. So the id carries a mark
too: its first eight digits, in a UUID of version 5. QuPath's own ids are random, of version 4, so none of them ever
has the mark. Editing an object in QuPath keeps both marks; an object drawn, copied or split there has a new id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from dmmn_qp.qupath.reading import parse_uuid

METADATA_KEY: Final = "dmmn_qp"
"""Marks our objects in QuPath: the metadata key that holds the model's name."""

RUN_KEY: Final = "dmmn_qp_run"
"""Metadata key that holds the id of the prediction."""

ID_PREFIX: Final = "d1337b0f"
"""The first eight digits of the ids of our objects."""

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "https://pypi.org/project/dmmn-qp")
_OURS: Final = 5
"""Version of our UUIDs: made of a name, not drawn."""


def marked_id(content: str) -> UUID:
    """An id of ours: the same for the same content, and recognised by :func:`is_marked`.

    Args:
        content: What makes the object this one: slide, model, class and outline.
    """
    return UUID(ID_PREFIX + uuid5(_NAMESPACE, content).hex[len(ID_PREFIX) :])


def is_marked(object_id: UUID | None) -> bool:
    """Whether an id is one of ours."""
    return object_id is not None and object_id.version == _OURS and object_id.hex.startswith(ID_PREFIX)


def is_ours(feature: Mapping[str, Any]) -> bool:
    """Whether QuPath's GeoJSON of an object shows that we made it: by its metadata or by its id."""
    metadata = (feature.get("properties") or {}).get("metadata")
    return (isinstance(metadata, dict) and METADATA_KEY in metadata) or is_marked(parse_uuid(feature.get("id")))


def is_locked(feature: Mapping[str, Any]) -> bool:
    """Whether somebody has locked the object, which is how a corrected prediction is kept."""
    return (feature.get("properties") or {}).get("isLocked") is True
