"""`dmmn-qp cohort`: folders of predictions -> one table of slides x classes, a catalogue, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from dmmn_qp.collecting.figures import SlideFigures, classes_of, colors_of, measure_slide
from dmmn_qp.collecting.geoparquet import POLYGONS, write_polygons
from dmmn_qp.collecting.objects import ObjectFigures, measure_objects
from dmmn_qp.collecting.options import CohortOptions, Ratio
from dmmn_qp.collecting.page import page_of
from dmmn_qp.collecting.quality import quality_of
from dmmn_qp.collecting.tables import (
    CASES,
    CATALOGUE,
    COHORT,
    OBJECTS,
    PARQUET,
    Row,
    case_rows,
    catalogue_rows,
    has_parquet,
    object_rows,
    slide_rows,
    write_csv,
    write_parquet,
)
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, ConfigError, DatasetError, DmmnQpError, OutputExistsError
from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.files.failures import install_command, is_full_disk, line_of
from dmmn_qp.files.renaming import remove
from dmmn_qp.folders.predictions import LABELS_SUFFIX, PredictedInput, Prediction, read_inputs, read_predictions
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.labels.splits import case_of
from dmmn_qp.pushing.matching import match
from dmmn_qp.qupath.project import ProjectEntry, read_project
from dmmn_qp.reports.cohort_report import COHORT_PAGE, write_cohort_report
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.text import count_of, shorten

_MOST_NAMES: Final = 5

Records = Mapping[Path, Mapping[str, Prediction]]
"""Folder -> slide -> what is recorded of its prediction."""


def collect(
    folders: Sequence[Path],
    out: Path,
    options: CohortOptions,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    project: Path | None = None,
    slides_roots: Sequence[SlidesRoot] = (),
) -> list[SlideFigures]:
    """Measures all slides of folders of predictions, and writes tables and a page.

    A slide whose raster is damaged is left out with a warning.

    Args:
        folders: Folders made by `predict`; they are only read.
        out: Folder to write into.
        options: What is told.
        reporter: Where to report.
        overwrite: Whether an earlier table there is replaced.
        project: QuPath project of whose annotations and cores there is a table too; None for none.
        slides_roots: Folders to search for slides that have been moved.

    Returns:
        The slides, sorted by name.

    Raises:
        AnnotationFileError: A folder holds no predictions, or ``run.json`` is damaged.
        DatasetError: Two folders hold one slide, a slide has no case, or no slide can be measured.
        ConfigError: A ratio names no classes, or GeoParquet is asked for and pyarrow is not installed.
        ProjectError: The project is damaged, or has no image of any slide.
        OutputExistsError: There is a table already.
    """
    started = now()
    _check_out(out, overwrite=overwrite)
    _check_geoparquet(options)
    places = _slides_in(folders)
    cases = {slide_id: case_of(slide_id, options.case_pattern) if options.case_pattern else "" for slide_id in places}
    records = {folder: read_predictions(folder) for folder in set(places.values())}
    known = _known_classes(places, records)
    ratios = [Ratio.parse(text, known) for text in options.ratios]
    inputs = _inputs_of(places)
    drawn = None if project is None else match(read_project(project), places, inputs, reporter.warn, slides_roots)
    slides, failed = _measured(places, records, inputs, cases, options, reporter)
    if options.quality:
        slides = _with_quality(slides, slides_roots, reporter)
    if len(models := {slide.record.weights for slide in slides if slide.record is not None}) > 1:
        reporter.warn(f"{len(models)} models predicted these slides ({CATALOGUE} says which); compare with care")
    tables = {COHORT: slide_rows(slides, ratios, options), CATALOGUE: catalogue_rows(slides, options)}
    if options.case_pattern:
        tables[CASES] = case_rows(slides, ratios, options)
    if drawn is not None and (objects := _objects(slides, drawn, reporter)):
        tables[OBJECTS] = object_rows(objects, ratios)
    _write(out, tables, reporter)
    _write_polygons(out, slides, options, reporter)
    with reporter.optional(COHORT_PAGE):
        write_cohort_report(out, page_of(slides, ratios, failed, colors_of(slides)))
    given = {"predictions": [str(folder) for folder in folders], "project": None if project is None else str(project)}
    configuration = {**options.model_dump(mode="json"), **given}
    write_json(out / RUN_FILE, describe_run("cohort", configuration, started, slides=[*places], failed=failed))
    counts = f"{count_of(len(slides), 'slide')}, {count_of(len(known), 'class', 'classes')}"
    reporter.say(f"Wrote {out}/: {counts}; look at {out / COHORT_PAGE}")
    return slides


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    if (out / COHORT).exists() and not overwrite:
        raise OutputExistsError(
            f'"{out / COHORT}" exists; pass --overwrite to replace it, or choose another folder with --out'
        )


def _check_geoparquet(options: CohortOptions) -> None:
    if options.geoparquet is not None and not has_parquet():
        raise ConfigError(f"GeoParquet is written with pyarrow, which is not installed; {install_command('cohort')}")


def _slides_in(folders: Sequence[Path]) -> dict[str, Path]:
    """Slide -> folder of its prediction, sorted by slide.

    Raises:
        AnnotationFileError: A folder holds none.
        DatasetError: A slide is in two folders.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        paths = folder.iterdir() if folder.is_dir() else ()
        names = [path.name for path in paths if path.name.endswith(f".{LABELS_SUFFIX}") and path.name[0] != "."]
        if not names:
            raise AnnotationFileError(
                f'"{folder}" holds no predictions (no <slide>.{LABELS_SUFFIX}); pass the folder that dmmn-qp predict '
                "wrote"
            )
        for slide_id in (name.removesuffix(f".{LABELS_SUFFIX}") for name in names):
            if found.setdefault(slide_id, folder) is not folder:
                raise DatasetError(
                    f'slide "{shorten(slide_id)}" is in "{found[slide_id]}" and in "{folder}"; pass only one of them'
                )
    return dict(sorted(found.items()))


def _known_classes(places: Mapping[str, Path], records: Records) -> list[str]:
    """Names of all predicted classes, without opening a slide whose classes are recorded."""
    names: dict[str, None] = {}
    for slide_id, folder in places.items():
        with suppress(DatasetError):  # it is told when the slide is measured
            found = classes_of(folder / f"{slide_id}.{LABELS_SUFFIX}", records[folder].get(slide_id))
            names |= dict.fromkeys(one.name for one in found)
    return list(names)


def _inputs_of(places: Mapping[str, Path]) -> dict[str, PredictedInput]:
    """What each slide was predicted from, as far as it is known."""
    known = {folder: read_inputs(folder) for folder in set(places.values())}
    return {name: image for name, folder in places.items() if (image := known[folder].get(name)) is not None}


def _measured(
    places: dict[str, Path],
    records: Records,
    inputs: Mapping[str, PredictedInput],
    cases: dict[str, str],
    options: CohortOptions,
    reporter: Reporter,
) -> tuple[list[SlideFigures], dict[str, str]]:
    """Measures slides; why others could not be.

    Raises:
        DatasetError: None could.
    """
    slides: list[SlideFigures] = []
    failed: dict[str, str] = {}
    with reporter.counting_warnings(), reporter.task("Slides", len(places)) as task:
        for slide_id, folder in places.items():
            record = records[folder].get(slide_id)
            try:
                slides.append(measure_slide(folder, slide_id, cases[slide_id], options, record, inputs.get(slide_id)))
            except (DmmnQpError, OSError) as error:
                if is_full_disk(error):
                    raise
                failed[slide_id] = line_of(error)
                reporter.warn_of(slide_id, f"is left out: {failed[slide_id]}", " ")
            task.advance()
    if not slides:
        raise DatasetError(f"no slide could be measured: {'; '.join([*failed.values()][:_MOST_NAMES])}")
    return slides, failed


def _with_quality(
    slides: Sequence[SlideFigures], slides_roots: Sequence[SlidesRoot], reporter: Reporter
) -> list[SlideFigures]:
    """The slides with their quality, where their files are found."""
    found: list[SlideFigures] = []
    with reporter.counting_warnings(), reporter.task("Quality", len(slides)) as task:
        for slide in slides:
            quality = None
            try:
                quality = quality_of(slide.slide_id, slide.image, slide.mpp, slides_roots)
            except (DmmnQpError, OSError) as error:
                reporter.warn_of(slide.slide_id, f"its quality is not known ({line_of(error)})")
            found.append(replace(slide, quality=quality))
            task.advance()
    return found


def _objects(
    slides: Sequence[SlideFigures], images: Mapping[str, ProjectEntry], reporter: Reporter
) -> list[ObjectFigures]:
    """The figures of all objects of a project, announced."""
    objects = measure_objects(slides, images, reporter)
    reporter.say(f"{len(objects):,} annotations and TMA cores of the project lie on these slides")
    return objects


def _write(out: Path, tables: dict[str, list[Row]], reporter: Reporter) -> None:
    parquet = has_parquet()
    for name in (CASES, COHORT, CATALOGUE, OBJECTS):
        packed = (out / name).with_suffix(PARQUET)
        if name in tables:
            write_csv(out / name, tables[name])
        else:
            remove(out / name)  # of an earlier call with other options
        if name in tables and parquet:
            write_parquet(packed, tables[name])
        else:
            remove(packed)
    if not parquet:
        reporter.say(f"No Parquet, only CSV: pyarrow is not installed; {install_command('cohort')}")


def _write_polygons(out: Path, slides: Sequence[SlideFigures], options: CohortOptions, reporter: Reporter) -> None:
    if options.geoparquet is None:
        remove(out / POLYGONS)
        return
    count = write_polygons(out / POLYGONS, slides, options.geoparquet, reporter)
    reporter.say(f"{count:,} polygons in {out / POLYGONS}")
