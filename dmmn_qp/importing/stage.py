"""`dmmn-qp import`: a QuPath project, or slides and GeoJSON -> a dataset folder (paper, section 2.2)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.annotations import Annotation, Color
from dmmn_qp.choices import Split, TakePredictions
from dmmn_qp.cli.config import ImportOptions
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, DatasetError, SlideError
from dmmn_qp.files import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.folders.dataset import (
    MANIFEST,
    ORIGIN_MAP,
    ORIGIN_SUFFIX,
    Dataset,
    DatasetManifest,
    SlideRecord,
    create_label_raster,
    write_manifest,
    write_patches,
)
from dmmn_qp.folders.predictions import FOLDER as PREDICTIONS_FOLDER
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.importing.reviewed import ReviewCounts, check_folder, total
from dmmn_qp.importing.sources import Source, SourceSlide, first_of, read_source, slide_ids
from dmmn_qp.labels.class_rules import case_variants, with_trained_classes
from dmmn_qp.labels.painter import LabelPainter
from dmmn_qp.labels.patches import PatchRef, class_pixels, in_split_areas, index_patches, training_pixels
from dmmn_qp.labels.splits import area_split_of, case_of, draw_splits, split_areas, split_of_word
from dmmn_qp.qupath.classes import distinct_colors
from dmmn_qp.qupath.geojson_reader import write_geojson
from dmmn_qp.qupath.marks import with_marks_of_its_class
from dmmn_qp.regions import Region
from dmmn_qp.reports.findings import count_text, find_findings, report_findings
from dmmn_qp.reports.html import REPORT_PAGE, write_import_report
from dmmn_qp.reports.inputs import Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.review import NOTHING_TO_DO, review_findings
from dmmn_qp.slides import fingerprint, open_slide
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import MAX_CLASSES, ClassMap, PatchGrid, PatchSpec

MASK_WINDOW = 2048

LEFT_OUT = "it is left out until it is mended and imported again"

_POINTS = ("Point", "MultiPoint")


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
    slides_roots: Sequence[SlidesRoot] = (),
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
    rules = options.read_rules(prediction_folders(source_path, annotations, out, options.predicted_in))
    source = read_source(source_path, annotations, slides_roots, rules, options.mpp_csv)
    spec = options.patch_spec()
    counts = total((*(slide.review for slide in source.slides), *source.only_predicted))
    targets = options.class_rules().resolve(source.class_colors, counts.left_out_classes)
    if options.split_areas:
        targets = without_split_areas(source, targets)
    class_map = make_class_map(source, targets, options.take_predictions)
    reporter.heading(f'Importing "{source_path}"')
    if not check:  # which says them as findings
        for warning in source.warnings:
            reporter.warn(warning)
        for problem in source.problems if not options.strict else ():  # which are errors at the end
            reporter.warn(f"{problem}; {LEFT_OUT}")
    if source.without_annotations:
        reporter.say(f"  {source.without_annotations} slides without annotations are left out")
    if not check:
        report_review(counts, options.take_predictions, reporter)

    if options.overlap == "depth" and not any(a.depth for slide in source.slides for a in slide.objects.annotations):
        reporter.warn(
            "--overlap depth decides nothing, because no object lies in another one in the hierarchy; use Objects > "
            "Annotations > Resolve hierarchy in QuPath and save, or choose another rule"
        )

    prepared: list[_Prepared] = []
    with reporter.task("slides", len(source.slides)) as task:
        for slide, slide_id in zip(source.slides, slide_ids([s.path.name for s in source.slides]), strict=True):
            prepared.append(prepare(slide, slide_id, class_map, targets, spec, options))
            task.advance(note=slide_id)
    prepared = with_splits(prepared, class_map, options, earlier_splits(out))
    imported = as_imported(prepared, source_path, source, class_map, targets, spec, options)
    if check:
        findings = find_findings(imported)
        report_findings(findings, reporter)
        return findings
    if options.strict and source.problems:
        report_findings(find_findings(imported), reporter)
        raise AnnotationFileError(
            f"{first_of(source.problems)}; nothing is written, because --strict wants all of it: mend it, or pass "
            "--no-strict to leave it out"
        )
    report_left_out(prepared, class_map, options, reporter)
    training_pixels((p for item in prepared for p in item.patches), class_map)

    with new_folder(out, overwrite=overwrite, marker=MANIFEST) as folder:
        (folder / "annotations").mkdir()
        (folder / "masks").mkdir()
        pixels: dict[str, NDArray[np.int64]] = {}
        for item in prepared:
            slide_id = item.record.slide_id
            write_geojson(
                folder / "annotations" / f"{slide_id}.geojson",
                map(with_marks_of_its_class, item.annotations),
                class_colors=class_map.colors,
            )
            pixels[slide_id] = write_mask(folder / "masks" / f"{slide_id}.tif", item, class_map)
            if not item.painter.is_all_drawn:
                write_origins(folder / "masks" / f"{slide_id}{ORIGIN_SUFFIX}", item)
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


def prediction_folders(
    source_path: Path, annotations: Path | None, out: Path, predicted_in: Path | None = None
) -> tuple[Path, ...]:
    """Where our own objects may be found as they were predicted.

    The folder that the user names; else ``predictions/`` beside the dataset and in the project's folder, and the folder
    of the annotations, which may be that of predictions.

    Raises:
        AnnotationFileError: The user names a folder without predictions.
    """
    if predicted_in is not None:
        return (check_folder(predicted_in),)
    project = source_path if source_path.is_dir() else source_path.parent
    places = [out.parent / PREDICTIONS_FOLDER, project / PREDICTIONS_FOLDER]
    if annotations is not None:
        places.append(annotations if annotations.is_dir() else annotations.parent)
    return tuple({place.resolve(): place for place in places if place.is_dir()}.values())


def make_class_map(source: Source, targets: Mapping[str, str | None], take: TakePredictions = "reviewed") -> ClassMap:
    """The trained classes that label at least one object, in the source's order.

    Args:
        source: The annotated slides.
        targets: Name in the source -> name to train (`ClassRules.resolve`).
        take: Which predictions become labels, to say of what is left out.

    Raises:
        DatasetError: Nothing is left to train on, or more classes than labels.
    """
    used = {
        targets[a.class_name]
        for slide in source.slides
        for a in slide.objects.annotations
        if a.class_name is not None and slide.is_on_plane(a) and a.geometry.geom_type not in _POINTS
    }
    names = [name for name in dict.fromkeys(targets.values()) if name is not None and name in used]
    if not names:
        counts = total((*(slide.review for slide in source.slides), *source.only_predicted))
        left_out = "; ".join(f"{finding.message}: {finding.way_out}" for finding in review_findings(counts, take))
        raise DatasetError(
            "no annotated area with a class to train on; draw areas in QuPath, give them classes, and save (Ctrl+S)"
            + (f"; {left_out}" if left_out else "")
        )
    if len(names) > MAX_CLASSES:
        raise DatasetError(
            f"{len(names)} classes are drawn, but masks have room for {MAX_CLASSES}; merge some ([import.classes]), "
            "or leave them out with --drop"
        )
    colors: dict[str, Color | None] = {}
    for name, target in targets.items():
        if target is not None:
            own = source.class_colors.get(target)
            colors[target] = own or colors.get(target) or source.class_colors[name]
    missing = distinct_colors(names)
    return ClassMap.from_colors((name, colors[name] or missing[name]) for name in names)


def without_split_areas(source: Source, targets: Mapping[str, str | None]) -> dict[str, str | None]:
    """The targets without the classes that only mark areas for a split."""
    marks = {
        a.class_name
        for slide in source.slides
        for a in slide.objects.annotations
        if area_split_of(a) is not None and area_split_of(replace(a, name=None)) is not None
    }
    return {name: None if name in marks else target for name, target in targets.items()}


def prepare(
    source: SourceSlide,
    slide_id: str,
    class_map: ClassMap,
    targets: Mapping[str, str | None],
    spec: PatchSpec,
    options: ImportOptions,
) -> _Prepared:
    """Opens a slide and indexes its patches; the split is settled later.

    Raises:
        SlideError: The slide cannot be read, or is not the one that was annotated.
        PixelSizeError: Its pixel size is unknown or too coarse.
    """
    path = str(source.path.resolve())
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
    return _Prepared(source, annotations, record, grid, painter, tuple(patches))


def with_splits(
    prepared: Sequence[_Prepared], class_map: ClassMap, options: ImportOptions, earlier: Mapping[str, Split]
) -> list[_Prepared]:
    """Settles the split of every slide.

    From the split file, else the image metadata; where neither knows any slide, it is drawn, and slides of an earlier
    import of the same dataset keep theirs. A slide without a split among slides that have one is for training.

    Args:
        prepared: The slides.
        class_map: The classes.
        options: Resolved options.
        earlier: Splits of the dataset that is being replaced, by slide.

    Raises:
        DatasetError: A split is misspelt, or two slides of one case or file are in different splits.
    """
    key = options.split_key
    said = {
        item.record.slide_id: split_of_word(item.source.metadata[key], item.source.name)
        for item in prepared
        if key in item.source.metadata
    }
    said |= {item.record.slide_id: "train" for item in prepared if any(p.fixed for p in item.patches)}
    if options.split_file is not None:
        said |= read_split_file(options.split_file, [item.record.slide_id for item in prepared])
    ids = [item.record.slide_id for item in prepared]
    first_of_file: dict[str, str] = {}  # a project may show one file several times: its pixels stay in one split
    for item in prepared:
        first_of_file.setdefault(item.record.fingerprint, item.record.slide_id)
    cases = {
        item.record.slide_id: case_of(first_of_file[item.record.fingerprint], options.case_pattern) for item in prepared
    }
    splits: dict[str, Split] = {slide_id: said.get(slide_id, "train") for slide_id in ids}
    if not said:
        pixels = {item.record.slide_id: class_pixels(item.patches, class_map) for item in prepared}
        kept = {slide_id: split for slide_id, split in earlier.items() if slide_id in cases}
        splits = draw_splits(pixels, options.seed, cases, kept)
    check_cases(splits, cases)

    def settled(item: _Prepared) -> _Prepared:
        split = splits[item.record.slide_id]
        return replace(
            item,
            record=item.record.model_copy(update={"split": split}),
            patches=tuple(p if p.fixed else replace(p, split=split) for p in item.patches),
        )

    return [settled(item) for item in prepared]


def read_split_file(path: Path, slide_ids: Sequence[str]) -> dict[str, Split]:
    """Splits from a CSV with the columns slide and split; a slide may be named with its ending.

    Raises:
        DatasetError: The file is missing, has other columns, or names a slide that is not there.
    """
    way_out = 'it needs a first line "slide,split" and a line a slide'
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            named = {row["slide"]: row["split"] for row in csv.DictReader(file)}
    except KeyError as error:
        raise DatasetError(f'split file "{path}" has no column {error}; {way_out}') from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f'split file "{path}" cannot be read ({reason}); {way_out}') from error
    if not named:
        raise DatasetError(f'split file "{path}" names no slide; {way_out}')
    splits: dict[str, Split] = {}
    for name, word in named.items():
        slide_id = name if name in slide_ids else Path(name).stem
        if slide_id not in slide_ids:
            raise DatasetError(
                f'split file "{path}" names slide "{name}", which is not annotated; the slides are '
                f"{', '.join(slide_ids)}"
            )
        splits[slide_id] = split_of_word(word or "", name)
    return splits


def check_cases(splits: Mapping[str, Split], cases: Mapping[str, str]) -> None:
    """Refuses splits that divide a case.

    Raises:
        DatasetError: Two slides of one case are in different splits.
    """
    first: dict[str, str] = {}
    for slide_id, case in cases.items():
        other = first.setdefault(case, slide_id)
        if splits[other] != splits[slide_id]:
            raise DatasetError(
                f'slides "{other}" ({splits[other]}) and "{slide_id}" ({splits[slide_id]}) are both of case "{case}", '
                "or show one and the same file; give them the same split"
            )


def earlier_splits(out: Path) -> dict[str, Split]:
    """Splits of the dataset in ``out``, empty where there is none that can be read."""
    try:
        return {record.slide_id: record.split for record in Dataset(out).slides()}
    except DatasetError:
        return {}


def as_imported(
    prepared: Sequence[_Prepared],
    source_path: Path,
    source: Source,
    class_map: ClassMap,
    targets: Mapping[str, str | None],
    spec: PatchSpec,
    options: ImportOptions,
) -> ImportedData:
    """What the report is made of."""

    def imported(item: _Prepared) -> ImportedSlide:
        record = item.record
        return ImportedSlide(
            record=record,
            name=item.source.name,
            annotations=item.annotations,
            painter=item.painter,
            patches=item.patches,
            open=partial(
                open_slide,
                item.source.path,
                project_mpp=record.mpp,
                user_mpp=record.mpp,
                crop_to_bounds=record.crop_to_bounds,
                frame=record.frame,
            ),
            warnings=item.source.objects.warnings,
            plane=item.source.plane,
            other_kinds=item.source.other_kinds,
            review=item.source.review,
            corrections=item.source.corrections,
        )

    resolved = source_path.resolve()
    return ImportedData(
        name=(resolved.parent if resolved.is_file() else resolved).name,
        source=str(source_path),
        class_map=class_map,
        patch_spec=spec,
        slides=tuple(imported(item) for item in prepared),
        min_labelled_fraction=options.min_labelled_fraction,
        left_out=tuple(name for name, target in targets.items() if target is None),
        region_class=options.region_class,
        lines_label=options.line_width_um is not None,
        split_areas=options.split_areas,
        without_annotations=source.without_annotations,
        noted=(
            *(
                Finding(severity="error" if options.strict else "warning", message=problem, way_out=LEFT_OUT)
                for problem in source.problems
            ),
            *(
                Finding(severity="note", message=warning, way_out="nothing to do, if what it shows is what was drawn")
                for warning in source.warnings
            ),
        ),
        take_predictions=options.take_predictions,
        only_predicted=source.only_predicted,
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


def write_origins(path: Path, item: _Prepared) -> None:
    """Writes whose word each labelled pixel of a slide's mask is, window by window."""
    rows, columns = item.grid.shape(item.record.width, item.record.height)
    with create_label_raster(path, (rows, columns), ORIGIN_MAP) as raster:
        for window in Region(0, 0, columns, rows).tiles(MASK_WINDOW):
            raster.write(window, item.painter.paint_origins(window))


def report_review(counts: ReviewCounts, take: TakePredictions, reporter: Reporter) -> None:
    """Says which predictions are taken, and which are left out."""
    for finding in review_findings(counts, take):
        if finding.severity == "warning":
            reporter.warn(finding.line())
        else:
            reporter.say("  " + finding.line().removesuffix(f"; {NOTHING_TO_DO}"))


def report_left_out(
    prepared: Sequence[_Prepared], class_map: ClassMap, options: ImportOptions, reporter: Reporter
) -> None:
    """Says what is drawn but not trained on, what the readers had to repair, and which names look like slips."""
    names = dict.fromkeys(a.class_name for item in prepared for a in item.annotations if a.class_name is not None)
    for variants in case_variants(names):
        reporter.warn(
            f"classes {', '.join(repr(name) for name in variants)} differ only in case or blanks; if they are one "
            "class, pass --merge-case"
        )
    for item in prepared:
        for warning in item.source.objects.warnings:
            reporter.warn(f"{item.source.name}: {warning}")
        counts = {
            "without a class": sum(a.class_name is None for a in item.annotations),
            "of a class that QuPath ignores (*)": sum(
                (a.class_name or "").endswith("*") and a.class_name not in class_map.names for a in item.annotations
            ),
            "of a dropped class": sum(a.class_name in options.drop for a in item.annotations),
            "that are lines or points": sum(
                not a.is_area and a.class_name in class_map.names for a in item.annotations
            ),
            "on another plane (--plane)": sum(not item.source.is_on_plane(a) for a in item.annotations),
            "of another kind (--kinds)": item.source.other_kinds,
        }
        said = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        if said:
            reporter.say(f"  {item.source.name}: not trained on: {said}")
        plane = item.source.plane
        if (plane.z, plane.t) != (0, 0):
            reporter.warn(
                f"{item.source.name}: labels are of plane z {plane.z}, t {plane.t} (--plane), pixels of the one plane "
                "that is read from the slide; check that both show the same"
            )
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
