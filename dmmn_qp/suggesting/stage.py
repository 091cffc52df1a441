"""`dmmn-qp suggest`: predictions with their uncertainty, and a dataset -> the regions to annotate next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DatasetError, SlideError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import load_card
from dmmn_qp.folders.provenance import describe_run, now
from dmmn_qp.folders.suggestions import PAGE, Suggestion
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import MM2_OF_UM2
from dmmn_qp.suggesting.cells import MOST_CELLS, cells_of
from dmmn_qp.suggesting.choosing import best_apart, budget, choose
from dmmn_qp.suggesting.looking import Looks, look_at
from dmmn_qp.suggesting.options import SuggestOptions
from dmmn_qp.suggesting.scores import rarity_by_class, scores_of
from dmmn_qp.suggesting.slides import PredictedSlide, predicted_slides
from dmmn_qp.suggesting.suggestion import suggestions_of
from dmmn_qp.suggesting.windows import Window, windows_of
from dmmn_qp.suggesting.writing import check_out, write_suggestions
from dmmn_qp.text import count_of

MOST_LOOKED_AT: Final = 400
"""Windows whose looks are compared with what is annotated, and among which is chosen: at most ten seconds' work."""


def suggest(
    predictions: Path | Sequence[Path],
    dataset: Path,
    out: Path,
    options: SuggestOptions,
    reporter: Reporter,
    *,
    slides_roots: Sequence[SlidesRoot] = (),
    model: Path | None = None,
) -> list[Suggestion]:
    """Suggests the regions that are worth annotating next, and writes them for QuPath.

    Windows over the tissue of predicted slides are scored by how unsure the model is, how little is annotated of what
    it predicts, and how unlike what is annotated they look; of those with high scores such are chosen as are unlike
    each other. What is annotated is left out, and so are slides for validation and test. The same files give the same
    suggestions.

    Args:
        predictions: Folder, or folders, of `dmmn-qp predict --uncertainty`; of a slide that is in several, the first
            counts.
        dataset: The dataset, which says what is annotated.
        out: Folder to write into; earlier suggestions in it are replaced.
        options: Resolved options.
        reporter: Where to report.
        slides_roots: Folders to search for slides that have been moved.
        model: The model whose predictions count and whose encoder looks at the tissue; None for whatever made the
            predictions.

    Returns:
        The suggestions, by rank.

    Raises:
        DatasetError: There is no dataset, no prediction with uncertainty, or no window that may be suggested.
        OutputExistsError: ``out`` holds something else.
    """
    started = now()
    check_out(out)
    known = Dataset(dataset)
    folders = [predictions] if isinstance(predictions, Path) else list(predictions)
    reporter.heading(f'Looking for regions that are worth annotating, beside what "{dataset}" has')
    weights = None if model is None else load_card(model).weights_sha256
    with reporter.counting_warnings():
        slides = predicted_slides(
            folders, known, reporter, held_back=options.held_back, weights=weights, slides_roots=slides_roots
        )
    looked = _windows_of_all(slides, known, options, reporter)
    rarity = rarity_by_class(_labelled_um2(known), [name for slide in slides for name in slide.class_map.names])
    windows = _most_promising(looked.windows, rarity, options)
    looks = look_at(slides, windows, known, folders, model, reporter, slides_roots)
    scores = scores_of(windows, rarity, looks.distances, options.weights)
    chosen = choose(windows, scores.total, looks.vectors, budget(options, looked.window_mm2), options.spread)
    suggestions = suggestions_of(windows, chosen, scores, options.weights, rarity, looked.mpps)
    run = describe_run("suggest", options.model_dump(mode="json"), started, dataset=str(dataset))
    write_suggestions(out, suggestions, slides, run, _notes(looked, slides, looks, options), reporter)
    _say(suggestions, looked, out, reporter)
    return suggestions


@dataclass(frozen=True, slots=True)
class _Looked:
    """All windows that may be suggested.

    Attributes:
        windows: They, by slide and then row by row.
        mpps: um/px of each slide that could be read.
    """

    windows: list[Window]
    mpps: Mapping[str, float]

    @property
    def window_mm2(self) -> float:
        """Area of the largest."""
        return max(w.region.width * w.region.height * self.mpps[w.slide_id] ** 2 for w in self.windows) * MM2_OF_UM2


def _windows_of_all(
    slides: Sequence[PredictedSlide], dataset: Dataset, options: SuggestOptions, reporter: Reporter
) -> _Looked:
    """Looks at one slide after the other.

    Raises:
        DatasetError: On none is a window that may be suggested.
    """
    windows: list[Window] = []
    mpps: dict[str, float] = {}
    with reporter.counting_warnings(), reporter.task("looking at slides", len(slides)) as task:
        for slide in slides:
            try:
                with slide.open() as opened:
                    info = opened.info
                    side_px = max(1, round(options.window_um / info.mpp))
                    cells = cells_of(slide, opened, dataset, side_px)
                windows += windows_of(
                    slide.slide_id,
                    cells,
                    slide.class_map.names,
                    (info.width, info.height),
                    side_px,
                    min_tissue=options.min_tissue,
                    max_annotated=options.max_annotated,
                )
                mpps[slide.slide_id] = info.mpp
            except (SlideError, DatasetError) as error:
                reporter.warn_of(slide.slide_id, f"is left out: {error}", " ")
            task.advance(note=slide.slide_id)
    if not windows:
        raise DatasetError(
            f"no region of {options.window_um:g} um is {100 * options.min_tissue:g} % tissue and at most "
            f"{100 * options.max_annotated:g} % annotated; pass a smaller --window-um, or --max-annotated 0.2"
        )
    return _Looked(windows, mpps)


def _labelled_um2(dataset: Dataset) -> dict[str, float]:
    """What is annotated for training, by class."""
    found = dict.fromkeys(dataset.class_map.names, 0.0)
    for record in dataset.slides("train"):
        with LabelRaster(dataset.mask_path(record.slide_id)) as raster:
            labels = raster.read_reduced(MOST_CELLS)
        um2 = record.width * record.height * record.mpp**2 / labels.size
        counts = np.bincount(labels.ravel(), minlength=len(found) + 1)
        for label, name in enumerate(dataset.class_map.names, start=1):
            found[name] += float(counts[label]) * um2
    return found


def _most_promising(windows: Sequence[Window], rarity: Mapping[str, float], options: SuggestOptions) -> list[Window]:
    """The windows that are looked at more closely: half of them those of the highest scores so far, half from all over.

    Else what looks like nothing that is annotated would not be seen where the model is sure of it.
    """
    if len(windows) <= MOST_LOOKED_AT:
        return list(windows)
    unknown = np.full(len(windows), np.nan)
    total = scores_of(windows, rarity, unknown, options.weights).total
    best = np.array(best_apart(windows, total, MOST_LOOKED_AT // 2))
    others = np.setdiff1d(np.arange(len(windows)), best)
    spread = others[np.unique(np.linspace(0, len(others) - 1, MOST_LOOKED_AT - len(best)).round().astype(int))]
    return [windows[i] for i in np.sort(np.concatenate([best, spread])).tolist()]


def _notes(looked: _Looked, slides: Sequence[PredictedSlide], looks: Looks, options: SuggestOptions) -> list[str]:
    """What the page says of how it was made."""
    return [
        f"{len(looked.windows):,} windows of {options.window_um:g} µm on {len(looked.mpps)} of "
        f"{count_of(len(slides), 'slide')} were scored, at least {100 * options.min_tissue:g} % tissue and at most "
        f"{100 * options.max_annotated:g} % annotated. Weights: unsure {options.weight_uncertainty:g}, rare "
        f"{options.weight_rarity:g}, unlike {options.weight_distance:g}; being unlike each other {options.spread:g}. "
        f"Looks were compared by {looks.by}."
    ]


def _say(suggestions: Sequence[Suggestion], looked: _Looked, out: Path, reporter: Reporter) -> None:
    """Prints what is suggested, and how it gets into QuPath."""
    px = " or ".join(map(str, sorted({s.region.width for s in suggestions})))
    mm2 = sum(s.mm2 for s in suggestions)
    reporter.say(f"  {len(suggestions)} of {len(looked.windows):,} windows, {px} px a side, {mm2:.3g} mm2 together")
    for s in suggestions:
        reporter.say(f"  {s.name}  ({s.slide_id} at {s.region.x}, {s.region.y})")
    reporter.say(
        f"Wrote {out}/ (look at {out}/{PAGE}). Into QuPath: dmmn-qp push {out} --into project.qpproj, or "
        "drag <slide>.geojson onto the open slide"
    )
