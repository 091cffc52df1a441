"""`dmmn-qp import`: a QuPath project, or slides and GeoJSON -> a dataset folder (paper, section 2.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import DEFAULT_PLANE, Annotation
from dmmn_qp.config import ImportOptions
from dmmn_qp.dataset import (
    MANIFEST,
    DatasetManifest,
    SlideRecord,
    create_label_raster,
    write_manifest,
    write_patches,
)
from dmmn_qp.errors import DatasetError, SlideError
from dmmn_qp.outputs import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.patches import PatchRef, class_pixels, index_patches, training_pixels
from dmmn_qp.provenance import describe_run, now
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.qupath.geojson import write_geojson
from dmmn_qp.rasterize import LabelPainter
from dmmn_qp.regions import Region
from dmmn_qp.reporting import Reporter
from dmmn_qp.reports.findings import count_text, find_findings, report_findings
from dmmn_qp.reports.html import REPORT_PAGE, write_import_report
from dmmn_qp.reports.inputs import Finding, ImportedData, ImportedSlide
from dmmn_qp.slides import fingerprint, open_slide
from dmmn_qp.sources import Source, SourceSlide, read_source
from dmmn_qp.specs import ClassMap, PatchGrid, PatchSpec, Split
from dmmn_qp.splits import draw_splits, split_of_word

MASK_WINDOW = 2048


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A slide after it was opened: what the dataset will hold of it."""

    source: SourceSlide
    annotations: tuple[Annotation, ...]
    record: SlideRecord
    grid: PatchGrid
    painter: LabelPainter
    patches: tuple[PatchRef, ...]


def import_annotations(
    source_path: Path,
    out: Path,
    options: ImportOptions,
    reporter: Reporter,
    *,
    annotations: Path | None = None,
    slides_roots: Sequence[Path] = (),
    overwrite: bool = False,
    check: bool = False,
) -> tuple[Finding, ...]:
    """Makes a dataset of everything that is annotated.

    Args:
        source_path: A QuPath project, a slide, or a folder of slides.
        out: The dataset folder to write.
        options: Resolved options.
        reporter: Where to report.
        annotations: Folder of GeoJSON files, for slides without a project.
        slides_roots: Where to look for slides that have been moved.
        overwrite: Whether an existing dataset may be replaced.
        check: Only look: say all findings and write nothing.

    Returns:
        What somebody should look at, worst first.

    Raises:
        DmmnQpError: Anything that the user can mend; nothing is written then.
    """
    started = now()
    if not check:
        check_free(out, overwrite=overwrite, marker=MANIFEST)
    source = read_source(source_path, annotations, slides_roots)
    spec = PatchSpec(mpps=options.mpps, stride_px=options.stride_px)
    class_map = make_class_map(source, options.drop)
    reporter.heading(f'Importing "{source_path}"')
    if source.without_annotations:
        reporter.say(f"  {source.without_annotations} slides without annotations are left out")

    prepared: list[_Prepared] = []
    with reporter.task("slides", len(source.slides)) as task:
        for slide, slide_id in zip(source.slides, slide_ids(source.slides), strict=True):
            prepared.append(prepare(slide, slide_id, class_map, spec, options))
            task.advance(note=slide_id)
    prepared = with_splits(prepared, class_map, options)
    imported = as_imported(prepared, source_path, source, class_map, spec, options)
    if check:
        findings = find_findings(imported)
        report_findings(findings, reporter)
        return findings
    report_left_out(prepared, class_map, options.drop, reporter)
    training_pixels((p for item in prepared for p in item.patches), class_map)

    with new_folder(out, overwrite=overwrite, marker=MANIFEST) as folder:
        (folder / "annotations").mkdir()
        (folder / "masks").mkdir()
        pixels: dict[str, NDArray[np.int64]] = {}
        for item in prepared:
            slide_id = item.record.slide_id
            write_geojson(
                folder / "annotations" / f"{slide_id}.geojson", item.annotations, class_colors=class_map.colors
            )
            pixels[slide_id] = write_mask(folder / "masks" / f"{slide_id}.tif", item, class_map)
        write_patches(folder, [p for item in prepared for p in item.patches], len(class_map))
        write_manifest(
            folder,
            DatasetManifest(class_map=class_map, patch_spec=spec, slides=tuple(item.record for item in prepared)),
        )
        configuration = {**options.model_dump(mode="json"), "source": str(source_path)}
        report = write_import_report(folder, imported, pixels)
        write_json(folder / RUN_FILE, describe_run("import", configuration, started))
    report_dataset(prepared, pixels, class_map, spec, reporter)
    reporter.say(f"  {count_text(report.findings)}: see {out / REPORT_PAGE}")
    return report.findings


def make_class_map(source: Source, drop: Sequence[str]) -> ClassMap:
    """The classes that label at least one area, in the source's order.

    Classes whose name ends in ``*`` are left out: QuPath ignores them.

    Raises:
        DatasetError: No area has a class, or a class to drop does not exist.
    """
    used = {
        a.class_name
        for slide in source.slides
        for a in slide.objects.annotations
        if a.kind == "annotation" and a.is_area and a.class_name is not None
    }
    unknown = [name for name in drop if name not in source.class_colors]
    if unknown:
        raise DatasetError(
            f'class "{unknown[0]}" of --drop does not exist; the classes are {", ".join(source.class_colors)}'
        )
    names = [name for name in source.class_colors if name in used and name not in drop and not name.endswith("*")]
    if not names:
        raise DatasetError(
            "no annotated area with a class to train on; draw areas in QuPath, give them classes, and save (Ctrl+S)"
        )
    missing = distinct_colors(names)
    return ClassMap.from_colors((name, source.class_colors[name] or missing[name]) for name in names)


def slide_ids(slides: Sequence[SourceSlide]) -> list[str]:
    """Unique names fit for files: the slides' names without their endings, numbered where they repeat."""
    ids: list[str] = []
    for slide in slides:
        stem = re.sub(r"[^\w.()+ -]", "_", Path(slide.path.name).stem).strip(" .") or "slide"
        name, n = stem, 1
        while name.casefold() in (other.casefold() for other in ids):
            n += 1
            name = f"{stem}-{n}"
        ids.append(name)
    return ids


def prepare(
    source: SourceSlide, slide_id: str, class_map: ClassMap, spec: PatchSpec, options: ImportOptions
) -> _Prepared:
    """Opens a slide and indexes its patches; the split is settled later.

    Raises:
        SlideError: The slide cannot be read, or is not the one that was annotated.
        PixelSizeError: Its pixel size is unknown or too coarse.
    """
    with open_slide(
        source.path, project_mpp=source.mpp, user_mpp=options.mpp, crop_to_bounds=source.crop_to_bounds
    ) as slide:
        info = slide.info
    if source.size_px is not None and source.size_px != (info.width, info.height):
        raise SlideError(
            f'slide "{source.path}" has {info.width} x {info.height} px, but the project says {source.size_px[0]} x '
            f"{source.size_px[1]}; it is another file of that name: pass --slides-root with the right folder"
        )
    grid = spec.grid_of(info.mpp, source.name)
    annotations = tuple(a for a in source.objects.annotations if a.kind == "annotation")
    painter = LabelPainter(annotations, class_map, grid.downsample)
    patches = index_patches(
        painter, grid, (info.width, info.height), slide_id, "train", len(class_map), options.min_labelled_fraction
    )
    record = SlideRecord(
        slide_id=slide_id,
        path=str(source.path.resolve()),
        width=info.width,
        height=info.height,
        mpp=info.mpp,
        crop_to_bounds=source.crop_to_bounds,
        fingerprint=fingerprint(source.path),
        split="train",
    )
    return _Prepared(source, annotations, record, grid, painter, tuple(patches))


def with_splits(prepared: Sequence[_Prepared], class_map: ClassMap, options: ImportOptions) -> list[_Prepared]:
    """Settles the split of every slide: from the image metadata, or drawn where no slide has any.

    A slide without a split among slides that have one is for training.
    """
    key = options.split_key
    said = {
        item.record.slide_id: split_of_word(item.source.metadata[key], item.source.name)
        for item in prepared
        if key in item.source.metadata
    }
    splits: dict[str, Split] = said
    if not said:
        pixels = {item.record.slide_id: class_pixels(item.patches, class_map) for item in prepared}
        splits = draw_splits(pixels, options.seed)

    def settled(item: _Prepared) -> _Prepared:
        split = splits.get(item.record.slide_id, "train")
        return replace(
            item,
            record=item.record.model_copy(update={"split": split}),
            patches=tuple(replace(patch, split=split) for patch in item.patches),
        )

    return [settled(item) for item in prepared]


def as_imported(
    prepared: Sequence[_Prepared],
    source_path: Path,
    source: Source,
    class_map: ClassMap,
    spec: PatchSpec,
    options: ImportOptions,
) -> ImportedData:
    """What the report is made of."""

    def imported(item: _Prepared) -> ImportedSlide:
        record, crop = item.record, item.record.crop_to_bounds
        reopen = partial(open_slide, item.source.path, project_mpp=record.mpp, user_mpp=record.mpp, crop_to_bounds=crop)
        return ImportedSlide(
            record, item.source.name, item.annotations, item.painter, item.patches, reopen, item.source.objects.warnings
        )

    resolved = source_path.resolve()
    return ImportedData(
        name=(resolved.parent if resolved.is_file() else resolved).name,
        source=str(source_path),
        class_map=class_map,
        patch_spec=spec,
        slides=tuple(imported(item) for item in prepared),
        min_labelled_fraction=options.min_labelled_fraction,
        drop=options.drop,
        without_annotations=source.without_annotations,
    )


def write_mask(path: Path, item: _Prepared, class_map: ClassMap) -> NDArray[np.int64]:
    """Writes a slide's mask window by window; returns its pixels per class, (C,)."""
    rows, columns = item.grid.shape(item.record.width, item.record.height)
    pixels = np.zeros(len(class_map) + 1, np.int64)
    with create_label_raster(path, (rows, columns), class_map) as raster:
        for window in Region(0, 0, columns, rows).tiles(MASK_WINDOW):
            labels = item.painter.paint(window)
            raster.write(window, labels)
            pixels += np.bincount(labels.ravel(), minlength=pixels.size)
    return pixels[1:]


def report_left_out(
    prepared: Sequence[_Prepared], class_map: ClassMap, drop: Sequence[str], reporter: Reporter
) -> None:
    """Says what is drawn but not trained on, and what the readers had to repair."""
    for item in prepared:
        for warning in item.source.objects.warnings:
            reporter.warn(f"{item.source.name}: {warning}")
        counts = {
            "without a class": sum(a.class_name is None for a in item.annotations),
            "of a class that QuPath ignores (*)": sum((a.class_name or "").endswith("*") for a in item.annotations),
            "of a dropped class": sum(a.class_name in drop for a in item.annotations),
            "that are lines or points": sum(
                not a.is_area and a.class_name in class_map.names for a in item.annotations
            ),
            "on another plane": sum(
                (a.plane.z, a.plane.t) != (DEFAULT_PLANE.z, DEFAULT_PLANE.t) for a in item.annotations
            ),
        }
        said = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        if said:
            reporter.say(f"  {item.source.name}: not trained on: {said}")
        if not item.patches:
            reporter.warn(f"{item.source.name}: no target has enough annotation; nothing of it is used")


def report_dataset(
    prepared: Sequence[_Prepared],
    pixels: Mapping[str, NDArray[np.int64]],
    class_map: ClassMap,
    spec: PatchSpec,
    reporter: Reporter,
) -> None:
    """Says what the dataset holds: slides, patches, and the annotated area of each class."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    area_mm2 = {split: np.zeros(len(class_map)) for split in splits}
    for split in splits:
        items = [item for item in prepared if item.record.split == split]
        for item in items:
            pixel_mm2 = (item.grid.downsample * item.record.mpp / 1000) ** 2
            area_mm2[split] += pixels[item.record.slide_id] * pixel_mm2
        names = ", ".join(item.record.slide_id for item in items)
        n_patches = sum(len(item.patches) for item in items)
        reporter.say(f"  {split:<5}  {len(items)} slides, {n_patches} patches  {names}".rstrip())
    width = max(len(name) for name in ("class", *class_map.names))
    reporter.say(f"  {'class':<{width}}" + "".join(f"{split + ' mm2':>12}" for split in splits))
    for i, name in enumerate(class_map.names):
        reporter.say(f"  {name:<{width}}" + "".join(f"{area_mm2[split][i]:>12.3f}" for split in splits))
