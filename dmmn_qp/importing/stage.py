"""`dmmn-qp import`: a QuPath project, or slides and GeoJSON -> a dataset folder (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError
from dmmn_qp.files import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.folders.dataset import MANIFEST, ORIGIN_MAP, ORIGIN_SUFFIX, DatasetManifest, write_manifest, write_patches
from dmmn_qp.folders.label_raster import create_label_raster
from dmmn_qp.folders.predictions import FOLDER as PREDICTIONS_FOLDER
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.importing.classes import make_class_map, without_split_areas
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.prepared import Prepared, prepare
from dmmn_qp.importing.reviewed import check_folder
from dmmn_qp.importing.source import first_of
from dmmn_qp.importing.sources import read_source
from dmmn_qp.importing.splitting import earlier_splits, with_splits
from dmmn_qp.importing.summary import LEFT_OUT, as_imported, report_dataset, report_left_out, report_review
from dmmn_qp.labels.patches import training_pixels
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.qupath.marks import with_marks_of_its_class
from dmmn_qp.qupath.review_counts import total
from dmmn_qp.regions import Region
from dmmn_qp.reports.findings import count_text, find_findings, report_findings
from dmmn_qp.reports.html import REPORT_PAGE, write_import_report
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import ClassMap

MASK_WINDOW = 2048


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
    predicted = {a.predicted_as for slide in source.slides for a in slide.objects.annotations if a.predicted_as}
    targets = options.class_rules().resolve([*source.class_colors, *sorted(counts.left_out_classes | predicted)])
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

    prepared: list[Prepared] = []
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
        report = write_import_report(folder, imported, pixels, reporter)
        write_json(folder / RUN_FILE, describe_run("import", configuration, started))
    report_dataset(prepared, pixels, class_map, reporter)
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


def write_mask(path: Path, item: Prepared, class_map: ClassMap) -> NDArray[np.int64]:
    """Writes a slide's mask window by window; returns its pixels per class, (C,)."""
    rows, columns = item.grid.shape(item.record.width, item.record.height)
    pixels = np.zeros(len(class_map) + 1, np.int64)
    with create_label_raster(path, (rows, columns), class_map) as raster:
        for window in Region(0, 0, columns, rows).tiles(MASK_WINDOW):
            labels = item.painter.paint(window)
            raster.write(window, labels)
            pixels += np.bincount(labels.ravel(), minlength=pixels.size)
    return pixels[1:]


def write_origins(path: Path, item: Prepared) -> None:
    """Writes whose word each labelled pixel of a slide's mask is, window by window."""
    rows, columns = item.grid.shape(item.record.width, item.record.height)
    with create_label_raster(path, (rows, columns), ORIGIN_MAP) as raster:
        for window in Region(0, 0, columns, rows).tiles(MASK_WINDOW):
            raster.write(window, item.painter.paint_origins(window))
