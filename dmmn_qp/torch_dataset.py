"""Patches of a dataset as tensors."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from dmmn_qp.augment import Augmentation
from dmmn_qp.balance import Draw
from dmmn_qp.choices import Reduction
from dmmn_qp.dataset import Dataset, LabelRaster
from dmmn_qp.patches import PatchRef
from dmmn_qp.rasterize import LabelArray
from dmmn_qp.regions import Region
from dmmn_qp.slides.cached import CachedFields, TileBudget
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.specs import PatchGrid


class Example(NamedTuple):
    """One patch, or a batch of them with a leading B.

    Attributes:
        images: (M, 3, S, S) uint8 RGB, finest magnification first.
        targets: (T, S, S) uint8 labels of the finest T magnifications, 0 = unlabelled.
    """

    images: Tensor
    targets: Tensor


class PatchExamples(TorchDataset[Example]):
    """Reads drawn patches from the slides and masks of a dataset; its index is a `Draw`, not a number.

    Slides are opened on first use, so that each worker process has handles and a cache of its own. An example depends
    on its draw alone, not on which worker reads it.

    Args:
        dataset: The dataset.
        patches: The patch index.
        augment: Whether to move, turn and recolour; validation does not.
        jitter_px: How far a target may be moved, in grid pixels.
        targets: Number of magnifications T whose labels are wanted; 1 is that of the target alone.
        slides_roots: Where to look for slides that have been moved.
        reduction: How the model wants lower magnifications made.
    """

    def __init__(
        self,
        dataset: Dataset,
        patches: Sequence[PatchRef],
        *,
        augment: bool,
        jitter_px: int = 0,
        targets: int = 1,
        slides_roots: Sequence[SlidesRoot] = (),
        reduction: Reduction = "area",
    ) -> None:
        self._dataset = dataset
        self._patches = patches
        self._augment = augment
        self._jitter_px = jitter_px
        self._targets = targets
        self._slides_roots = tuple(slides_roots)
        self._reduction: Reduction = reduction
        self._open: dict[str, tuple[CachedFields, PatchGrid, LabelRaster]] = {}
        self._budget = TileBudget()

    def __getitem__(self, draw: Draw) -> Example:
        patch = self._patches[draw.patch]
        fields_of_slide, grid, mask = self._slide(patch.slide_id)
        rng = np.random.default_rng(draw.seed)
        size = grid.spec.size_px
        target = Region(patch.x, patch.y, size, size)
        if self._augment and self._jitter_px and not patch.fixed:
            target = self._moved(target, mask.shape, rng, step=2 ** (len(grid.spec.mpps) - 1))
        regions = [grid.field(target, m) for m in range(len(grid.spec.mpps))]
        if self._augment:
            change = Augmentation.draw(rng)
            margin = change.margin_px(size)
            wide = [fields_of_slide.read(m, region.grown(margin)) for m, region in enumerate(regions)]
            fields = [change.recolor(change.move(field, size, labels=False)) for field in wide]
            labels = [
                change.move(_labels(mask, region.grown(margin), m), size, labels=True)
                for m, region in enumerate(regions[: self._targets])
            ]
        else:
            fields = [fields_of_slide.read(m, region) for m, region in enumerate(regions)]
            labels = [_labels(mask, region, m) for m, region in enumerate(regions[: self._targets])]
        images = torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2)
        return Example(images, torch.from_numpy(np.stack(labels)))

    def _moved(self, target: Region, shape: tuple[int, int], rng: np.random.Generator, step: int) -> Region:
        """Moves a target by whole pixels of every magnification and keeps it on the slide's grid."""
        reach = self._jitter_px // step
        dx, dy = (int(d) * step for d in rng.integers(-reach, reach + 1, 2))
        rows, columns = shape
        last_x = max(0, columns - target.width) // step * step
        last_y = max(0, rows - target.height) // step * step
        x, y = min(max(target.x + dx, 0), last_x), min(max(target.y + dy, 0), last_y)
        return Region(x, y, target.width, target.height)

    def _slide(self, slide_id: str) -> tuple[CachedFields, PatchGrid, LabelRaster]:
        if slide_id not in self._open:
            record = self._dataset.record(slide_id)
            slide = self._dataset.open(record, self._slides_roots)
            grid = self._dataset.patch_spec.grid_of(record.mpp, slide_id)
            fields = CachedFields(slide, grid, self._budget, len(self._open), self._reduction)
            self._open[slide_id] = fields, grid, LabelRaster(self._dataset.mask_path(slide_id))
        return self._open[slide_id]


def _labels(mask: LabelRaster, region: Region, magnification: int) -> LabelArray:
    """Labels of a region given in pixels of a magnification: that of the grid pixel in the middle of each."""
    step = 2**magnification
    labels = mask.read(Region(region.x * step, region.y * step, region.width * step, region.height * step))
    return np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step])


class EpochDraws(Sampler[Draw]):
    """The draws of one epoch after the other; `start` each before its pass.

    Args:
        draws_of: Number of the epoch -> its draws.
    """

    def __init__(self, draws_of: Callable[[int], Sequence[Draw]]) -> None:
        self._epoch, self._skip = 1, 0
        self._draws_of = draws_of

    def start(self, epoch: int, skip: int = 0) -> None:
        """Chooses the epoch of the next pass, which leaves out its first ``skip`` draws."""
        self._epoch, self._skip = epoch, skip

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws_of(self._epoch)[self._skip :])


def make_loader(examples: PatchExamples, draws: EpochDraws, batch_size: int, workers: int) -> DataLoader[Example]:
    """Batches of examples in the order of the draws; workers live, and keep their caches, over all epochs."""
    return DataLoader(
        examples,
        batch_size=batch_size,
        sampler=draws,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; a worker that died of it would break the step under way."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
