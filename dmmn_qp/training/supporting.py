"""Whether other annotations support a label: what a head says of an area that was trained on all others.

A head can learn two regions with swapped labels by heart. Then neither model gives them away, but nothing else that
was annotated supports them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dmmn_qp.networks.dmmn_p import CELL_PX
from dmmn_qp.regions import Region
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.training.cells import CELLS, MOST_CELLS, Cells, CellSource, Place
from dmmn_qp.training.comparing import Area
from dmmn_qp.training.head import fit_head

STEPS: Final = 300
PARTS: Final = 3
"""Into so many parts doubtful areas are dealt; each is judged by a head that was trained without it.

Areas of one annotation are in one part: none of them supports another.
"""

MOST_AREAS: Final = 30
"""So many doubtful areas are judged, the largest ones."""

_CELLS_OF_AREA: Final = 2000


def seen_without(
    doubtful: Sequence[Area],
    looked_at: Mapping[Place, LabelArray],
    numbers_at: Callable[[Place], NDArray[np.uint32]],
    source: CellSource,
    n_classes: int,
    width: int,
    seed: int,
    device: torch.device,
) -> list[tuple[Area, float, int]]:
    """Trains heads on all annotations but some doubtful ones, and asks them for those.

    Args:
        doubtful: Areas of training tiles.
        looked_at: Labels of the cells of these tiles.
        numbers_at: Numbers of the annotations of the cells of a tile.
        source: What the encoder makes of them.
        n_classes: Number of classes C.
        width: Width of the head.
        seed: Seed of what is random.
        device: Where to compute.

    Returns:
        Of each area, `MOST_AREAS` at most: the area, the part of it that is right for a head that does not know it, and
        the class that this head takes most of it for.
    """
    areas = sorted(doubtful, key=lambda area: (-area.size_px, area.slide_id, area.bounds_px))[:MOST_AREAS]
    rng = np.random.default_rng(seed)
    others = {place: labels.copy() for place, labels in looked_at.items()}
    numbers = {place: np.zeros((CELLS, CELLS), np.uint8) for place in looked_at}
    for place, labels_there in looked_at.items():
        here = [(i, area) for i, area in enumerate(areas, start=1) if area.slide_id == place.slide_id]
        annotations = numbers_at(place) if here else None
        for number, area in here:
            assert annotations is not None
            cells = _cells_of(area, place, labels_there, annotations)
            if cells is not None:
                numbers[place][cells] = number
                others[place][cells] = UNLABELLED
    known = source.cells(others, n_classes, rng, [MOST_CELLS // n_classes] * n_classes)
    held = {place: values for place, values in numbers.items() if values.any()}
    unknown = source.cells(held, len(areas), rng, [_CELLS_OF_AREA] * len(areas))
    labels = torch.tensor([area.label - 1 for area in areas])
    drawn = {annotation: i for i, annotation in enumerate(dict.fromkeys(map(_annotation_of, areas)))}
    part_of = torch.tensor([drawn[_annotation_of(area)] % PARTS for area in areas])
    found: list[tuple[Area, float, int]] = []
    for part in range(min(PARTS, len(drawn))):
        rest = unknown.of(part_of[unknown.classes] != part)
        learned = known.and_also(Cells(rest.vectors, labels[rest.classes], rest.weights, rest.groups, rest.corrected))
        weights = fit_head(learned, None, n_classes, width, seed=seed, device=device, steps=STEPS).weights
        first, bias, last, last_bias = weights
        for number in torch.nonzero(part_of == part)[:, 0].tolist():
            vectors = unknown.vectors[unknown.classes == number].float()
            if len(vectors):
                seen = (torch.relu(vectors @ first.T + bias) @ last.T + last_bias).argmax(1)
                counts = torch.bincount(seen, minlength=n_classes)
                right = float(counts[labels[number]]) / len(vectors)
                found.append((areas[number], right, int(counts.argmax()) + 1))
    return found


def _annotation_of(area: Area) -> tuple[object, ...]:
    """What tells the annotation that an area is a part of; an area of none is one for itself."""
    return area.slide_id, area.label, area.annotation or area.bounds_px


def _cells_of(
    area: Area, place: Place, labels: LabelArray, annotations: NDArray[np.uint32]
) -> tuple[np.ndarray, ...] | None:
    """Rows and columns of the cells of an area in a tile; None where it is not in it."""
    left, top, right, bottom = area.bounds_px
    inside = Region(left, top, right - left, bottom - top).intersection(place.tile)
    if inside is None:
        return None
    rows, columns = (
        slice((start - corner) // CELL_PX, (end - corner) // CELL_PX)
        for start, end, corner in (
            (inside.y, inside.bottom, place.tile.y),
            (inside.x, inside.right, place.tile.x),
        )
    )
    own = np.zeros(labels.shape, np.bool_)
    own[rows, columns] = (labels[rows, columns] == area.label) & (annotations[rows, columns] == area.annotation)
    return np.nonzero(own)
