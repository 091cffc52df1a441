"""What became of the regions of a label map when objects were made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from dmmn_qp.outputs.options import PolygonOptions

MANY_ANNOTATIONS: Final = 10_000
"""More than that is said to: QuPath 0.5 and 0.7 read so many small polygons in about a second, but they list every
annotation, and nobody looks at so many one by one."""

MANY_DETECTIONS: Final = 100_000
"""The same for detections, which QuPath is made for: it reads so many in 7 to 10 s."""


@dataclass(slots=True)
class OfClass:
    """What became of the regions of one class.

    Attributes:
        regions: How many the label map has.
        dissolved: How many were too small and joined a neighbour of another class.
        dissolved_um2: Their area.
        objects: How many objects were made.
        is_shown: Whether the class gets objects at all.
    """

    regions: int = 0
    dissolved: int = 0
    dissolved_um2: float = 0.0
    objects: int = 0
    is_shown: bool = True


@dataclass(slots=True)
class MadeObjects:
    """Filled in while objects are made.

    Attributes:
        classes: By name. Regions are counted only where small ones are dissolved or holes filled.
    """

    classes: dict[str, OfClass] = field(default_factory=dict)

    @property
    def objects(self) -> int:
        """How many objects were made."""
        return sum(found.objects for found in self.classes.values())

    @property
    def dissolved(self) -> int:
        """How many regions joined a neighbour of another class."""
        return sum(found.dissolved for found in self.classes.values())

    def description(self) -> dict[str, Any]:
        """For ``run.json``: objects, and what was dissolved of each class of which anything was."""
        dissolved = {
            name: {"regions": found.dissolved, "area_um2": round(found.dissolved_um2, 2)}
            for name, found in self.classes.items()
            if found.dissolved
        }
        return {"count": self.objects, "dissolved": dissolved}

    def summary(self, options: PolygonOptions) -> str:
        """How many objects were made, and how many regions were dissolved, in words."""
        words = f"{self.objects} object{'' if self.objects == 1 else 's'}"
        if not self.dissolved:
            return words
        area_um2 = sum(found.dissolved_um2 for found in self.classes.values())
        regions = (
            f"{self.dissolved} region{'' if self.dissolved == 1 else 's'} of less than {options.min_area_um2:g} um2"
        )
        return f"{words}; {regions} ({area_um2:.6g} um2 in all) joined neighbours"

    def vanished_words(self, options: PolygonOptions) -> list[str]:
        """A line for each class of which nothing is left."""
        return [
            f'no object of "{name}" is left, all of its regions ({found.regions}) are smaller than --min-area-um2 '
            f"{options.min_area_um2:g} or in holes smaller than --min-hole-um2 {options.min_hole_um2:g}; the label "
            "raster keeps them"
            for name, found in self.classes.items()
            if found.is_shown and found.regions and not found.objects
        ]

    def warning(self, options: PolygonOptions, file_bytes: int) -> str | None:
        """What to know before opening very many objects; None where they are not.

        Args:
            options: How they were made.
            file_bytes: Size of the file with all of them.
        """
        is_annotation = options.object_kind == "annotation"
        if self.objects <= (MANY_ANNOTATIONS if is_annotation else MANY_DETECTIONS):
            return None
        ways = [
            f"a larger --min-area-um2 than {options.min_area_um2:g}",
            *(["--as detection"] if is_annotation else ()),
        ]
        return (
            f"{self.objects:,} objects in {file_bytes / 1e6:.1f} MB, more than QuPath handles with ease; pass "
            f"{', '.join(ways)} or --merge class, for which nothing is predicted again"
        )
