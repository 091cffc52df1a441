"""Which cells of which tiles teach a network's head, and what the encoder makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmn_qp.features.computing import TILE_PX, FeatureMaps, SeenSlide, tiles_over
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.dmmn_p import CELL_PX, DmmnP
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray

CELLS = TILE_PX // CELL_PX
"""Cells on a side of a tile."""

MOST_CELLS = 60_000
"""Cells that teach, or that choose the number of steps, of all classes together."""

MOST_TILES = 200
"""Tiles of each split that are looked at."""


class Place(NamedTuple):
    """A tile of a slide, in grid px."""

    slide_id: str
    tile: Region


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells with what the encoder makes of them.

    Attributes:
        vectors: (N, D) float16.
        classes: (N,) int64, 0 .. C - 1.
        weights: (N,) float32: how many cells of the class each stands for.
        groups: (N,) int64: number of the slide, or of the tile where there is one slide.
        corrected: (N,) bool: whether a person corrected a prediction there.
    """

    vectors: Tensor
    classes: Tensor
    weights: Tensor
    groups: Tensor
    corrected: Tensor

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, wanted: Tensor) -> Cells:
        """Some of them, by a mask or by number."""
        return Cells(*(values[wanted] for values in self._all()))

    def and_also(self, others: Cells) -> Cells:
        """These, and others behind them."""
        pairs = zip(self._all(), others._all(), strict=True)
        return Cells(*(torch.cat(pair) for pair in pairs))

    def _all(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.vectors, self.classes, self.weights, self.groups, self.corrected


def places_of(patches: Sequence[PatchRef], size_px: int) -> list[Place]:
    """The tiles that patches touch, slide by slide."""
    by_slide: dict[str, list[Region]] = {}
    for patch in patches:
        by_slide.setdefault(patch.slide_id, []).append(Region(patch.x, patch.y, size_px, size_px))
    return [Place(slide_id, tile) for slide_id, regions in by_slide.items() for tile in tiles_over(regions)]


def targets_in(tile: Region, patches: Sequence[PatchRef], size_px: int) -> NDArray[np.bool_]:
    """Which cells of a tile lie in the targets of patches of its slide: (CELLS, CELLS)."""
    inside = np.zeros((CELLS, CELLS), np.bool_)
    for patch in patches:
        part = Region(patch.x, patch.y, size_px, size_px).intersection(tile)
        if part is not None:
            y, x = part.y - tile.y, part.x - tile.x
            inside[y // CELL_PX : -(-(y + part.height) // CELL_PX), x // CELL_PX : -(-(x + part.width) // CELL_PX)] = (
                True
            )
    return inside


def middles(labels: LabelArray) -> LabelArray:
    """Labels of the px of a tile -> those in the middle of its cells: (CELLS, CELLS)."""
    return labels[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]


def chosen_tiles(
    labels: Mapping[Place, LabelArray],
    n_classes: int,
    rng: np.random.Generator,
    most: int = MOST_TILES,
    often: Mapping[Place, float] | None = None,
) -> list[Place]:
    """At most so many tiles: the classes take turns, so that rare ones keep theirs.

    Args:
        labels: Labels of the cells of each tile.
        n_classes: Number of classes C.
        rng: Source of chance.
        most: How many.
        often: How many times as likely as others some tiles are chosen.

    Returns:
        In the order of ``labels``.
    """
    if len(labels) <= most:
        return list(labels)
    places = list(labels)
    holding: list[list[int]] = [[] for _ in range(n_classes)]
    for i in _likely_last(places, often, rng).tolist():
        for label in np.unique(labels[places[i]]).tolist():
            if label != UNLABELLED:
                holding[label - 1].append(i)
    taken: dict[int, None] = {}
    while len(taken) < most and any(holding):
        for queue in holding:
            while queue and queue[-1] in taken:
                queue.pop()
            if queue and len(taken) < most:
                taken[queue.pop()] = None
    return [places[i] for i in sorted(taken)]


def _likely_last(
    places: Sequence[Place], often: Mapping[Place, float] | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """An order at random, in which some are likely to come late."""
    if not often:
        return rng.permutation(len(places))
    keys = rng.random(len(places)) ** (1 / np.array([often.get(place, 1.0) for place in places]))
    return np.argsort(keys)


def picked(
    labels: Mapping[Place, LabelArray],
    n_classes: int,
    rng: np.random.Generator,
    most: Sequence[int],
) -> tuple[dict[Place, NDArray[np.int64]], NDArray[np.float64]]:
    """Chooses cells: of each class at most so many, each as likely as every other.

    Args:
        labels: Labels of the cells of each tile.
        n_classes: Number of classes C.
        rng: Source of chance.
        most: Of each class.

    Returns:
        (N, 2) rows and columns of the cells of each tile, and for each class how many cells each chosen one stands for.
    """
    rows: dict[Place, list[NDArray[np.int64]]] = {place: [] for place in labels}
    stands_for = np.ones(n_classes)
    for c, wanted in enumerate(most):
        found = [np.argwhere(cells == c + 1) for cells in labels.values()]
        ends = np.cumsum([len(cells) for cells in found])
        total = int(ends[-1]) if len(ends) else 0
        numbers = np.arange(total) if total <= wanted else np.sort(rng.choice(total, wanted, replace=False))
        stands_for[c] = total / max(1, len(numbers))
        of_tile = np.split(numbers, np.searchsorted(numbers, ends[:-1]))
        for place, cells, own, end in zip(labels, found, of_tile, ends, strict=True):
            rows[place].append(cells[own - (end - len(cells))])
    return {place: np.concatenate(parts) for place, parts in rows.items()}, stands_for


class CellSource:
    """Gives cells of the slides of a dataset.

    Args:
        maps: What the encoder makes of tiles.
        network: The network whose vectors are wanted.
        slides: The slides by id.
    """

    def __init__(self, maps: FeatureMaps, network: DmmnP, slides: Mapping[str, SeenSlide]) -> None:
        self.maps = maps
        self.network = network
        self._slides = slides
        self._numbers = {slide_id: i for i, slide_id in enumerate(slides)}

    def seen(
        self, places: Sequence[Place], advance: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Place, list[Tensor]]]:
        """Yields places with the maps of their tiles, slide by slide."""
        by_slide: dict[str, list[Place]] = {}
        for place in places:
            by_slide.setdefault(place.slide_id, []).append(place)
        for slide_id, of_slide in by_slide.items():
            tiles = [place.tile for place in of_slide]
            for place, maps in zip(of_slide, self.maps.of_tiles(self._slides[slide_id], tiles), strict=True):
                yield place, maps
                advance()

    def cells(
        self,
        labels: Mapping[Place, LabelArray],
        n_classes: int,
        rng: np.random.Generator,
        most: Sequence[int],
        advance: Callable[[], None] = lambda: None,
        corrected: Mapping[Place, NDArray[np.bool_]] | None = None,
    ) -> Cells:
        """Chooses cells as `picked` does, and takes what the encoder makes of them.

        Args:
            labels: Labels of the cells of each tile, 0 for none.
            n_classes: Number of classes C.
            rng: Source of chance.
            most: Of each class.
            advance: Told when a tile is done.
            corrected: Where somebody corrected a prediction, of the tiles where anybody did: (CELLS, CELLS).
        """
        chosen, stands_for = picked(labels, n_classes, rng, most)
        one_slide = len({place.slide_id for place in labels}) == 1
        parts: list[Cells] = []
        wanted = [place for place, cells in chosen.items() if len(cells)]
        for number, (place, maps) in enumerate(self.seen(wanted, advance)):
            at = torch.from_numpy(chosen[place])
            classes = torch.from_numpy(labels[place][at[:, 0], at[:, 1]].astype(np.int64) - 1)
            group = number if one_slide else self._numbers[place.slide_id]
            of_person = None if corrected is None else corrected.get(place)
            parts.append(
                Cells(
                    self.network.vectors(maps, at, CELLS, CELLS).half(),
                    classes,
                    torch.from_numpy(stands_for.astype(np.float32))[classes],
                    torch.full((len(at),), group),
                    torch.zeros(len(at), dtype=torch.bool)
                    if of_person is None
                    else torch.from_numpy(of_person[at[:, 0], at[:, 1]]),
                )
            )
        if not parts:
            empty = torch.zeros(0, dtype=torch.int64)
            width = sum(self.network.channels)
            return Cells(torch.zeros(0, width, dtype=torch.float16), empty, torch.zeros(0), empty, empty.bool())
        return Cells(*(torch.cat(values) for values in zip(*(part._all() for part in parts), strict=True)))
