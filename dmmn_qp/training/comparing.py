"""What two networks make of the areas that people labelled: the one that a training started from, and what came of it.

An area is what hangs together of one annotation, of one class and of one origin, in one tile or one patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.choices import Split
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.networks.conventions import network_inputs
from dmmn_qp.networks.dmmn_p import CELL_PX, DmmnP
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.regions import Region
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import UNLABELLED, LabelArray
from dmmn_qp.training.cells import CELLS, CellSource, Place, middles, places_of, targets_in
from dmmn_qp.training.examples import EpochDraws, PatchExamples
from dmmn_qp.training.objects import Objects
from dmmn_qp.training.plan import TrainingPlan
from dmmn_qp.training.reading import Batches

MOST_PATCHES = 300
"""Training patches that whole networks are compared on; what was corrected comes first."""

_OF_VALUE: dict[int, Origin] = {value: origin for origin, value in ORIGINS.items()}
_TOUCHING = np.ones((3, 3), np.bool_)


@dataclass(frozen=True, slots=True)
class Area:
    """An area that people labelled, and what two networks make of it.

    Attributes:
        slide_id: The slide.
        split: What the patches that it lies in are for.
        label: Its class.
        origin: Whose word that is.
        bounds_px: Left, top, right and bottom in grid px.
        before: (C,) grid px that the network before predicts as each class.
        after: The same of the network after.
        annotation: Number of the annotation, as `Objects` has it; 0 for none.
    """

    slide_id: str
    split: Split
    label: int
    origin: Origin
    bounds_px: tuple[int, int, int, int]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    annotation: int = 0

    @property
    def middle_px(self) -> tuple[int, int]:
        """(x, y) of its middle in grid px."""
        left, top, right, bottom = self.bounds_px
        return (left + right) // 2, (top + bottom) // 2

    @property
    def size_px(self) -> int:
        """Its labelled grid px."""
        return int(self.before.sum())

    @property
    def right_before(self) -> int:
        """How many of them the network before has right."""
        return int(self.before[self.label - 1])

    @property
    def right_after(self) -> int:
        """How many of them the network after has right."""
        return int(self.after[self.label - 1])


@dataclass(frozen=True, slots=True)
class Networks:
    """The two networks, in evaluation mode on one device.

    Attributes:
        before: The one that the training started from, with outputs for the classes of the dataset.
        after: What is kept.
        new: Labels of classes that the first does not know; it is not asked for them.
    """

    before: Stemmed
    after: Stemmed
    new: tuple[int, ...] = ()

    def labels(self, before: Tensor, after: Tensor) -> tuple[LabelArray, LabelArray]:
        """Logits (C, rows, columns) of both -> labels."""
        if self.new:
            before = before.clone()
            before[[label - 1 for label in self.new]] = -torch.inf
        first, second = ((logits.argmax(0) + 1).to(torch.uint8).cpu().numpy() for logits in (before, after))
        return first, second


def compared_cells(
    dataset: Dataset, plan: TrainingPlan, source: CellSource, looked_at: Mapping[Place, LabelArray], networks: Networks
) -> Iterator[Area]:
    """Compares two heads on what one frozen encoder sees, cell by cell.

    Args:
        dataset: The dataset.
        plan: The training.
        source: What the encoder makes of tiles.
        looked_at: Labels of the cells of the training tiles.
        networks: The networks.

    Yields:
        The areas of these tiles, and of those of the validation patches.
    """
    first, second = networks.before.network, networks.after.network
    assert isinstance(first, DmmnP) and isinstance(second, DmmnP)
    device = first.output.weight.device
    size, n_classes = dataset.patch_spec.size_px, len(dataset.class_map)
    labels: dict[tuple[Place, Split], LabelArray] = {(place, "train"): cells for place, cells in looked_at.items()}
    apart = [patch for patch in plan.validation if patch.split == "val"]
    for place in places_of(apart, size):
        own = [patch for patch in apart if patch.slide_id == place.slide_id]
        with LabelRaster(dataset.mask_path(place.slide_id)) as mask:
            cells = middles(mask.read(place.tile))
        labels[place, "val"] = np.where(targets_in(place.tile, own, size), cells, UNLABELLED).astype(np.uint8)
    places, objects = list(dict.fromkeys(place for place, _ in labels)), Objects(dataset)
    for place, maps in source.seen(places):
        with torch.inference_mode():
            seen = [m.to(device) for m in maps]
            found = networks.labels(*(network.of_cells(seen, CELLS, CELLS)[0] for network in (first, second)))
        origins = middles(_origins(dataset, place.slide_id, place.tile))
        numbers = objects.numbers(place.slide_id, place.tile, CELL_PX)
        corner = place.tile.x, place.tile.y
        for split in ("train", "val"):
            if (place, split) in labels:
                truth = labels[place, split]
                yield from areas_in(truth, origins, numbers, found, n_classes, place.slide_id, split, corner, CELL_PX)


def compared_patches(
    dataset: Dataset,
    plan: TrainingPlan,
    networks: Networks,
    fabric: Fabric,
    slides_roots: Sequence[SlidesRoot],
) -> Iterator[Area]:
    """Compares two networks on validation patches, and on some of the training patches.

    Args:
        dataset: The dataset.
        plan: The training.
        networks: The networks.
        fabric: Device and precision.
        slides_roots: Where to look for slides that have been moved.

    Yields:
        The areas of these patches.
    """
    apart = [patch for patch in plan.validation if patch.split == "val"]
    patches = [*chosen_patches(dataset, plan), *apart]
    examples = PatchExamples(
        dataset,
        patches,
        augment=None,
        slides_roots=slides_roots,
        reduction=plan.convention.reduction,
        beyond=plan.convention.beyond,
    )
    draws = [Draw(i, seed=0) for i in range(len(patches))]
    batches = Batches(examples, EpochDraws(lambda _: draws), plan.options.batch_size, 0)
    remaining, objects = iter(patches), Objects(dataset)
    size, n_classes = dataset.patch_spec.size_px, len(dataset.class_map)
    for batch in batches:
        with torch.inference_mode(), fabric.autocast():
            images = network_inputs(batch.images, plan.convention, fabric.device)
            logits = [network(images).float() for network in (networks.before, networks.after)]
        for target, before, after in zip(batch.targets, *logits, strict=True):
            patch = next(remaining)
            window, truth = Region(patch.x, patch.y, size, size), target[0].numpy()
            origins, numbers = _origins(dataset, patch.slide_id, window), objects.numbers(patch.slide_id, window)
            found, corner = networks.labels(before, after), (patch.x, patch.y)
            yield from areas_in(truth, origins, numbers, found, n_classes, patch.slide_id, patch.split, corner, 1)


def chosen_patches(dataset: Dataset, plan: TrainingPlan) -> list[PatchRef]:
    """Training patches to compare on: corrected ones first, then those of slides with reviewed predictions."""
    order = np.random.default_rng(plan.options.seed).permutation(len(plan.training)).tolist()
    reviewed = {record.slide_id for record in dataset.slides() if dataset.origin_path(record.slide_id) is not None}

    def rank(i: int) -> tuple[bool, bool]:
        patch = plan.training[i]
        return not patch.corrected, patch.slide_id not in reviewed

    return [plan.training[i] for i in sorted(sorted(order, key=rank)[:MOST_PATCHES])]


def areas_in(
    truth: LabelArray,
    origins: LabelArray,
    numbers: NDArray[np.uint32],
    found: tuple[LabelArray, LabelArray],
    n_classes: int,
    slide_id: str,
    split: Split,
    corner_px: tuple[int, int],
    step_px: int,
) -> Iterator[Area]:
    """The areas of a window.

    Args:
        truth: Labels, 0 where there is none.
        origins: Values of `ORIGINS` of the same shape.
        numbers: Of the annotations, of the same shape.
        found: What the network before and that after predict there.
        n_classes: Number of classes C.
        slide_id: The slide.
        split: What it is for.
        corner_px: Corner of the window in grid px.
        step_px: Grid px on a side of an entry.
    """
    combined = np.where(truth == UNLABELLED, 0, (numbers.astype(np.uint64) * 256 + origins) * 256 + truth)
    for value in np.unique(combined[combined > 0]).tolist():
        parts, n_areas = ndimage.label(combined == value, _TOUCHING)
        here = parts > 0
        own = parts[here].astype(np.int64) - 1
        before, after = (
            np.bincount(own * n_classes + labels[here] - 1, minlength=n_areas * n_classes).reshape(n_areas, n_classes)
            for labels in found
        )
        for area, place in enumerate(ndimage.find_objects(parts)):
            (top, bottom), (left, right) = ((part.start * step_px, part.stop * step_px) for part in place)
            bounds = (left + corner_px[0], top + corner_px[1], right + corner_px[0], bottom + corner_px[1])
            counts = before[area] * step_px**2, after[area] * step_px**2
            origin = _OF_VALUE[value // 256 % 256]
            yield Area(slide_id, split, value % 256, origin, bounds, *counts, annotation=value // 256**2)


def _origins(dataset: Dataset, slide_id: str, window: Region) -> LabelArray:
    """Whose word the labels of a window are; all drawn where no raster says it."""
    path = dataset.origin_path(slide_id)
    if path is None:
        return np.full((window.height, window.width), ORIGINS["drawn"], np.uint8)
    with LabelRaster(path) as raster:
        return raster.read(window)
