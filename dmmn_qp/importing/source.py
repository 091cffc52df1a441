"""A source of annotations: slides, and what is drawn on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Final

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation, Color, Plane
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.importing.reviewed import Reviewer
from dmmn_qp.qupath.image_names import KindCounts, of_kinds, slide_ids
from dmmn_qp.qupath.notes import ReadResult
from dmmn_qp.qupath.review_counts import ReviewCounts, ReviewedModel, total
from dmmn_qp.slides.names import NamedSlide
from dmmn_qp.slides.view import SlideView


@dataclass(frozen=True, slots=True)
class SourceSlide:
    """A slide as its source knows it, before the file is opened.

    Attributes:
        name: What the user calls it.
        objects: Its objects of the kinds asked for.
        view: Its file in the frame of the objects, and what the source says of its size.
        metadata: Key-value pairs of the image.
        plane: The plane whose objects count.
        other_kinds: Objects left out because of their kind.
        review: Whose word its objects are.
        models: What was corrected or confirmed of predictions, by the model that had predicted it.
        problem: Why its image cannot be imported, where the source can tell; its view opens nothing then.
        project: The source that it is from, where there are several; else None.
    """

    name: str
    objects: ReadResult
    view: SlideView
    metadata: Mapping[str, str] = field(default_factory=dict)
    plane: Plane = DEFAULT_PLANE
    other_kinds: KindCounts = field(default_factory=KindCounts)
    review: ReviewCounts = field(default_factory=ReviewCounts)
    models: tuple[ReviewedModel, ...] = ()
    problem: DmmnQpError | None = None
    project: Path | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.view.path

    def named(self) -> NamedSlide:
        """Its names, as a person may write them in a table."""
        return NamedSlide(self.path, (slide_ids([self.path.name])[0], self.name))

    def is_on_plane(self, annotation: Annotation) -> bool:
        """Whether an object lies on the plane that counts."""
        return (annotation.plane.z, annotation.plane.t) == (self.plane.z, self.plane.t)


FindSlides = Callable[[Sequence["Unannotated"]], list[SourceSlide]]


@dataclass(frozen=True, slots=True)
class Unannotated:
    """A slide of a source that has no object to learn from.

    Attributes:
        name: What the user calls it.
        path: Its file, as far as it is known before it is looked for.
        key: What its source knows it by.
        find: Looks for the files of some such slides of the source; the same function for all of them.
        metadata: Key-value pairs of the image.
        review: Whose word its objects are, where nobody vouched for any.
    """

    name: str
    path: PurePath
    key: str
    find: FindSlides = field(compare=False, repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)
    review: ReviewCounts = field(default_factory=ReviewCounts)

    def named(self) -> NamedSlide:
        """Its names, as a person may write them in a table."""
        return NamedSlide(self.path, (slide_ids([self.path.name])[0], self.name))


@dataclass(frozen=True, slots=True)
class Source:
    """The annotated slides of a source.

    Attributes:
        slides: The slides that hold at least one object.
        class_colors: Classes in the source's order with their colours.
        without_annotations: Number of slides left out because nothing is drawn on them.
        problems: Files of annotations, and tables, that cannot be read or used, each with the way out.
        warnings: What else is worth knowing of the source as a whole.
        only_predicted: Whose word the objects are of slides that are left out because nobody vouched for any.
        other_kinds: Objects of slides that are left out because they have none of the kinds asked for.
        unread_objects: Number of objects of slides that were not read because they have none of the kinds asked for.
        unannotated: The slides that are left out because nothing is drawn on them, as far as the source lists them.
    """

    slides: tuple[SourceSlide, ...]
    class_colors: Mapping[str, Color | None]
    without_annotations: int
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    only_predicted: tuple[ReviewCounts, ...] = ()
    other_kinds: KindCounts = field(default_factory=KindCounts)
    unread_objects: int = 0
    unannotated: tuple[Unannotated, ...] = ()

    def all_counts(self) -> ReviewCounts:
        """Whose word all objects are, those that are left out included."""
        return total((*(slide.review for slide in self.slides), *self.only_predicted))


@dataclass(frozen=True, slots=True)
class Taken:
    """What is taken of an image: its objects of the kinds asked for, and how many others there are."""

    objects: ReadResult
    other_kinds: KindCounts
    review: ReviewCounts
    models: tuple[ReviewedModel, ...]


NOTHING_TAKEN: Final = Taken(ReadResult(()), KindCounts(), ReviewCounts(), ())
"""What is taken of an image without objects."""


def take_reviewed(objects: ReadResult, names: Iterable[str], reviewer: Reviewer) -> Taken:
    """Takes of an image's objects what was drawn and what was reviewed, of the kinds asked for."""
    reviewed = reviewer.of(objects, names)
    wanted, n_others = of_kinds(reviewed.objects, reviewer.rules.kinds)
    return Taken(wanted, n_others, reviewed.counts, reviewed.models)


def all_of(problems: Sequence[str]) -> str:
    """All of some problems in one line; those with the same way out share it."""
    by_way_out: dict[str, list[str]] = {}
    for problem in problems:
        what, _, way_out = problem.partition("; ")
        by_way_out.setdefault(way_out, []).append(what)
    return "; also ".join(
        ", ".join(dict.fromkeys(what)) + (f"; {way_out}" if way_out else "") for way_out, what in by_way_out.items()
    )


def class_colors_of(results: Sequence[ReadResult]) -> dict[str, Color | None]:
    """Classes in order of appearance, those of drawn objects first, so that reviewing does not change their order.

    The first colour given to a name counts, as in QuPath.
    """
    annotations = [annotation for result in results for annotation in result.annotations]
    colors: dict[str, Color | None] = {}
    for annotation in sorted(annotations, key=lambda a: a.origin != "drawn"):
        if annotation.class_name is not None:
            colors[annotation.class_name] = colors.get(annotation.class_name) or annotation.class_color
    return colors


def with_project_order(
    of_project: Mapping[str, Color | None], used: Mapping[str, Color | None]
) -> dict[str, Color | None]:
    """Classes in the project's order, then those that only occur in annotations; the project's colours win."""
    return {**of_project, **{name: of_project.get(name) or color for name, color in used.items()}}
