"""A slide opened: its labels, its patches, and what the dataset will say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmmn_qp.annotations import Annotation
from dmmn_qp.errors import SlideError
from dmmn_qp.folders.dataset import SlideRecord
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.source import SourceSlide
from dmmn_qp.labels.class_rules import with_trained_classes
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, in_split_areas, index_patches
from dmmn_qp.labels.splits import split_areas
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.files import fingerprint, users_path
from dmmn_qp.specs import ClassMap, PatchGrid, PatchSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A slide after it was opened: what the dataset will hold of it."""

    source: SourceSlide
    annotations: tuple[Annotation, ...]
    record: SlideRecord
    grid: PatchGrid
    painter: LabelPainter
    patches: tuple[PatchRef, ...]


def prepare(
    source: SourceSlide,
    slide_id: str,
    class_map: ClassMap,
    targets: Mapping[str, str | None],
    spec: PatchSpec,
    options: ImportOptions,
) -> Prepared:
    """Opens a slide and indexes its patches; the split is settled later.

    Raises:
        SlideError: The slide cannot be read, or is not the one that was annotated.
        PixelSizeError: Its pixel size is unknown or too coarse.
    """
    path = str(users_path(source.path))
    shown = path.encode("utf-8", "backslashreplace").decode()
    if shown != path:
        raise SlideError(f'slide "{shown}" has a path that is not UTF-8, which no dataset can hold; rename it')
    with open_slide(
        source.path,
        project_mpp=source.mpp,
        user_mpp=source.listed_mpp or options.mpp,
        crop_to_bounds=source.crop_to_bounds,
        frame=source.frame,
    ) as slide:
        info = slide.info
    if source.size_px is not None and source.size_px != (info.width, info.height):
        raise SlideError(
            f'slide "{source.path}" has {info.width} x {info.height} px, but the project says {source.size_px[0]} x '
            f"{source.size_px[1]}; it is another file of that name: pass --slides-root with the right folder"
        )
    grid = spec.grid_of(info.mpp, source.name)
    annotations = with_trained_classes(source.objects.annotations, targets)
    painter = LabelPainter(annotations, class_map, grid.downsample, options.paint_rules(), info.mpp, source.plane)
    patches = index_patches(
        painter, grid, (info.width, info.height), slide_id, "train", len(class_map), options.min_labelled_fraction
    )
    areas = split_areas(annotations) if options.split_areas else {}
    if areas:
        patches = in_split_areas(patches, areas, grid)
    record = SlideRecord(
        slide_id=slide_id,
        path=path,
        width=info.width,
        height=info.height,
        mpp=info.mpp,
        crop_to_bounds=source.crop_to_bounds,
        frame=source.frame,
        fingerprint=fingerprint(source.path),
        split="train",
    )
    return Prepared(source, annotations, record, grid, painter, tuple(patches))
