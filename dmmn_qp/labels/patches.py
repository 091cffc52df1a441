"""The patch index: which targets of a slide hold enough annotation to be trained on (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from shapely import box
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.choices import OverlapRule, Split
from dmmn_qp.errors import DatasetError
from dmmn_qp.labels.class_rules import takes_labels_away
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.reach import augmented_reach_px
from dmmn_qp.regions import Region
from dmmn_qp.specs import MIN_LABELLED_FRACTION, UNLABELLED, ClassMap, PatchGrid


@dataclass(frozen=True, slots=True)
class PatchRef:
    """One target in the patch index.

    Attributes:
        slide_id: The slide.
        split: Which split the slide belongs to.
        x: Left border of the target in grid pixels (pixels of the mask).
        y: Top border of the target in grid pixels.
        label_counts: Pixels of the target per label; entry 0 counts the unlabelled ones.
        fixed: Whether the target may not be moved, because its surroundings are for another split.
        corrected: Labelled pixels of the target in which a person corrected a prediction.
    """

    slide_id: str
    split: Split
    x: int
    y: int
    label_counts: tuple[int, ...]
    fixed: bool = False
    corrected: int = 0


def index_patches(
    painter: LabelPainter,
    grid: PatchGrid,
    size_px: tuple[int, int],
    slide_id: str,
    split: Split,
    n_classes: int,
    min_labelled_fraction: float = MIN_LABELLED_FRACTION,
    looked_at: Callable[[int], None] = lambda _: None,
) -> Iterator[PatchRef]:
    """Lists the targets on the stride of which more than a fraction is annotated.

    Args:
        painter: The slide's annotations.
        grid: The patch grid on the slide.
        size_px: (width, height) of the slide in level-0 px.
        slide_id: The slide.
        split: Its split.
        n_classes: Number of classes.
        min_labelled_fraction: Part of the target's pixels that must be exceeded.
        looked_at: Told how many more targets were looked at.

    Yields:
        The targets row by row.
    """
    rows, columns = grid.shape(*size_px)
    inside = Region(0, 0, columns, rows)
    for target in grid.targets(*size_px):
        looked_at(1)
        window = target.intersection(inside)
        if window is None:
            continue
        counts = np.bincount(painter.paint(window).ravel(), minlength=n_classes + 1)
        counts[UNLABELLED] += target.width * target.height - window.width * window.height
        if counts[1:].sum() > min_labelled_fraction * target.width * target.height:
            corrected = 0
            if not painter.is_all_drawn:
                corrected = int((painter.paint_origins(window) == ORIGINS["corrected"]).sum())
            yield PatchRef(slide_id, split, target.x, target.y, tuple(int(n) for n in counts), corrected=corrected)


def in_split_areas(
    patches: Iterable[PatchRef], areas: Mapping[Split, BaseGeometry], grid: PatchGrid
) -> Iterator[PatchRef]:
    """The patches that lie in a split's areas with all that the network may ever see of them.

    The guard band is the widest field, with what rotation, zoom and elastic deformation may move in: patches of
    different splits have no pixel in common.

    Args:
        patches: Patches of one slide.
        areas: Area of each split in level-0 px.
        grid: The patch grid on the slide.

    Yields:
        Patches with their split, not to be moved.
    """
    size = grid.spec.size_px
    reach = augmented_reach_px(size, len(grid.spec.mpps))
    for patch in patches:
        x, y = patch.x + size / 2, patch.y + size / 2
        seen = box(*(v * grid.downsample for v in (x - reach, y - reach, x + reach, y + reach)))
        for split, area in areas.items():
            if area.covers(seen):
                yield replace(patch, split=split, fixed=True)


def class_pixels(patches: Iterable[PatchRef], class_map: ClassMap) -> NDArray[np.int64]:
    """Labelled pixels per class of some patches: (C,)."""
    total = np.zeros(len(class_map) + 1, np.int64)
    for patch in patches:
        total += np.array(patch.label_counts)
    return total[1:]


def training_pixels(
    patches: Iterable[PatchRef],
    class_map: ClassMap,
    covering: Callable[[str], Sequence[str]] = lambda _: (),
    overlap: OverlapRule = "inner",
) -> NDArray[np.int64]:
    """Labelled pixels per class of the training patches: (C,), each above 0.

    Args:
        patches: Patches of all splits.
        class_map: The classes.
        covering: The classes whose areas hide all of a class, by its name; asked only for one without pixels.
        overlap: The rule by which they do.

    Raises:
        DatasetError: A class has none.
    """
    pixels = class_pixels((p for p in patches if p.split == "train"), class_map)
    missing = [name for name, n in zip(class_map.names, pixels, strict=True) if n == 0]
    for name in missing:
        if others := covering(name):
            way_out = uncover_text(others, overlap)
            raise DatasetError(f'class "{name}" {covered_text(others)}; {way_out} dmmn-qp import --drop "{name}"')
    if missing:
        quoted = [f'"{name}"' for name in missing]
        raise DatasetError(
            f"class {', '.join(quoted)} has no pixel in the training split; annotate it on a training slide, move a "
            f"slide to that split, or leave the class out: dmmn-qp import --drop {quoted[0]}"
        )
    return pixels


def covered_text(others: Sequence[str]) -> str:
    """What is to be said of a class that others hide."""
    names = " and ".join(f'"{name}"' for name in others)
    return f"has no pixel in the training split, because areas of {names} cover it"


def uncover_text(others: Sequence[str], overlap: OverlapRule) -> str:
    """What to do about it; no rule for overlaps helps against QuPath's ``Ignore*``."""
    rules = [rule for rule in ("inner", "smallest") if rule != overlap]
    choose = f"choose which area wins where areas overlap (--overlap {' or '.join(rules)}), "
    if all(map(takes_labels_away, others)):
        choose = ""
    return f"{choose}pull the outlines apart in QuPath, or leave the class out:"
