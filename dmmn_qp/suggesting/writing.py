"""The files of a folder of suggestions: outlines for QuPath, a table and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, OutputExistsError, SlideError
from dmmn_qp.files import RUN_FILE, final_name, remove_new_files, write_json
from dmmn_qp.files.failures import naming
from dmmn_qp.files.locks import briefly_locked
from dmmn_qp.files.renaming import remove
from dmmn_qp.files.tables import write_table
from dmmn_qp.folders.predictions import INPUTS
from dmmn_qp.folders.suggestions import PREDICTED, TABLE, Suggestion, is_of_suggestions
from dmmn_qp.qupath.classes import QUPATH_COLORS
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, SUGGESTION_CLASS, SUGGESTION_MARK, SUGGESTION_RANK, suggestion_id
from dmmn_qp.reports.suggestions_report import (
    SlideWithRegions,
    draw_slide_with_regions,
    write_suggestions_report,
)
from dmmn_qp.suggesting.slides import PredictedSlide

_COLUMNS: Final = (
    *("rank", "slide", "x_px", "y_px", "width_px", "height_px", "centre_x_px", "centre_y_px", "mm2", "reason"),
    *("score", "uncertainty", "rarity", "distance", "entropy", "predicted"),
)


def check_out(out: Path) -> None:
    """Refuses a folder that is not one of suggestions; one that is, is written anew each time.

    Raises:
        OutputExistsError: It is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f'output "{out}" is a file; choose another folder with --out')
    if not out.is_dir() or is_of_suggestions(out):
        return
    if any(path.name != PREDICTED and final_name(path.name) is None for path in out.iterdir()):
        raise OutputExistsError(
            f'output folder "{out}" exists and holds no suggestions (it has no {TABLE}); choose another with --out'
        )


def write_suggestions(
    out: Path,
    suggestions: Sequence[Suggestion],
    slides: Sequence[PredictedSlide],
    run: Mapping[str, Any],
    notes: Sequence[str],
    reporter: Reporter,
) -> None:
    """Writes all files, in place of those that an earlier run wrote; of two runs at a time, one after the other.

    Every slide that was looked at gets a file of outlines, an empty one too, so that what was suggested on it before
    goes when it is pushed.

    Args:
        out: The folder; see `check_out`.
        suggestions: By rank.
        slides: The slides that were looked at.
        run: What was run.
        notes: For the page: what was looked at and how.
        reporter: Where to warn of what is left out.
    """
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    with briefly_locked(out.resolve()):  # which has a name, whatever the user calls it
        remove_new_files(out)
        _write_table(out, suggestions)  # first, because it marks the folder as ours
        named = {f"{slide.slide_id}.geojson" for slide in slides}
        for stale in sorted(out.glob("*.geojson")):
            if stale.name not in named:
                remove(stale)
        for slide in slides:
            own = [s for s in suggestions if s.slide_id == slide.slide_id]
            write_geojson(out / f"{slide.slide_id}.geojson", [_annotation(s, slide.fingerprint) for s in own])
        shown = [slide for slide in slides if any(s.slide_id == slide.slide_id for s in suggestions)]
        with reporter.optional("the page of suggestions"):
            with reporter.counting_warnings():
                pictures = [_drawn(slide, suggestions, reporter) for slide in shown]
            write_suggestions_report(out, suggestions, pictures, notes)
        told = {slide.slide_id: slide.image.model_dump(mode="json") for slide in slides if slide.image is not None}
        write_json(out / RUN_FILE, {**run, INPUTS: told})  # `push` finds the image of each by it


def _write_table(out: Path, suggestions: Sequence[Suggestion]) -> None:
    rows = []
    for s in suggestions:
        r = s.region
        predicted = "; ".join(f"{name} {100 * share:.0f} %" for name, share in s.shares)
        place = (r.x, r.y, r.width, r.height, *s.centre_px)
        scores = (round(value, 4) for value in (s.score, s.uncertainty, s.rarity, s.distance, s.entropy))
        rows.append((s.rank, s.slide_id, *place, round(s.mm2, 6), s.reason, *scores, predicted))
    write_table(out / TABLE, _COLUMNS, rows)


def _annotation(s: Suggestion, fingerprint: str) -> Annotation:
    """A suggestion as QuPath shows it: an outline of ours that is no prediction, with its scores."""
    r = s.region
    return Annotation(
        shapely.box(r.x, r.y, r.right, r.bottom),
        class_name=SUGGESTION_CLASS,
        class_color=QUPATH_COLORS[SUGGESTION_CLASS],
        annotation_id=suggestion_id(f"suggestion/{fingerprint}/{r.x},{r.y},{r.width},{r.height}"),
        name=s.name,
        measurements={
            SUGGESTION_RANK: s.rank,
            "Suggestion score": round(s.score, 4),
            "Suggestion uncertainty": round(s.uncertainty, 4),
            "Suggestion rarity": round(s.rarity, 4),
            "Suggestion distance": round(s.distance, 4),
            "Suggestion entropy": round(s.entropy, 4),
        },
        metadata={METADATA_KEY: SUGGESTION_MARK},
    )


def _drawn(slide: PredictedSlide, suggestions: Sequence[Suggestion], reporter: Reporter) -> SlideWithRegions:
    """A slide's pictures; none where it cannot be read any more."""
    regions = {s.rank: s.region for s in suggestions if s.slide_id == slide.slide_id}
    try:
        with slide.open() as opened:
            return draw_slide_with_regions(slide.slide_id, opened, slide.labels_path, slide.class_map, regions)
    except (SlideError, DatasetError) as error:
        reporter.warn_of(slide.slide_id, f"pictures are left out: {error}")
    right, bottom = max(r.right for r in regions.values()), max(r.bottom for r in regions.values())
    return SlideWithRegions(slide.slide_id, None, (right, bottom), slide.class_map, {})
