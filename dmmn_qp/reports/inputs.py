"""What `import` hands over for its report, and the findings that it can bring along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Literal

import numpy as np
from pydantic import model_validator

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Plane
from dmmn_qp.choices import SPLITS, Split
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.labels.class_rules import PaintRules, PatchRules, takes_labels_away
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.labels.splits import area_split_of
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.review_counts import Corrections, ReviewCounts
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.pixel_sizes import PixelSize
from dmmn_qp.specs import ClassMap, FileModel

_MOST_LOOKED_AT = 1000  # areas of a class without pixels

_LINES = ("LineString", "MultiLineString", "LinearRing")

Severity = Literal["error", "warning", "note"]

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
"""Worst first."""

Concern = Literal["dataset", "training", "slide", "area", "model"]
"""What a finding concerns: all that was read, a training on it alone, a slide, places on one, or what a model predicted
and people made of that."""


class Finding(FileModel):
    """One thing to look at.

    Attributes:
        severity: An error stops import or spoils training; a warning deserves a look; a note only says what is so.
        concerns: What it concerns; where nobody says it, as in files of earlier versions, what its place and its slide
            tell.
        slide: Id of the slide; None when the whole dataset is meant.
        class_name: The class; None when none or several are meant.
        place: (x, y) in level-0 px of QuPath's frame, in one of the things meant.
        message: What is so.
        way_out: What to do.
    """

    severity: Severity
    concerns: Concern = "dataset"
    slide: str | None = None
    class_name: str | None = None
    place: tuple[int, int] | None = None
    message: str
    way_out: str

    @model_validator(mode="before")
    @classmethod
    def _with_concern(cls, told: Any) -> Any:
        if not isinstance(told, dict) or "concerns" in told:
            return told
        concern = "area" if told.get("place") else "dataset" if told.get("slide") is None else "slide"
        return {**told, "concerns": concern}

    def line(self) -> str:
        """The finding in one line, without its severity."""
        where = f"{self.slide}: " if self.slide is not None else ""
        return where + self.said()

    def said(self) -> str:
        """The same without its slide."""
        place = f" (at {self.place[0]}, {self.place[1]})" if self.place is not None else ""
        return f"{self.message}{place}; {self.way_out}"


@dataclass(frozen=True, slots=True)
class ImportedSlide:
    """One slide of the dataset.

    Attributes:
        record: What the dataset says of it.
        name: What the user calls it.
        annotations: Everything drawn on it, trained on or not.
        painter: Paints its labels.
        patches: Its targets that hold enough annotation.
        open: Opens it in the frame of its annotations.
        pixel_size: Who says how large its pixels are.
        warnings: What the reader of its annotations had to repair or leave out.
        plane: The plane that is trained on.
        other_kinds: Number of objects that were left out because of their kind.
        review: Whose word its objects are, those that were left out included.
        corrections: Areas in px2 of predictions that somebody vouched for, by (predicted class, class now).
    """

    record: SlideRecord
    name: str
    annotations: tuple[Annotation, ...]
    painter: LabelPainter
    patches: tuple[PatchRef, ...]
    open: Callable[[], Slide]
    pixel_size: PixelSize | None = None
    warnings: tuple[str, ...] = ()
    plane: Plane = DEFAULT_PLANE
    other_kinds: int = 0
    review: ReviewCounts = field(default_factory=ReviewCounts)
    corrections: Corrections = field(default_factory=dict)

    @property
    def slide_id(self) -> str:
        """Its id in the dataset."""
        return self.record.slide_id

    @property
    def size_px(self) -> tuple[int, int] | None:
        """(width, height) in level-0 px."""
        return self.record.width, self.record.height

    @property
    def mpp(self) -> float | None:
        """um/px at level 0."""
        return self.record.mpp

    def is_on_plane(self, annotation: Annotation) -> bool:
        """Whether an annotation lies on the plane that is trained on."""
        return (annotation.plane.z, annotation.plane.t) == (self.plane.z, self.plane.t)

    @property
    def is_divided(self) -> bool:
        """Whether drawn areas divide the slide among splits."""
        return any(patch.fixed for patch in self.patches)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The slide's split, or the splits of its areas where drawn areas divide it."""
        if self.is_divided:
            return tuple(split for split in SPLITS if any(patch.split == split for patch in self.patches))
        return (self.record.split,)


@dataclass(frozen=True, slots=True)
class DrawnSlide:
    """What is drawn on a slide whose image cannot be imported.

    Attributes:
        slide_id: What its id would be.
        annotations: Everything drawn on it.
        size_px: (width, height) in level-0 px; None where it is not known.
        mpp: um/px at level 0; None where it is not known.
        warnings: What the reader of its annotations had to repair or leave out.
        plane: The plane that would be trained on.
        other_kinds: Number of objects that were left out because of their kind.
    """

    slide_id: str
    annotations: tuple[Annotation, ...]
    size_px: tuple[int, int] | None = None
    mpp: float | None = None
    warnings: tuple[str, ...] = ()
    plane: Plane = DEFAULT_PLANE
    other_kinds: int = 0

    def is_on_plane(self, annotation: Annotation) -> bool:
        """Whether an annotation lies on the plane that would be trained on."""
        return (annotation.plane.z, annotation.plane.t) == (self.plane.z, self.plane.t)


AnySlide = ImportedSlide | DrawnSlide
"""Whose annotations can be looked at."""


@dataclass(frozen=True, slots=True)
class ImportedData:
    """Everything that was imported.

    Attributes:
        name: The dataset, for people.
        source: Where the annotations came from.
        class_map: The classes.
        slides: The slides.
        painting: How annotations became labels.
        patching: Which targets became patches.
        left_out: Classes of the source that are not trained.
        without_annotations: Slides left out because nothing is drawn on them.
        noted: Findings that import itself made.
        reading: What was read of the source.
        only_predicted: Whose word the objects are of slides that are left out because nobody vouched for any.
        problems: Why images, or files of annotations, could not be imported, a line each.
        only_drawn: What is drawn on those images, where that is to be looked at too.
        drawn_classes: The classes with those that are drawn on no other image; None for no more.
    """

    name: str
    source: str
    class_map: ClassMap
    slides: tuple[ImportedSlide, ...]
    painting: PaintRules = field(default_factory=PaintRules)
    patching: PatchRules = field(default_factory=PatchRules)
    left_out: tuple[str, ...] = ()
    without_annotations: int = 0
    noted: tuple[Finding, ...] = ()
    reading: ReadRules = field(default_factory=ReadRules)
    only_predicted: tuple[ReviewCounts, ...] = ()
    problems: tuple[str, ...] = ()
    only_drawn: tuple[DrawnSlide, ...] = ()
    drawn_classes: ClassMap | None = None

    def label_of(self, slide: AnySlide, annotation: Annotation) -> int | None:
        """The label that an annotation gives to its pixels; None where it gives none."""
        labels = annotation.is_area or (
            self.painting.line_width_um is not None and annotation.geometry.geom_type in _LINES
        )
        if not labels or not slide.is_on_plane(annotation) or annotation.class_name is None:
            return None
        return self.class_map.label_of(annotation.class_name)

    def purpose_of(self, annotation: Annotation) -> Literal["region", "split"] | None:
        """What an annotation is for that is not there to be trained on."""
        if annotation.class_name is not None and annotation.class_name == self.painting.region_class:
            return "region"
        return "split" if self.patching.split_areas and area_split_of(annotation) is not None else None

    def covering_classes(self, name: str) -> tuple[str, ...]:
        """The classes whose areas are all there is to be seen within those of one, most of it first.

        Of QuPath's ``Ignore*``, which takes labels away, no pixel shows; it comes last. None where the class shows.
        """
        counts, label = np.zeros(len(self.class_map) + 1, np.int64), self.class_map.label_of(name)
        ignored: dict[str, None] = {}
        areas = (
            (slide, annotation.geometry)
            for slide in self.slides
            for annotation in slide.annotations
            if annotation.class_name == name and annotation.is_area and self.label_of(slide, annotation) is not None
        )
        for slide, geometry in islice(areas, _MOST_LOOKED_AT):
            counts += slide.painter.labels_within(geometry)
            if label is None or counts[label]:
                return ()
            ignored |= dict.fromkeys(
                other.class_name
                for other in slide.annotations
                if other.class_name and takes_labels_away(other.class_name) and other.geometry.intersects(geometry)
            )
        shown = [self.class_map.names[i] for i in np.argsort(-counts[1:], kind="stable") if counts[i + 1]]
        return (*shown, *(ignored if counts[0] else ()))
