"""From what people drew to what is trained: rules for class names, for painting and for patches."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dmmn_qp.annotations import Annotation
from dmmn_qp.choices import OverlapRule
from dmmn_qp.errors import DatasetError
from dmmn_qp.specs import MIN_LABELLED_FRACTION, PatchSpec, TissueClass

STAR = "*"
"""Ends the name of a class that QuPath ignores."""

IGNORE: Final = "Ignore*"
"""QuPath's class for parts that must not be looked at: it takes the label away from what lies under it."""

NOT_TISSUE: Final = (
    "background", "glass", "whitespace", "empty", "ignore",
    "ignored", "no tissue", "non tissue", "blank", "hintergrund", "leer", "kein gewebe",
)  # fmt: skip
"""First words of the names of classes that are not tissue, in any case, the likeliest first."""


@dataclass(frozen=True, slots=True)
class ClassRules:
    """What becomes of each class name.

    Attributes:
        rename: Name in the source -> name to train; several names with one target are merged. A name that stands
            here is trained even if it ends in ``*``.
        drop: Names that are not trained.
        merge_case: Whether names that differ only in case or blanks are one class, the one met first.
        region_class: Name of the areas that only bound others, and are not trained themselves.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    merge_case: bool = False
    region_class: str | None = None

    def resolve(self, names: Iterable[str]) -> dict[str, str | None]:
        """Name in the source -> name to train, or None for a class that is not trained.

        Args:
            names: All names of the source, in its order.

        Raises:
            DatasetError: A rule names a class that does not exist.
        """
        known = list(dict.fromkeys(names))
        canonical = self._canonical(known)
        for rule, listed in (("[import.classes]", self.rename), ("--drop", self.drop)):
            for name in listed:
                if name not in known and folded(name) not in map(folded, canonical.values() if self.merge_case else ()):
                    raise _unknown(name, rule, known)
        if self.region_class is not None and self.region_class not in known:
            raise _unknown(self.region_class, "--region-class", known)
        return {name: self._target(name, canonical[name]) for name in known}

    def _canonical(self, names: Sequence[str]) -> dict[str, str]:
        if not self.merge_case:
            return {name: name for name in names}
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(folded(name), name)
        return {name: first[folded(name)] for name in names}

    def _target(self, name: str, canonical: str) -> str | None:
        if name in self.drop or canonical in self.drop or name == self.region_class:
            return None
        for listed in (name, canonical):
            if listed in self.rename:
                return self.rename[listed]
        return None if canonical.endswith(STAR) else canonical


@dataclass(frozen=True, slots=True)
class PaintRules:
    """How annotations become labels.

    Attributes:
        overlap: Which area wins where classes overlap (`painting_order`). Within a rule ties are settled by the class
            order.
        line_width_um: Width given to lines of trained classes; None leaves lines out.
        region_class: Class of the areas outside which nothing is labelled, on slides that have any; None for no such
            class.
    """

    overlap: OverlapRule = "inner"
    line_width_um: float | None = None
    region_class: str | None = None


@dataclass(frozen=True, slots=True)
class PatchRules:
    """Which targets of a slide become patches.

    Attributes:
        spec: The patch geometry.
        min_labelled_fraction: Part of a target that must be exceeded by annotation.
        split_areas: Whether areas named after a split divide the slide they lie on.
    """

    spec: PatchSpec = field(default_factory=PatchSpec)
    min_labelled_fraction: float = MIN_LABELLED_FRACTION
    split_areas: bool = False


def takes_labels_away(name: str | None) -> bool:
    """Whether a class is QuPath's ``Ignore*``, however its case and blanks are written."""
    return name is not None and name.endswith(STAR) and folded(name) == folded(IGNORE)


def case_variants(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in case or blanks: probably slips of one class."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[folded(name)].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def namesake(name: str, names: Iterable[str]) -> str | None:
    """The first of other names that differs from one only in case or blanks: probably the same class."""
    return next((other for other in names if other != name and folded(other) == folded(name)), None)


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """What a name that does not exist was probably meant to be; None where nothing is like it."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=1)
    return namesake(name, known) or (near[0] if near else None)


def with_trained_classes(
    annotations: Iterable[Annotation], targets: Mapping[str, str | None]
) -> tuple[Annotation, ...]:
    """The annotations with the names that are trained; what is not trained keeps its own name."""

    def trained(name: str | None) -> str | None:
        return name if name is None else targets.get(name) or name

    def renamed(annotation: Annotation) -> Annotation:
        name, predicted_as = trained(annotation.class_name), trained(annotation.predicted_as)
        if (name, predicted_as) == (annotation.class_name, annotation.predicted_as):
            return annotation
        color = annotation.class_color if name == annotation.class_name else None
        return replace(annotation, class_name=name, class_color=color, predicted_as=predicted_as)

    return tuple(map(renamed, annotations))


def _unknown(name: str, rule: str, known: Sequence[str]) -> DatasetError:
    return DatasetError(f'class "{name}" of {rule} does not exist; the classes are {", ".join(known) or "none"}')


def is_tissue(tissue_class: TissueClass) -> bool:
    """Whether a class counts as tissue.

    Not those that QuPath ignores (their names end in ``*``), nor those whose names begin with words of `NOT_TISSUE`.
    """
    name = tissue_class.name.strip()
    return not (tissue_class.ignored or name.endswith(STAR) or _rank_of_background(name) is not None)


def background_of(classes: Iterable[TissueClass]) -> TissueClass | None:
    """The class that stands for no tissue; None where there is none.

    Of several, one of just such a name wins over one that only begins so, then the order of `NOT_TISSUE` decides.
    """
    ranks = {c.label: (c, rank) for c in classes if (rank := _rank_of_background(c.name)) is not None}
    return min(ranks.values(), key=lambda found: (*found[1], found[0].label))[0] if ranks else None


def folded(name: str) -> str:
    """A name by which slips of one class meet: without case and blanks."""
    return "".join(unicodedata.normalize("NFC", name).split()).casefold()


def _rank_of_background(name: str) -> tuple[bool, int] | None:
    """How well a name stands for no tissue, lowest best: whether it says more, and which word it begins with."""
    words = [folded(word) for word in re.findall(r"[^\W\d_]+", name)]
    starts = {"".join(words[:n]): n < len(words) for n in (2, 1) if n <= len(words)}
    for rank, listed in enumerate(map(folded, NOT_TISSUE)):
        if listed in starts:
            return starts[listed], rank
    return None
