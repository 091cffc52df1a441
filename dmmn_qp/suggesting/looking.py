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
from dmmn_qp.folders.model import load_model
from dmmn_qp.folders.predictions import model_of
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.devices import choose_bf16, choose_device
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.forgiving import ForgivingSlide
from dmmn_qp.suggesting.looks import Vectors, annotated_places, distances, scaled, vectors_at
from dmmn_qp.suggesting.slides import PredictedSlide
from dmmn_qp.suggesting.windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """What windows look like.

    Attributes:
        vectors: (windows, numbers), scaled; NaN where that is not known.
        distances: (windows,) how unlike what is annotated they look; NaN where that is not known.
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
    annotated: list[Vectors] = [np.zeros((0, describer.numbers))]
    with reporter.task("looking at tissue", len(windows) + len(places)) as task:
        for slide in slides:
            mine = [i for i, window in enumerate(windows) if window.slide_id == slide.slide_id]
            if mine:
                with reporter.optional(f"how windows of {slide.slide_id} look"), slide.open() as opened:
                    grid = dataset.patch_spec.grid_of(opened.info.mpp, slide.slide_id)
                    found[mine] = vectors_at(describer, opened, grid, (_centre(windows[i]) for i in mine))
                task.advance(len(mine))
        size = dataset.patch_spec.size_px
        for slide_id in dict.fromkeys(place.slide_id for place in places):
            record, mine_here = dataset.record(slide_id), [p for p in places if p.slide_id == slide_id]
            with (
                reporter.optional(f"how what is annotated on {slide_id} looks"),
                ForgivingSlide(dataset.open(record, slides_roots)) as opened,
            ):
                grid = dataset.patch_spec.grid_of(record.mpp, slide_id)
                centres = (((p.x + size / 2) * grid.downsample, (p.y + size / 2) * grid.downsample) for p in mine_here)
                annotated.append(vectors_at(describer, opened, grid, centres))
            task.advance(len(mine_here))
    vectors, known = scaled(found, np.concatenate(annotated))
    return Looks(vectors, distances(vectors, known), by)


def _centre(window: Window) -> tuple[float, float]:
    region = window.region
    return region.x + region.width / 2, region.y + region.height / 2


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
