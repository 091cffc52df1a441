"""An opened slide: its labels, its patches, and what the dataset will say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    """What the dataset will hold of a slide."""

    source: SourceSlide
    annotations: tuple[Annotation, ...]
    record: SlideRecord
    grid: PatchGrid
    painter: LabelPainter
    patches: tuple[PatchRef, ...]
    pixel_size: PixelSize | None = None


def prepare(opened: OpenedSlide, labelling: Labelling, looked_at: Callable[[int], None] = lambda _: None) -> Prepared:
    """Indexes the patches of a slide; the split is settled later.

    Args:
        opened: The slide.
        labelling: How its objects become labels and patches.
        looked_at: Told how many more targets were looked at (`PatchGrid.targets`).
    """
    source, info, grid, slide_id = opened.source, opened.info, opened.grid, opened.slide_id
    class_map, rules = labelling.class_map, labelling.patches
    annotations = with_trained_classes(source.objects.annotations, labelling.targets)
    painter = LabelPainter(annotations, class_map, grid.downsample, labelling.painting, info.mpp, source.plane)
    patches = index_patches(
        painter,
        grid,
        (info.width, info.height),
        slide_id,
        "train",
        len(class_map),
        rules.min_labelled_fraction,
        looked_at,
    )
    areas = split_areas(annotations) if rules.split_areas else {}
    if areas:
        patches = in_split_areas(patches, areas, grid)
    record = SlideRecord(
        slide_id=slide_id,
        path=opened.path,
        width=info.width,
        height=info.height,
        mpp=info.mpp,
        crop_to_bounds=source.view.crop_to_bounds,
        frame=source.view.frame,
        fingerprint=opened.fingerprint,
        split="train",
    )
    return Prepared(source, annotations, record, grid, painter, tuple(patches), info.pixel_size)
