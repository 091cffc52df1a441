"""`report.html` and `report.json` of a dataset: one page that needs nothing but itself, and its figures."""

from __future__ import annotations

from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from dmmn_qp.choices import SPLITS
from dmmn_qp.console import Reporter
from dmmn_qp.files import new_file, write_json
from dmmn_qp.reports.drawing import NEAR_UM, STRAIGHT_UM
from dmmn_qp.reports.findings import find_findings
from dmmn_qp.reports.import_report import ImportReport, make_report
from dmmn_qp.reports.inputs import SEVERITIES, Finding, ImportedData
from dmmn_qp.reports.pictures import SlidePicture, blank_picture, draw_slide, picture_px
from dmmn_qp.text import printable

REPORT_PAGE: Final = "report.html"
REPORT_FIGURES: Final = "report.json"

_TEMPLATE = "import_report.html.j2"


def write_import_report(
    folder: Path,
    data: ImportedData,
    label_pixels: Mapping[str, NDArray[np.int64]],
    reporter: Reporter | None = None,
    findings: tuple[Finding, ...] | None = None,
) -> ImportReport:
    """Writes the report of an import into a dataset folder.

    What cannot be drawn or written is left out with a warning.

    Args:
        folder: The dataset.
        data: What was imported.
        label_pixels: (C,) pixels of each class in the mask of each slide, by slide id.
        reporter: Where to warn; the terminal unless given.
        findings: What somebody should look at; looked for unless given.

    Returns:
        The figures.
    """
    reporter = reporter or Reporter()
    size = picture_px(len(data.slides))
    pictures = {slide.record.slide_id: blank_picture(slide, size) for slide in data.slides}
    for slide in data.slides:
        with reporter.optional(f'the picture of slide "{slide.record.slide_id}" in {REPORT_PAGE}'):
            pictures[slide.record.slide_id] = draw_slide(slide, data, size)
    tissue_mm2 = {slide_id: picture.tissue_mm2 for slide_id, picture in pictures.items()}
    report = make_report(data, label_pixels, tissue_mm2, find_findings(data) if findings is None else findings)
    with reporter.optional(REPORT_FIGURES):
        write_json(folder / REPORT_FIGURES, report.model_dump(mode="json"))
    with reporter.optional(REPORT_PAGE), new_file(folder / REPORT_PAGE) as temporary:
        temporary.write_text(render_page(report, pictures), "utf-8")
    return report


def render_page(report: ImportReport, pictures: Mapping[str, SlidePicture]) -> str:
    """The page: HTML with its style and pictures inside, no script, and a policy that forbids any request.

    Args:
        report: The figures.
        pictures: A picture of each slide, by slide id.
    """
    pins: dict[str, list[tuple[int, Finding]]] = defaultdict(list)
    for number, finding in enumerate(report.findings, start=1):
        if finding.slide is not None and finding.place is not None:
            pins[finding.slide].append((number, finding))
    of_split = {split: [slide for slide in report.slides if split in slide.splits] for split in SPLITS}
    return page_template(_TEMPLATE).render(
        report=report,
        pictures=pictures,
        pins=pins,
        of_split=of_split,
        splits=SPLITS,
        severities=SEVERITIES,
        near_um=round(NEAR_UM),
        straight_um=round(STRAIGHT_UM),
    )


@cache
def page_template(name: str) -> Template:
    """The template of a page, which takes longer to compile than to fill."""
    return page_environment().get_template(name)


def page_environment() -> Environment:
    """The templates of all pages.

    This is the one place that makes text fit for HTML: every text that a template shows is made printable, then HTML is
    escaped.
    """
    environment = Environment(
        loader=PackageLoader("dmmn_qp.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"mm2": mm2_text, "percent": percent_text, "css": css_color, "base64": base64_text}
    return environment


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def mm2_text(area_mm2: float) -> str:
    """An area in mm2 with about three digits; a dash for none."""
    if area_mm2 == 0:
        return "–"
    if area_mm2 < 0.001:
        return "<0.001"
    digits = 3 if area_mm2 < 1 else 2 if area_mm2 < 10 else 1 if area_mm2 < 100 else 0
    return f"{area_mm2:.{digits}f}"


def percent_text(share: float | None) -> str:
    """``0.123`` -> ``12 %``; a dash for None and for none, and 100 % for all alone."""
    if not share:
        return "–"
    percent = share * 100
    if percent < 0.1:
        return "<0.1 %"
    if 99.9 < percent < 100:
        return ">99.9 %"
    return f"{percent:.1f} %" if percent < 10 or 99.5 <= percent < 100 else f"{percent:.0f} %"


def css_color(color: tuple[int, int, int]) -> str:
    """``rgb(1 2 3)``."""
    return "rgb({} {} {})".format(*color)


def base64_text(content: bytes) -> str:
    """Bytes as base64, for a data URI."""
    return b64encode(content).decode("ascii")
