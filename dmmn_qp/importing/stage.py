"""`dmmn-qp import`: a QuPath project, or slides and GeoJSON -> a dataset folder (paper, section 2.2)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.errors import AnnotationFileError, SlideError
from dmmn_qp.files import RUN_FILE, check_free, new_folder, write_json
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.dataset import MANIFEST
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.importing.classes import labelling_of
from dmmn_qp.importing.earlier import earlier_dataset
from dmmn_qp.importing.ledger import record_rounds
from dmmn_qp.importing.opening import LeftOutSlide, OpenedSlide, OwnPixels, error_of_all, opened_slide
from dmmn_qp.importing.options import ImportOptions
from dmmn_qp.importing.painting import paint_all
from dmmn_qp.importing.prepared import Labelling, Prepared
from dmmn_qp.importing.reviewed import prediction_folders
from dmmn_qp.importing.rules import ImportRules, rules_of
from dmmn_qp.importing.several import findings_of_several, with_earlier_names
from dmmn_qp.importing.source import Source, all_of
from dmmn_qp.importing.source_files import SLIDES_ROOTS, SOURCE, SOURCE_FILES, as_named, roots_as_typed, source_state
from dmmn_qp.importing.sources import read_sources
from dmmn_qp.importing.splitting import with_splits
from dmmn_qp.importing.summary import (
    as_imported,
    damage_findings,
    report_dataset,
    report_left_out,
    report_notes,
    report_problems,
    report_source,
    source_findings,
    with_only_drawn,
)
from dmmn_qp.importing.writing import make_folders, write_tables
from dmmn_qp.labels.patches import training_pixels
from dmmn_qp.qupath.image_names import slide_ids
from dmmn_qp.reports.findings import count_text, find_findings, report_findings, warn_of
from dmmn_qp.reports.html import REPORT_PAGE, write_import_report
from dmmn_qp.reports.inputs import Finding
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.probing import find_fatal


class ImportOutcome(NamedTuple):
    """What an import came to.

    Attributes:
        findings: What somebody should look at, worst first.
        is_validated: Whether there is a patch to choose the best epoch of a training by.
    """

    findings: tuple[Finding, ...]
    is_validated: bool


def import_annotations(
    source_path: Path | Sequence[Path],
    out: Path,
    options: ImportOptions,
    reporter: Reporter,
    *,
    annotations: Path | None = None,
    slides_roots: Sequence[SlidesRoot] = (),
    overwrite: bool = False,
    check: bool = False,
    all_for: Split | None = None,
    own_pixels: OwnPixels | None = None,
) -> ImportOutcome:
    """Makes a dataset of everything that is annotated.

    Args:
        source_path: A QuPath project, several of which become one dataset; or a slide, or a folder of slides.
        out: The dataset folder to write.
        options: Resolved options.
        reporter: Where to report.
        annotations: Folder of GeoJSON files, for slides without a project.
        slides_roots: Where to look for slides that have been moved.
        overwrite: Whether an existing dataset may be replaced.
        check: Only look: say all findings and write nothing.
        all_for: The one split of all slides: such a dataset is none to train on, and no part of the loop.
        own_pixels: What the pixels of each slide's labels are, where that is not for the patches to say.

    Raises:
        InUseError: Another import writes the same dataset.
        DmmnQpError: Anything that the user can mend; nothing is written then.
    """
    started, began = now(), time.monotonic()
    paths = [source_path] if isinstance(source_path, Path) else [*source_path]
    if not check:
        check_free(out, overwrite=overwrite, marker=MANIFEST)
    read_files = {} if check else source_state(paths, annotations, options.tables)
    rules = rules_of(options, prediction_folders(paths, annotations, out, options.predicted_in), all_for)
    source = read_sources(paths, annotations, slides_roots, rules.reading, rules.pixel_sizes, rules.splits)
    everything = labelling_of(source, rules)
    with nullcontext() if check else _held(out, overwrite=overwrite):
        reporter.heading("Importing " + ", ".join(f'"{path}"' for path in paths))
        source = _without_fatal(source)
        opened, left_out = _opened(source, rules, reporter, own_pixels)
        earlier = earlier_dataset(out)
        opened, source = with_earlier_names(opened, earlier.records), _without(source, left_out)
        if not opened and not check:
            raise error_of_all(source.problems, [slide.error for slide in left_out])
        labelling = labelling_of(source, rules) if opened and left_out else everything
        reviewed = report_source(source, rules, reporter, findings_follow=check, problems_end_it=options.strict)

        writes = not check and not (options.strict and source.problems)
        with _new_dataset(out, writes=writes, overwrite=overwrite) as folder:
            prepared, lost, labelling = _painted(opened, source, labelling, rules, folder, options.workers, reporter)
            left_out, source = [*left_out, *lost], _without(source, lost)
            if not prepared and not check:
                raise error_of_all(source.problems, [slide.error for slide in left_out])
            if writes and not options.strict:
                report_problems([str(slide.error) for slide in lost], reporter)
            prepared, split_notes = with_splits(prepared, labelling.class_map, rules.splits, earlier, left_out)
            on_the_way = (*damage_findings(opened), *findings_of_several(opened), *split_notes)
            made_on_the_way = _of_use(on_the_way, all_for)
            noted = (*source_findings(source, strict=options.strict), *made_on_the_way)
            imported = as_imported(prepared, paths, source, labelling, rules.reading, noted)
            if check:
                imported = with_only_drawn(imported, left_out, everything)
            if check or (options.strict and source.problems):
                findings = find_findings(imported)
                report_findings(findings, reporter)
                if check:
                    return ImportOutcome(findings, _is_validated(prepared))
                raise AnnotationFileError(
                    f"{all_of(source.problems)}; nothing is written, because --strict wants all of it: mend it, or "
                    "pass --no-strict to leave it out"
                )
            report_notes(made_on_the_way, reporter)
            report_left_out(prepared, labelling.class_map, rules.classes, reporter)
            findings = _of_use(find_findings(imported), all_for)
            told = [finding for finding in findings if finding not in (*imported.noted, *reviewed)]
            warn_of(told, reporter)
            if all_for is None:
                training_pixels(
                    (p for item in prepared for p in item.patches),
                    labelling.class_map,
                    imported.covering_classes,
                    labelling.painting.overlap,
                )
            assert folder is not None
            write_tables(folder, prepared, labelling, source.problems, earlier)
            pixels = {item.record.slide_id: np.array(item.pixels, np.int64) for item in prepared}
            write_import_report(folder, imported, pixels, reporter, findings)
            named = {SOURCE: as_named(paths), "annotations": annotations and as_named([annotations])}
            configuration = {**options.model_dump(mode="json"), **named}
            facts = {"left_out": source.problems, SOURCE_FILES: read_files, SLIDES_ROOTS: roots_as_typed(slides_roots)}
            write_json(folder / RUN_FILE, describe_run("import", configuration, started, **facts))
        if all_for is None:
            record_rounds(
                out, prepared, labelling, rules.reading.predicted_in, options.person_seconds,
                time.monotonic() - began, reporter,
            )  # fmt: skip
    report_dataset(prepared, pixels, labelling.class_map, reporter)
    reporter.say(f"  {count_text(findings)}: see {out / REPORT_PAGE}")
    return ImportOutcome(findings, _is_validated(prepared))


def _is_validated(prepared: Iterable[Prepared]) -> bool:
    return any(patch.split == "val" for item in prepared for patch in item.patches)


def _of_use(findings: Iterable[Finding], all_for: Split | None) -> tuple[Finding, ...]:
    """Findings without those that concern training, where the dataset is none to train on."""
    return tuple(finding for finding in findings if all_for is None or finding.concerns != "training")


@contextmanager
def _held(out: Path, *, overwrite: bool) -> Iterator[None]:
    """Holds the folder that is to be written, and removes what killed imports left beside it.

    Raises:
        InUseError: Another import writes it.
        OutputExistsError: It may not be replaced, and is there again.
    """
    folder = out if out.name else out.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder, "an import", "wait until it has ended, or choose another folder with --out"):
        check_free(out, overwrite=overwrite, marker=MANIFEST)
        yield


@contextmanager
def _new_dataset(out: Path, *, writes: bool, overwrite: bool) -> Iterator[Path | None]:
    """A new folder for the dataset, which gets its name at the end; None where nothing is to be written."""
    if not writes:
        yield None
        return
    with new_folder(out, overwrite=overwrite, marker=MANIFEST) as folder:
        make_folders(folder)
        yield folder


def _without(source: Source, left_out: Sequence[LeftOutSlide]) -> Source:
    """A source without the slides that are left out, and with the reasons; where none is left, with all slides."""
    gone = {id(slide.source) for slide in left_out}
    slides = tuple(slide for slide in source.slides if id(slide) not in gone)
    reasons = (str(slide.error) for slide in left_out)
    return replace(source, slides=slides or source.slides, problems=(*source.problems, *reasons))


def _without_fatal(source: Source) -> Source:
    """Looks in another process for slides that would end this one; they have that as their problem."""
    fatal = find_fatal([slide.path for slide in source.slides if slide.problem is None])
    slides = (replace(s, problem=SlideError(fatal[s.path])) if s.path in fatal else s for s in source.slides)
    return replace(source, slides=tuple(slides))


def _opened(
    source: Source, rules: ImportRules, reporter: Reporter, own_pixels: OwnPixels | None
) -> tuple[list[OpenedSlide], list[LeftOutSlide]]:
    """Opens all slides; those that cannot be imported have a reason."""
    opened: list[OpenedSlide] = []
    left_out: list[LeftOutSlide] = []
    slides = source.slides
    with reporter.task("slides", len(slides)) as task:
        for slide, slide_id in zip(slides, slide_ids([s.path.name for s in slides]), strict=True):
            found = opened_slide(slide, slide_id, rules.patches.spec, own_pixels)
            if isinstance(found, OpenedSlide):
                opened.append(found)
            else:
                left_out.append(found)
            task.advance(note=slide_id)
    return opened, left_out


def _painted(
    opened: Sequence[OpenedSlide],
    source: Source,
    labelling: Labelling,
    rules: ImportRules,
    folder: Path | None,
    workers: int | None,
    reporter: Reporter,
) -> tuple[list[Prepared], list[LeftOutSlide], Labelling]:
    """Paints all slides; what cannot be painted is left out, and all begins anew where that changes the classes."""
    lost: list[LeftOutSlide] = []
    while opened:
        prepared, gone = paint_all(opened, labelling, folder, workers, reporter)
        if not gone:
            return prepared, lost, labelling
        lost += gone
        opened = [slide for slide in opened if slide.slide_id not in {g.slide_id for g in gone}]
        source = _without(source, gone)
        changed = labelling_of(source, rules) if opened else labelling
        if changed == labelling:
            return prepared, lost, labelling
        labelling = changed
    return [], lost, labelling
