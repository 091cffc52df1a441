"""One annotation, whichever way it goes: from QuPath into training, or from a prediction into QuPath."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from shapely.geometry.base import BaseGeometry

Color = tuple[int, int, int]
"""Red, green, blue, each 0 .. 255."""

ObjectKind = Literal["annotation", "detection", "tile", "cell", "tma_core"]

Origin = Literal["drawn", "corrected", "confirmed", "unchecked"]
"""Whose word an object is: ``drawn`` by a person; predicted by a model and then ``corrected`` (its class or outline was
changed) or ``confirmed`` (locked as it is) by a person; or predicted and ``unchecked``.
"""

ORIGINS: dict[Origin, int] = {"drawn": 1, "corrected": 2, "confirmed": 3, "unchecked": 4}
"""Values of a dataset's origin rasters, by origin; 0 is where nothing is labelled."""


@dataclass(frozen=True, slots=True)
class Plane:
    """The image plane that QuPath draws an object on; channel -1 means all channels."""

    c: int = -1
    z: int = 0
    t: int = 0


DEFAULT_PLANE = Plane()


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object drawn in QuPath, or one that QuPath is to show.

    Attributes:
        geometry: Level-0 px in QuPath's frame, y down. Polygonal for areas; lines and points are kept as drawn.
        class_name: QuPath's full class name, such as ``"Tumor: Positive"``; None for an unclassified object.
        class_color: Colour of the class where the source gives one.
        annotation_id: QuPath's id (version 0.4 and later).
        kind: QuPath's kind of object.
        name: The object's own name.
        locked: Whether QuPath protects it against editing.
        color: The object's own colour, which in QuPath wins over the class's.
        measurements: Named numbers; NaN and infinities are allowed.
        metadata: Named texts; QuPath's description is ``ANNOTATION_DESCRIPTION``.
        plane: The plane it lies on.
        parent_id: Id of the object it lies in, where the source has a hierarchy with ids.
        depth: How many objects it lies in, in the source's hierarchy; 0 where it has none.
        is_ellipse: Whether the polygon stands for the ellipse of its bounding box.
        nucleus: A cell's second outline.
        repaired_by_px2: What repairing a polygon that crosses, touches or overlaps itself added to its area, against
            the sum of its outlines as drawn; negative where it took away. None where nothing was repaired.
        origin: Whose word it is.
        predicted_as: Full name of the class that a model had predicted; None for what was drawn, and where it is not
            known.
        is_missing: Whether QuPath says of a core of a tissue microarray that it is not there.
    """

    geometry: BaseGeometry
    class_name: str | None = None
    class_color: Color | None = None
    annotation_id: UUID | None = None
    kind: ObjectKind = "annotation"
    name: str | None = None
    locked: bool = False
    color: Color | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    plane: Plane = DEFAULT_PLANE
    parent_id: UUID | None = None
    depth: int = 0
    is_ellipse: bool = False
    nucleus: BaseGeometry | None = None
    repaired_by_px2: float | None = None
    origin: Origin = "drawn"
    predicted_as: str | None = None
    is_missing: bool = False

    @property
    def is_area(self) -> bool:
        """Whether the geometry is polygonal, so that it can label pixels."""
        return self.geometry.geom_type in ("Polygon", "MultiPolygon")
