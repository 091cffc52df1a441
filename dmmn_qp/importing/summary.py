"""What an import says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.choices import Split
from dmmn_qp.console import Reporter
from dmmn_qp.importing.opening import LeftOutSlide, OpenedSlide
from dmmn_qp.importing.prepared import Labelling, Prepared
from dmmn_qp.importing.rules import ImportRules
from dmmn_qp.importing.source import Source
from dmmn_qp.labels.class_rules import ClassRules, with_trained_classes
from dmmn_qp.qupath.notes import ReadRules
from dmmn_qp.qupath.review_counts import corrections_of
from dmmn_qp.reports.findings import warn_of
from dmmn_qp.reports.inputs import DrawnSlide, Finding, ImportedData, ImportedSlide
from dmmn_qp.reports.review import NOTHING_TO_DO, review_findings
from dmmn_qp.specs import MM2_OF_UM2, ClassMap
from dmmn_qp.text import count_of, one_of_each_kind

LEFT_OUT = "it is left out until it is mended and imported again"


def as_imported(
    prepared: Sequence[Prepared],
    source_paths: Sequence[Path],
    source: Source,
    labelling: Labelling,
    reading: ReadRules,
    noted: tuple[Finding, ...],
) -> ImportedData:
    """Gathers what the report is made of.

    Args:
        prepared: The slides.
        source_paths: What the user named.
        source: What was found there.
        labelling: How objects became labels and patches.
        reading: What was read of it.
        noted: Findings made on the way.
    """

    def imported(item: Prepared) -> ImportedSlide:
        return ImportedSlide(
            record=item.record,
            name=item.source.name,
            annotations=item.annotations,
            painter=item.painter,
            patches=item.patches,
            open=item.source.view.open,
            pixel_size=item.pixel_size,
            warnings=item.source.objects.warnings,
            plane=item.source.plane,
            other_kinds=item.source.other_kinds.total(),
            review=item.source.review,
            corrections=corrections_of(item.source.models),
        )

    resolved = [path.resolve() for path in source_paths]
    return ImportedData(
        name=", ".join((path.parent if path.is_file() else path).name for path in resolved),
        source=", ".join(map(str, source_paths)),
        class_map=labelling.class_map,
        painting=labelling.painting,
        patching=labelling.patches,
        slides=tuple(imported(item) for item in prepared),
        left_out=tuple(name for name, target in labelling.targets.items() if target is None),
        without_annotations=source.without_annotations,
        noted=noted,
        reading=reading,
        only_predicted=source.only_predicted,
        problems=source.problems,
    )


def with_only_drawn(data: ImportedData, left_out: Iterable[LeftOutSlide], everything: Labelling) -> ImportedData:
    """Adds slides that are left out, but whose annotations are to be looked at.

    Args:
        data: What is made of the others.
        left_out: The slides.
        everything: How the objects of all slides would become labels.
    """
    only_drawn = tuple(_only_drawn(slide, everything) for slide in left_out)
    return replace(data, only_drawn=only_drawn, drawn_classes=everything.class_map)


def _only_drawn(slide: LeftOutSlide, labelling: Labelling) -> DrawnSlide:
    source = slide.source
    return DrawnSlide(
        slide_id=slide.slide_id,
        annotations=with_trained_classes(source.objects.annotations, labelling.targets),
        size_px=source.view.size_px,
        mpp=source.view.stated_mpp(),
        warnings=source.objects.warnings,
        plane=source.plane,
        other_kinds=source.other_kinds.total(),
    )


def damage_findings(opened: Iterable[OpenedSlide]) -> Iterator[Finding]:
    """Slides that are damaged in places, but not left out."""
    for slide in opened:
        for damage in slide.damage:
            message, _, way_out = damage.partition("; ")
            yield Finding(severity="warning", slide=slide.slide_id, message=message, way_out=way_out or "copy it again")


def source_findings(source: Source, *, strict: bool) -> tuple[Finding, ...]:
    """What the reading of a source found: problems, which are errors where all of it is wanted, and warnings."""
    problems = (
        Finding(severity="error" if strict else "warning", message=problem, way_out=LEFT_OUT)
        for problem in source.problems
    )
    warnings = (
        Finding(severity="note", message=warning, way_out="nothing to do, if what it shows is what was drawn")
        for warning in source.warnings
    )
    return (*problems, *warnings)


def report_notes(findings: Sequence[Finding], reporter: Reporter) -> None:
    """Says findings as they are made: warnings as such, notes without a way out that is none."""
    for finding in findings:
        if finding.severity == "note":
            reporter.say("  " + finding.line().removesuffix(f"; {NOTHING_TO_DO}"))
    warn_of(findings, reporter)


def report_problems(problems: Iterable[str], reporter: Reporter) -> None:
    """Warns of what is left out, of each kind in one line."""
    for line in one_of_each_kind((None, f"{problem}; {LEFT_OUT}") for problem in problems):
        reporter.warn(line)


def report_source(
    source: Source, rules: ImportRules, reporter: Reporter, *, findings_follow: bool, problems_end_it: bool
) -> tuple[Finding, ...]:
    """Says what is known of a source when its slides were opened.

    Args:
        source: The source.
        rules: The rules of the import.
        reporter: Where to report.
        findings_follow: Whether the same is said as findings later.
        problems_end_it: Whether what cannot be read is an error at the end.

    Returns:
        The findings that were said.
    """
    reviewed = () if findings_follow else tuple(review_findings(source.all_counts(), rules.reading))
    if not findings_follow:
        for warning in one_of_each_kind((None, warning) for warning in source.warnings):
            reporter.warn(warning)
        report_problems(source.problems if not problems_end_it else (), reporter)
    if source.without_annotations:
        without = count_of(source.without_annotations, "slide without annotations is", "slides without annotations are")
        reporter.say(f"  {without} left out")
    report_notes(reviewed, reporter)
    objects = (a for slide in source.slides for a in slide.objects.annotations)
    if rules.painting.overlap == "depth" and not any(a.depth for a in objects):
        reporter.warn(
            "--overlap depth decides nothing, because no object lies in another one in the hierarchy; use Objects > "
            "Annotations > Resolve hierarchy in QuPath and save, or choose another rule"
        )
    return reviewed


def report_left_out(prepared: Sequence[Prepared], class_map: ClassMap, rules: ClassRules, reporter: Reporter) -> None:
    """Says what is drawn but not trained on."""
    for item in prepared:
        counts = {
            "without a class": sum(a.class_name is None and a.is_area for a in item.annotations),
            "of a class that QuPath ignores (*)": sum(
                (a.class_name or "").endswith("*") and a.class_name not in class_map.names for a in item.annotations
            ),
            "of a dropped class": sum(a.class_name in rules.drop for a in item.annotations),
            "that are lines or points": sum(
                not a.is_area and (a.class_name is None or a.class_name in class_map.names) for a in item.annotations
            ),
            "on another plane (--plane)": sum(not item.source.is_on_plane(a) for a in item.annotations),
            "of another kind (--kinds)": item.source.other_kinds.total(),
        }
        parts = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        if parts:
            reporter.say(f"  {item.record.slide_id}: not trained on: {parts}")


def report_dataset(
    prepared: Sequence[Prepared],
    pixels: Mapping[str, NDArray[np.int64]],
    class_map: ClassMap,
    reporter: Reporter,
) -> None:
    """Says what the dataset holds: slides, patches, and the annotated area of each class."""
    splits: tuple[Split, ...] = ("train", "val", "test")
    area_mm2 = {split: np.zeros(len(class_map)) for split in splits}
    for split in splits:
        items = [item for item in prepared if item.record.split == split]
        for item in items:
            pixel_mm2 = (item.grid.downsample * item.record.mpp) ** 2 * MM2_OF_UM2
            area_mm2[split] += pixels[item.record.slide_id] * pixel_mm2
        names = ", ".join(item.record.slide_id for item in items)
        n_patches = sum(len(item.patches) for item in items)
        counts = f"{count_of(len(items), 'slide')}, {count_of(n_patches, 'patch', 'patches')}"
        reporter.say(f"  {split:<5}  {counts}  {names}".rstrip())
    width = max(len(name) for name in ("class", *class_map.names))
    reporter.say(f"  {'class':<{width}}" + "".join(f"{split + ' mm2':>12}" for split in splits))
    for i, name in enumerate(class_map.names):
        reporter.say(f"  {name:<{width}}" + "".join(f"{area_mm2[split][i]:>12.3f}" for split in splits))
