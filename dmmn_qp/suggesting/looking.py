"""Looks at the tissue of windows and of what is annotated, with what the model sees with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmmn_qp.console import Reporter
from dmmn_qp.errors import DmmnQpError
from dmmn_qp.features.tissue import TissueDescriber
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.folders.model import load_model
from dmmn_qp.folders.predictions import model_of
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.devices import choose_bf16, choose_device, computing
from dmmn_qp.regions import Region
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.specs import PatchGrid
from dmmn_qp.suggesting.looks import Vectors, annotated_places, distances, label_of, scaled, vectors_at
from dmmn_qp.suggesting.slides import PredictedSlide
from dmmn_qp.suggesting.windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What windows look like.

    Attributes:
        vectors: (windows, numbers), scaled; NaN where that is not known.
        distances: (windows,) how unlike what is annotated as their class they look; NaN where that is not known.
        by: What looked, in words.
    """

    vectors: Vectors
    distances: NDArray[np.float64]
    by: str


def look_at(
    slides: Sequence[PredictedSlide],
    windows: Sequence[Window],
    dataset: Dataset,
    folders: Sequence[Path],
    model: Path | None,
    reporter: Reporter,
    slides_roots: Sequence[SlidesRoot] = (),
) -> Looks:
    """Looks at windows and at annotated places.

    Args:
        slides: The slides of the windows.
        windows: The windows.
        dataset: What is annotated.
        folders: The folders of predictions, which tell the model.
        model: The model; None for that of the predictions, or for colour alone where it is not there.
        reporter: Where to warn of slides that cannot be read, and to show progress.
        slides_roots: Folders to search for slides that have been moved.
    """
    describer, by = _describer(folders, model, reporter)
    places = annotated_places(dataset.patches())
    found: Vectors = np.full((len(windows), describer.numbers), np.nan)
    annotated: Vectors = np.full((len(places), describer.numbers), np.nan)
    with computing(None), reporter.task("looking at tissue", len(windows) + len(places)) as task:
        for slide in slides:
            mine = [i for i, window in enumerate(windows) if window.slide_id == slide.slide_id]
            if mine:
                with reporter.optional(f"how windows of {slide.slide_id} look"), slide.open() as opened:
                    grid = dataset.patch_spec.grid_of(opened.info.mpp, slide.slide_id)
                    found[mine] = vectors_at(describer, opened, grid, (_centre(windows[i]) for i in mine))
                task.advance(len(mine))
        for slide_id in dict.fromkeys(place.slide_id for place in places):
            mine, record = [i for i, p in enumerate(places) if p.slide_id == slide_id], dataset.record(slide_id)
            with (
                reporter.optional(f"how what is annotated on {slide_id} looks"),
                ForgivingSlide(dataset.open(record, slides_roots)) as opened,
            ):
                grid = dataset.grid(record)
                centres = _centres_of([places[i] for i in mine], dataset, grid)
                annotated[mine] = vectors_at(describer, opened, grid, centres)
            task.advance(len(mine))
    vectors, known = scaled(found, annotated)
    classes = [dataset.class_map.names[label_of(place) - 1] for place in places]
    return Looks(vectors, distances(vectors, [w.main_class for w in windows], known, classes), by)


def _centres_of(places: Sequence[PatchRef], dataset: Dataset, grid: PatchGrid) -> list[tuple[float, float]]:
    """The middle of what each patch of a slide shows of its class, (x, y) in level-0 px."""
    size, found = grid.spec.size_px, []
    with LabelRaster(dataset.mask_path(places[0].slide_id)) as mask:
        for place in places:
            rows, columns = np.nonzero(mask.read(Region(place.x, place.y, size, size)) == label_of(place))
            x, y = (columns.mean(), rows.mean()) if len(rows) else (size / 2, size / 2)
            found.append(((place.x + float(x)) * grid.downsample, (place.y + float(y)) * grid.downsample))
    return found


def _centre(window: Window) -> tuple[float, float]:
    """About where the middle of a window is: on a lattice of half its side, as neighbours look much the same."""
    region, half = window.region, max(window.region.width, window.region.height) / 2
    x, y = region.x + region.width / 2, region.y + region.height / 2
    return round(x / half) * half, round(y / half) * half


def _describer(folders: Sequence[Path], model: Path | None, reporter: Reporter) -> tuple[TissueDescriber, str]:
    """What looks: the encoder of the model where it has one, else colour alone."""
    folder = model or next((found for f in folders if (found := model_of(f)) is not None), None)
    if folder is not None:
        try:
            card, network = load_model(folder)
            device = choose_device("auto")
            describer = TissueDescriber.of_network(
                network.network.to(device), card.input, device, bf16=choose_bf16("auto", device)
            )
            with_encoder = describer.kind != "color"
            return describer, "colour and what the model's encoder sees" if with_encoder else "colour"
        except (DmmnQpError, OSError) as error:
            reporter.warn(f"tissue is compared by its colour alone: {error}")
    return TissueDescriber(InputConvention()), "colour"
