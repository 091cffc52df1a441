"""`evaluation.html`: how right predictions are and where they are wrong; one page that needs nothing but itself."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Template
from markupsafe import Markup

from dmmn_qp.files import new_file
from dmmn_qp.folders.evaluation import (
    EVALUATION,
    NOT_PREDICTED,
    WORST_REGIONS,
    WORST_REGIONS_FOLDER,
    Evaluation,
    TruthDescription,
)
from dmmn_qp.reports.evaluation_charts import color_of, mark_path, shape_of
from dmmn_qp.reports.evaluation_parts import (
    Part,
    agreement_charts,
    areas_of,
    calibrations,
    classes_of,
    compared_mm2,
    facts_of,
    parts_of,
    slide_rows,
    subgroups_of,
)
from dmmn_qp.reports.evaluation_pictures import MISSING_COLOR, OTHER_COLOR, RIGHT_COLOR, WRONG_COLOR, Tile, pale
from dmmn_qp.reports.evaluation_words import (
    figure_name,
    figure_text,
    interval_text,
    is_told_apart,
    main_truth,
    p_text,
    signed_text,
    summary_sentences,
)
from dmmn_qp.reports.html import page_environment
from dmmn_qp.text import shorten
from dmmn_qp.version import __version__

PAGE: Final = "evaluation.html"

_TEMPLATE: Final = "evaluation_report.html.j2"
_SCRIPT: Final = "sort_tables.js"


@dataclass(frozen=True, slots=True)
class PagePictures:
    """What the page shows besides the figures.

    Attributes:
        slides: Pictures of each slide by its id: the slide and the truth, then those of each model by its number.
        regions: Pictures of each model's worst regions, by the model's number and the region's place in its list.
        size_px: (width, height) of each slide in level-0 px, as far as it is known, by its id.
    """

    slides: Mapping[str, tuple[Sequence[Tile], Mapping[int, Sequence[Tile]]]] = field(default_factory=dict)
    regions: Mapping[tuple[int, int], Sequence[Tile]] = field(default_factory=dict)
    size_px: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def write_page(folder: Path, evaluation: Evaluation, pictures: PagePictures) -> Path:
    """Writes the page into the folder of an evaluation; returns it."""
    with new_file(folder / PAGE) as temporary:
        temporary.write_text(render_page(evaluation, pictures), "utf-8")
    return folder / PAGE


def render_page(evaluation: Evaluation, pictures: PagePictures) -> str:
    """The page: HTML with its style and pictures inside, and a policy that forbids any request.

    Its one script sorts tables. The policy names it by its digest, so that no other can run.
    """
    script = (files("dmmn_qp.reports") / "templates" / _SCRIPT).read_text("utf-8")
    main = main_truth(evaluation)
    parts = parts_of(evaluation, main)
    shown = _shown(evaluation, main, parts)
    return _template().render(
        **shown,
        nav=_nav(evaluation, parts, shown),
        e=evaluation,
        main=main,
        data=pictures,
        script=Markup(script),
        script_digest=b64encode(sha256(script.encode()).digest()).decode(),
        other_color=OTHER_COLOR,
        verdict_colors=(("right", RIGHT_COLOR), ("wrong", WRONG_COLOR), ("not predicted", MISSING_COLOR)),
        not_predicted=NOT_PREDICTED,
        figures_file=EVALUATION,
        regions_file=WORST_REGIONS,
        regions_folder=WORST_REGIONS_FOLDER,
        made_by=f"dmmn-qp {__version__}",
    )


@cache
def _template() -> Template:
    """The template, which takes longer to compile than to fill."""
    environment = page_environment()
    environment.filters |= {"figure": figure_text, "interval": interval_text, "signed": signed_text, "p": p_text}
    environment.filters |= {"compared": figure_name, "told_apart": is_told_apart, "pale": pale, "short": shorten}
    environment.globals |= {"color_of": color_of, "shape_of": shape_of, "mark_path": mark_path}
    return environment.get_template(_TEMPLATE)


def _shown(evaluation: Evaluation, main: TruthDescription, parts: Sequence[Part]) -> dict[str, Any]:
    """Tables and charts, by the names that the template gives them."""
    of_main = [detail.truth.pooled for part in parts if part.truth.kind == main.kind for detail in part.details]
    best = max(of_main, key=lambda figures: figures.mean_iou.value or 0.0, default=None)
    return {
        "parts": parts,
        "titles": {truth.kind: truth.title for truth in evaluation.truths},
        "best": best,
        "best_mm2": compared_mm2(best) if best else 0.0,
        "all_counts": main.is_full and not evaluation.settings.region,
        "comparisons": sorted(evaluation.comparisons, key=lambda c: c.kind != main.kind),
        "sentences": summary_sentences(evaluation),
        "subgroups": subgroups_of(evaluation, main),
        "areas": areas_of(evaluation, main) if of_main else [],
        "agreement": agreement_charts(evaluation, main),
        "calibration": calibrations(evaluation, main),
        "slide_rows": slide_rows(evaluation, main),
        "classes": classes_of(evaluation, main),
        "regions": [(n, m.name, list(enumerate(m.worst))) for n, m in enumerate(evaluation.models) if m.worst],
        "card_keys": list(dict.fromkeys(key for model in evaluation.models for key in model.card)),
        "facts": facts_of(evaluation),
        "has_borders": any(d.truth.boundaries or d.truth.objects for part in parts for d in part.details),
        "unknown_mpp": any(slide.grid_mpp is None for slide in evaluation.slides),
    }


def _nav(evaluation: Evaluation, parts: Sequence[Part], shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and title of the parts that the page has."""
    several = len(parts) > 1
    return [
        ("summary", "Summary"),
        *([("comparisons", "Comparisons")] if evaluation.comparisons else []),
        *((f"classes-{p.truth.kind}", f"Classes{f': {p.truth.title}' if several else ''}") for p in parts),
        *([("subgroups", "Subgroups")] if shown["subgroups"] else []),
        *([("areas", "Areas")] if shown["areas"] else []),
        *([("calibration", "Calibration")] if shown["calibration"][0] else []),
        ("slides", "Slides"),
        ("worst", "Worst regions"),
        *([("models", "Models" if len(evaluation.models) > 1 else "Model")] if shown["card_keys"] else []),
        ("provenance", "Provenance"),
    ]
