"""Tissue that nobody drew on: where self-training may look, and which cells it may label there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from dmmn_qp.annotations import ORIGINS
from dmmn_qp.features.computing import TILE_PX
from dmmn_qp.features.tissue import covered, tissue_of
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.class_rules import takes_labels_away
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.dmmn_p import CELL_PX
from dmmn_qp.regions import Region
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED
from dmmn_qp.training.cells import CELLS, Place, middles, targets_in
from dmmn_qp.training.examples import open_mask
from dmmn_qp.training.objects import outlines_px

MOST_TISSUE_TILES = 40
"""Tiles without a drawing that are looked at beside those with one, on all slides together."""

_LEAST_TISSUE = 0.3
"""Part of a tile that must be tissue for self-training to look at it."""


def open_cells(
    dataset: Dataset,
    training: Sequence[PatchRef],
    drawn: Sequence[Place],
    rng: np.random.Generator,
    slides_roots: Sequence[SlidesRoot] = (),
) -> dict[Place, NDArray[np.bool_]]:
    """Cells that self-training may label: undrawn tissue of training slides, off `Ignore*` and other splits.

    Args:
        dataset: The dataset.
        training: Its training patches.
        drawn: The tiles with a drawing.
        rng: Source of chance.
        slides_roots: Where to look for slides that have been moved.

    Returns:
        Of each tile that has any: (CELLS, CELLS).
    """
    divided = {patch.slide_id for patch in training if patch.fixed}  # beside areas of other splits
    of_slide: dict[str, list[Place]] = {}
    for place in (*drawn, *_tissue_places(dataset, divided, drawn, rng, slides_roots)):
        of_slide.setdefault(place.slide_id, []).append(place)
    found: dict[Place, NDArray[np.bool_]] = {}
    for slide_id, own in of_slide.items():
        record = dataset.record(slide_id)
        rows, columns = dataset.patch_spec.grid_of(record.mpp, slide_id).shape(record.width, record.height)
        ignored = outlines_px(dataset, slide_id, lambda annotation: takes_labels_away(annotation.class_name))
        targets = [patch for patch in training if patch.slide_id == slide_id]
        with open_mask(dataset, slide_id, tuple(ORIGINS)) as mask:
            for place in own:
                free = middles(mask.read(place.tile)) == UNLABELLED
                y, x = (np.arange(CELLS) * CELL_PX + start for start in (place.tile.y, place.tile.x))
                free &= (y < rows)[:, None] & (x < columns)
                free &= ~_touched(ignored, place.tile)
                if slide_id in divided:
                    free &= targets_in(place.tile, targets, dataset.patch_spec.size_px)
                if free.any():
                    found[place] = free
    return found


def _tissue_places(
    dataset: Dataset,
    divided: Iterable[str],
    drawn: Sequence[Place],
    rng: np.random.Generator,
    slides_roots: Sequence[SlidesRoot],
) -> list[Place]:
    """Tiles of tissue without a drawing, the same number on each training slide as far as it has them."""
    taken = set(drawn)
    slides = list(dict.fromkeys(place.slide_id for place in drawn))
    chosen: list[Place] = []
    for i, slide_id in enumerate(slides):
        if slide_id in divided:
            continue
        record = dataset.record(slide_id)
        grid = dataset.patch_spec.grid_of(record.mpp, slide_id)
        rows, columns = grid.shape(record.width, record.height)
        with dataset.open(record, slides_roots) as slide:
            tissue, downsample = tissue_of(slide)
        scale = downsample / grid.downsample  # grid px per pixel of the mask
        tops, lefts = (np.arange(0, length, TILE_PX) / scale for length in (rows, columns))
        part = covered(tissue, tops, lefts, TILE_PX / scale, TILE_PX / scale)
        tiles = np.argwhere(part >= _LEAST_TISSUE) * TILE_PX
        places = [Place(slide_id, Region(int(x), int(y), TILE_PX, TILE_PX)) for y, x in tiles]
        places = [place for place in places if place not in taken]
        share = (MOST_TISSUE_TILES - len(chosen)) // (len(slides) - i)
        order = rng.permutation(len(places))[:share]
        chosen += [places[k] for k in np.sort(order)]
    return chosen


def _touched(areas: Sequence[BaseGeometry], tile: Region) -> NDArray[np.bool_]:
    """Which cells of a tile areas given in grid px touch."""
    near = [area for area in areas if area.intersects(shapely.box(tile.x, tile.y, tile.right, tile.bottom))]
    if not near:
        return np.zeros((CELLS, CELLS), np.bool_)
    frame = Affine(CELL_PX, 0, tile.x, 0, CELL_PX, tile.y)
    touched: NDArray[np.bool_] = rasterize(near, (CELLS, CELLS), transform=frame, all_touched=True, dtype=np.uint8) > 0
    return touched
