"""An opened slide: its labels, its patches, and what the dataset will say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from dmmn_qp.annotations import Annotation
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.importing.opening import OpenedSlide
from dmmn_qp.importing.source import SourceSlide
from dmmn_qp.labels.class_rules import PaintRules, PatchRules, with_trained_classes
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, in_split_areas, index_patches
from dmmn_qp.labels.splits import split_areas
from dmmn_qp.slides.pixel_sizes import PixelSize
from dmmn_qp.specs import ClassMap, PatchGrid
from dmmn_qp.text import printable

MOST_KEYS: Final = 100
"""So many key-value pairs of a slide are kept."""

MOST_CHARACTERS: Final = 200
"""Longer keys and values are not."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """How the objects of all slides become labels and patches.

    Attributes:
        class_map: The trained classes.
        targets: Name in the source -> name to train, or None for a class that is not trained.
        painting: How annotations become labels.
        patches: Which targets become patches.
    """

    class_map: ClassMap
    targets: Mapping[str, str | None]
    painting: PaintRules
    patches: PatchRules


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the dataset will hold of a slide.

    Attributes:
        source: What its source knows of it.
        annotations: Everything drawn on it, with the classes that are trained.
        record: What the dataset says of it.
        grid: The patch grid on it.
        painter: Paints its labels.
        patches: Its targets that hold enough annotation.
        pixels: Pixels of each class in its mask; empty where no mask was written.
        pixel_size: Who says how large its pixels are.
    """

    source: SourceSlide
    annotations: tuple[Annotation, ...]
    record: SlideRecord
    grid: PatchGrid
    painter: LabelPainter
    patches: tuple[PatchRef, ...] = ()
    pixels: tuple[int, ...] = ()
    pixel_size: PixelSize | None = None

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) in level-0 px."""
        return self.record.width, self.record.height


def prepare(opened: OpenedSlide, labelling: Labelling) -> Prepared:
    """Says what will be made of a slide; its labels are painted, and its split is settled, later.

    Args:
        opened: The slide.
        labelling: How its objects become labels and patches.
    """
    source, info, grid = opened.source, opened.info, opened.grid
    annotations = with_trained_classes(source.objects.annotations, labelling.targets)
    painter = LabelPainter(
        annotations, labelling.class_map, grid.downsample, labelling.painting, info.mpp, source.plane
    )
    record = SlideRecord(
        slide_id=opened.slide_id,
        path=opened.path,
        width=info.width,
        height=info.height,
        mpp=info.mpp,
        crop_to_bounds=source.view.crop_to_bounds,
        frame=source.view.frame,
        fingerprint=opened.fingerprint,
        split="train",
        project=None if source.project is None else printable(str(source.project)),
        metadata=_kept(source.metadata),
        grid_px=opened.own_px,
    )
    return Prepared(source, annotations, record, grid, painter, pixel_size=info.pixel_size)


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that go into a dataset: by what slides can be taken together in an evaluation, not whole texts."""
    short = {key: text for key, text in metadata.items() if max(len(key), len(text)) <= MOST_CHARACTERS}
    return dict(islice(sorted(short.items()), MOST_KEYS))


def patches_of(item: Prepared, labelling: Labelling, looked_at: Callable[[int], None]) -> tuple[PatchRef, ...]:
    """Indexes the patches of a slide.

    Args:
        item: The slide.
        labelling: How its objects become labels and patches.
        looked_at: Told how many more targets were looked at (`PatchGrid.targets`).
    """
    rules, slide_id = labelling.patches, item.record.slide_id
    n_classes, enough = len(labelling.class_map), rules.min_labelled_fraction
    patches = index_patches(item.painter, item.grid, item.size_px, slide_id, "train", n_classes, enough, looked_at)
    areas = split_areas(item.annotations) if rules.split_areas else {}
    return tuple(in_split_areas(patches, areas, item.grid) if areas else patches)
