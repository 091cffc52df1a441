"""A slide opened: its labels, its patches, and what the dataset will say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import SlideError
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.importing.source import SourceSlide
from dmmn_qp.labels.class_rules import PaintRules, PatchRules, with_trained_classes
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, in_split_areas, index_patches
from dmmn_qp.labels.splits import split_areas
from dmmn_qp.slides.files import fingerprint, users_path
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
    """A slide after it was opened: what the dataset will hold of it."""

    source: SourceSlide
    annotations: tuple[Annotation, ...]
    record: SlideRecord
    grid: PatchGrid
    painter: LabelPainter
    patches: tuple[PatchRef, ...]
    pixel_size: PixelSize | None = None


def prepare(source: SourceSlide, slide_id: str, labelling: Labelling) -> Prepared:
    """Opens a slide and indexes its patches; the split is settled later.

    Args:
        source: The slide.
        slide_id: Its name in the dataset.
        labelling: How its objects become labels and patches.

    Raises:
        SlideError: The slide cannot be read, or is not the one that was annotated.
        PixelSizeError: Its pixel size is unknown or too coarse.
    """
    path = str(users_path(source.path))
    shown = path.encode("utf-8", "backslashreplace").decode()
    if shown != path:
        raise SlideError(f'slide "{shown}" has a path that is not UTF-8, which no dataset can hold; rename it')
    with source.view.open() as slide:
        info = slide.info
    class_map, rules = labelling.class_map, labelling.patches
    grid = rules.spec.grid_of(info.mpp, source.name)
    annotations = with_trained_classes(source.objects.annotations, labelling.targets)
    painter = LabelPainter(annotations, class_map, grid.downsample, labelling.painting, info.mpp, source.plane)
    patches = index_patches(
        painter, grid, (info.width, info.height), slide_id, "train", len(class_map), rules.min_labelled_fraction
    )
    areas = split_areas(annotations) if rules.split_areas else {}
    if areas:
        patches = in_split_areas(patches, areas, grid)
    record = SlideRecord(
        slide_id=slide_id,
        path=path,
        width=info.width,
        height=info.height,
        mpp=info.mpp,
        crop_to_bounds=source.view.crop_to_bounds,
        frame=source.view.frame,
        fingerprint=fingerprint(source.path),
        split="train",
    )
    return Prepared(source, annotations, record, grid, painter, tuple(patches), info.pixel_size)
