"""What somebody should look at before training: a finding says what, where, and what to do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.labels.class_rules import case_variants
from dmmn_qp.reports.class_findings import class_findings
from dmmn_qp.reports.inputs import SEVERITIES, AnySlide, Finding, ImportedData
from dmmn_qp.reports.review import all_counts, review_findings
from dmmn_qp.reports.slide_findings import annotation_findings, slide_findings
from dmmn_qp.reports.wording import place_in
from dmmn_qp.text import count_of, one_of_each_kind

SLIVER_UM2: Final = 50.0
"""An area smaller than this, less than a nucleus or two, is hardly meant."""


def find_findings(data: ImportedData, *, sliver_um2: float = SLIVER_UM2) -> tuple[Finding, ...]:
    """Everything worth a look, errors first, then by slide.

    Args:
        data: What was imported.
        sliver_um2: Areas below this are reported.
    """
    found = [*data.noted, *_of_dataset(data)]
    for slide in data.slides:
        found += slide_findings(slide, data, sliver_um2)
    drawn = replace(data, class_map=data.drawn_classes or data.class_map)
    for only_drawn in data.only_drawn:
        found += annotation_findings(only_drawn, drawn, sliver_um2)
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def report_findings(findings: Sequence[Finding], reporter: Reporter) -> None:
    """Prints every finding on a line of its own, and how many there are."""
    for finding in findings:
        reporter.say(f"  {finding.severity + ':':<8} {finding.line()}")
    reporter.say(count_text(findings))


def warn_of(findings: Sequence[Finding], reporter: Reporter) -> None:
    """Says the warnings among findings, first those of no slide; of each kind one line, however many there are."""
    warnings = [finding for finding in findings if finding.severity == "warning"]
    for apart in (True, False):
        for line in one_of_each_kind((f.slide, f.said()) for f in warnings if (f.slide is None) == apart):
            reporter.warn(line)


def count_text(findings: Sequence[Finding]) -> str:
    """``1 error, 3 warnings``; ``no findings`` for none."""
    counts = Counter(finding.severity for finding in findings)
    return ", ".join(count_of(counts[s], s) for s in SEVERITIES if counts[s]) or "no findings"


def _of_dataset(data: ImportedData) -> Iterator[Finding]:
    yield from review_findings(all_counts(data), data.reading)
    yield from _similar_names(data)
    if not data.slides:
        yield Finding(
            severity="error",
            message="none of the annotated images can be read, so that nothing can be imported",
            way_out="mend what is said of each; what is drawn on them was looked at all the same",
        )
        return
    patches = [patch for slide in data.slides for patch in slide.patches]
    if not patches:
        part, size_px = data.patching.min_labelled_fraction, data.patching.spec.size_px
        yield Finding(
            severity="error",
            concerns="training",
            message="no slide has a target with enough annotation",
            way_out=f"draw larger areas: more than {part:.0%} of a {size_px} x {size_px} px square",
        )
        return
    present = {split for slide in data.slides for split in slide.splits}
    if "val" not in present:
        yield Finding(
            severity="warning",
            concerns="training",
            message="no slide is for validation, so training cannot tell its best epoch",
            way_out="annotate another slide, or give one the image metadata split = val in QuPath",
        )
    if "test" not in present:
        yield Finding(
            severity="note",
            concerns="training",
            message="no slide is for testing, so dmmn-qp evaluate has nothing to compare with",
            way_out="annotate another slide, or give one the image metadata split = test in QuPath",
        )
    if len(data.class_map) == 1:
        yield Finding(
            severity="warning",
            concerns="training",
            class_name=data.class_map.names[0],
            message=f'"{data.class_map.names[0]}" is the only class, which a network would predict everywhere',
            way_out="annotate what is not of it as well, as one class more such as Other; dmmn-qp train needs two",
        )
    yield from class_findings(
        patches, data.class_map, data.covering_classes, data.painting.overlap, is_validated="val" in present
    )


def _similar_names(data: ImportedData) -> Iterator[Finding]:
    """Class names in use that differ only by case or blanks."""
    used: dict[str, list[tuple[AnySlide, Annotation]]] = defaultdict(list)
    slides: tuple[AnySlide, ...] = (*data.slides, *data.only_drawn)
    for slide in slides:
        for annotation in slide.annotations:
            if annotation.class_name is not None:
                used[annotation.class_name].append((slide, annotation))
    for variants in case_variants(used):
        names = sorted(variants, key=lambda name: -len(used[name]))
        slide, rarest = used[names[-1]][0]
        spellings = " and ".join(f'"{name}" ({count_of(len(used[name]), "annotation")})' for name in names)
        yield Finding(
            severity="warning",
            slide=slide.slide_id,
            class_name=names[-1],
            place=place_in([rarest.geometry], slide),
            message=f"{spellings} look like slips of one class name, but are different classes",
            way_out=f'set the class of the latter to "{names[0]}" in QuPath, or pass --merge-case',
        )
