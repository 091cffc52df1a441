"""The files of an evaluation for people: the page, and the worst regions for QuPath."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import shapely

from dmmn_qp.annotations import Annotation
from dmmn_qp.console import Reporter
from dmmn_qp.errors import SlideError
from dmmn_qp.evaluating.worst import meeting_of, with_worst_regions
from dmmn_qp.files.failures import naming
from dmmn_qp.files.renaming import remove
from dmmn_qp.folders.counted_labels import CountedLabels, LabelOpener
from dmmn_qp.folders.evaluation import (
    NOT_PREDICTED,
    WORST_REGIONS,
    WORST_REGIONS_FOLDER,
    EvaluatedSlide,
    Evaluation,
    LabelSource,
    PredictedLabelSource,
    TruthDescription,
    WorstRegion,
)
from dmmn_qp.folders.predicted_image import view_of_image
from dmmn_qp.labels.meeting import Meeting
from dmmn_qp.qupath.classes import QUPATH_COLORS
from dmmn_qp.qupath.geojson_writer import write_geojson
from dmmn_qp.qupath.marks import METADATA_KEY, SUGGESTION_CLASS, SUGGESTION_MARK, SUGGESTION_RANK, suggestion_id
from dmmn_qp.regions import Region
from dmmn_qp.reports.evaluation_pictures import SlideDrawer, Tile, draw_region
from dmmn_qp.reports.evaluation_report import PAGE, PagePictures, write_page
from dmmn_qp.reports.evaluation_words import main_truth
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.specs import PatchGrid, PatchSpec
from dmmn_qp.text import shorten

_MOST_SLIDES: Final = 40
"""Slides that are shown with pictures, so that the page stays small enough to open; the others are in the table."""

_MOST_REGIONS: Final = 24
"""The same for regions, of all models together."""

_FEWEST_REGIONS: Final = 3
_LONGEST_NAME: Final = 40


def write_evaluation_page(
    evaluation: Evaluation,
    folder: Path,
    reporter: Reporter,
    *,
    spec: PatchSpec,
    slides_roots: Sequence[SlidesRoot] = (),
    opener: LabelOpener | None = None,
) -> Evaluation:
    """Writes `evaluation.html` and `worst_regions.geojson`; what cannot be drawn is left out with a warning.

    Args:
        evaluation: The evaluation.
        folder: Where it is.
        reporter: Where to warn.
        spec: How large a target is, and what a network sees of it.
        slides_roots: Folders to search for slides that have been moved.
        opener: Opens the labels, where some are no rasters or not all of them count.

    Returns:
        The evaluation with its worst regions.
    """
    opener = opener or LabelOpener()
    with reporter.optional(WORST_REGIONS):
        evaluation = with_worst_regions(evaluation, spec, opener)
        write_worst_regions(evaluation, folder)
    with reporter.optional("the page of the evaluation"):
        write_page(folder, evaluation, _drawn(evaluation, spec, opener, slides_roots, reporter))
    return evaluation


def write_worst_regions(evaluation: Evaluation, folder: Path) -> None:
    """Writes the worst regions of all slides, and where there are several, of each slide besides.

    Args:
        evaluation: The evaluation.
        folder: Where it is.
    """
    several = len(evaluation.models) > 1
    found: dict[str, list[Annotation]] = {slide.slide_id: [] for slide in evaluation.slides}
    ranked = sorted(
        ((rank, model.name, r) for model in evaluation.models for rank, r in enumerate(model.worst, start=1)),
        key=lambda item: item[0],
    )
    annotations = []
    for rank, model, region in ranked:
        annotation = _annotation(evaluation.slide(region.slide_id), region, rank, model if several else None)
        if annotation is not None:
            annotations.append(annotation)
            found[region.slide_id].append(annotation)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_geojson(folder / WORST_REGIONS, annotations)
        for stale in (folder / WORST_REGIONS_FOLDER).glob("*.geojson"):
            remove(stale)
        if len(evaluation.slides) > 1:
            (folder / WORST_REGIONS_FOLDER).mkdir(exist_ok=True)
            for slide_id, of_slide in found.items():
                write_geojson(folder / WORST_REGIONS_FOLDER / f"{slide_id}.geojson", of_slide)


def _annotation(slide: EvaluatedSlide, r: WorstRegion, rank: int, model: str | None) -> Annotation | None:
    """A region as QuPath shows it, cut at the slide's border: an outline of ours that is no prediction and no label."""
    image = slide.image
    right, bottom = r.x_px + r.width_px, r.y_px + r.height_px
    if image is not None:
        right, bottom = min(right, image.width or right), min(bottom, image.height or bottom)
    if right <= r.x_px or bottom <= r.y_px:
        return None
    true = shorten(r.true, _LONGEST_NAME)
    found = "without a prediction" if r.predicted == NOT_PREDICTED else f"as {shorten(r.predicted, _LONGEST_NAME)}"
    by = "" if model is None else f" by {shorten(model, _LONGEST_NAME)}"
    content = f"{slide.slide_id if image is None else image.fingerprint}/{model}/{r.x_px},{r.y_px}"
    return Annotation(
        shapely.box(r.x_px, r.y_px, right, bottom),
        class_name=SUGGESTION_CLASS,
        class_color=QUPATH_COLORS[SUGGESTION_CLASS],
        annotation_id=suggestion_id(f"worst/{content}"),
        name=f"{rank:02d}. {true} {found}{by} ({shorten(slide.slide_id, _LONGEST_NAME)})",
        measurements={
            SUGGESTION_RANK: rank,
            "Wrong mm^2": round(r.wrong_mm2, 6),
            "Wrong share": round(r.wrong_pixels / max(1, r.pixels), 4),
        },
        metadata={METADATA_KEY: SUGGESTION_MARK},
    )


def _drawn(
    evaluation: Evaluation,
    spec: PatchSpec,
    opener: LabelOpener,
    slides_roots: Sequence[SlidesRoot],
    reporter: Reporter,
) -> PagePictures:
    """All pictures; each slide is opened once."""
    truth = main_truth(evaluation)
    drawer = _Drawer(evaluation, truth, spec, opener)
    slides: dict[str, tuple[Sequence[Tile], dict[int, Sequence[Tile]]]] = {}
    regions: dict[tuple[int, int], Sequence[Tile]] = {}
    size_px: dict[str, tuple[int, int]] = {}
    shown = _shown_slides(evaluation, truth)
    for slide in evaluation.slides:
        if slide.slide_id not in shown and not drawer.has_regions(slide.slide_id):
            continue
        with (
            reporter.optional(f'the pictures of slide "{slide.slide_id}"'),
            _opened(slide, slides_roots, reporter) as opened,
        ):
            if opened is not None:
                size_px[slide.slide_id] = (opened.info.width, opened.info.height)
            if slide.slide_id in shown and (pictures := drawer.slide(slide.slide_id, opened)) is not None:
                slides[slide.slide_id] = pictures
            regions |= drawer.regions(slide.slide_id, opened)
    return PagePictures(slides, regions, size_px)


def _shown_slides(evaluation: Evaluation, truth: TruthDescription) -> set[str]:
    """The slides that are shown with pictures; of too many those of the lowest mIoU."""
    lowest: dict[str, float] = {}
    for model in evaluation.models:
        for s in figures.slides if (figures := model.of(truth.kind)) else ():
            lowest[s.slide_id] = min(lowest.get(s.slide_id, 1.0), s.figures.mean_iou.value or 0.0)
    ids = [slide.slide_id for slide in evaluation.slides if slide.slide_id in lowest]
    return set(sorted(ids, key=lambda slide_id: lowest[slide_id])[:_MOST_SLIDES])


@contextmanager
def _opened(slide: EvaluatedSlide, slides_roots: Sequence[SlidesRoot], reporter: Reporter) -> Iterator[Slide | None]:
    """A slide, what of it is damaged black; None where it is not found."""
    if slide.image is None:
        yield None
        return
    try:
        mpp = StatedMpp(listed=slide.mpp, listed_by="the evaluation")
        opened = view_of_image(slide.slide_id, slide.image, mpp, slides_roots).open()
    except SlideError as error:
        reporter.say(f"  {PAGE} shows the labels of {slide.slide_id} without its tissue: {error}")
        yield None
        return
    with ForgivingSlide(opened) as forgiving:
        yield forgiving


class _Drawer:
    """Draws slides and regions of an evaluation against one truth."""

    def __init__(self, evaluation: Evaluation, truth: TruthDescription, spec: PatchSpec, opener: LabelOpener) -> None:
        self._opener = opener
        self._evaluation, self._spec, self._title = evaluation, spec, truth.title
        self._truths = {source.slide_id: source for source in truth.rasters}
        models = evaluation.models
        most = max(_FEWEST_REGIONS, _MOST_REGIONS // len(models))
        self._regions = [(n, i, r) for n, model in enumerate(models) for i, r in enumerate(model.worst[:most])]
        self._sources = [{raster.slide_id: raster for raster in model.rasters} for model in models]

    def has_regions(self, slide_id: str) -> bool:
        """Whether a region that is shown lies on a slide."""
        return any(r.slide_id == slide_id for *_, r in self._regions)

    def slide(self, slide_id: str, opened: Slide | None) -> tuple[Sequence[Tile], dict[int, Sequence[Tile]]] | None:
        """Pictures of a slide and its truth, and those of each model; None where there is no truth of it."""
        if slide_id not in self._truths:
            return None
        with self._opener.truth(self._truths[slide_id]) as truth:
            drawer = SlideDrawer(opened, truth, self._evaluation.colors)
        of_models: dict[int, Sequence[Tile]] = {}
        for n, sources in enumerate(self._sources):
            if slide_id in sources:
                with self._predicted(n, sources[slide_id]) as labels:
                    of_models[n] = drawer.predicted(labels, self._meeting(slide_id, sources[slide_id]))
        return (drawer.tissue(), drawer.truth(self._title)), of_models

    def regions(self, slide_id: str, opened: Slide | None) -> dict[tuple[int, int], Sequence[Tile]]:
        """Pictures of a slide's regions."""
        drawn: dict[tuple[int, int], Sequence[Tile]] = {}
        for n, i, region in self._regions:
            source = self._sources[n].get(slide_id)
            if region.slide_id == slide_id and source is not None and slide_id in self._truths:
                drawn[n, i] = self._region(region, opened, self._truths[slide_id], source, n)
        return drawn

    def _region(
        self, r: WorstRegion, opened: Slide | None, truth: LabelSource, source: PredictedLabelSource, number: int
    ) -> list[Tile]:
        scale, side = truth.downsample, self._spec.size_px
        target = Region(round(r.x_px / scale), round(r.y_px / scale), side, side)
        with ExitStack() as stack:
            true = stack.enter_context(self._opener.truth(truth))
            found = stack.enter_context(self._predicted(number, source))
            meeting = self._meeting(r.slide_id, source)
            return draw_region(
                opened, PatchGrid(self._spec, scale), target, true, found, meeting, self._evaluation.colors
            )

    def _predicted(self, number: int, source: PredictedLabelSource) -> CountedLabels:
        return self._opener.predicted(self._evaluation.models[number].predictions, source)

    def _meeting(self, slide_id: str, source: PredictedLabelSource) -> Meeting:
        return meeting_of(self._evaluation, self._truths[slide_id], source)
