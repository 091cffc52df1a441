"""Patches of a dataset as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler

from dmmn_qp.annotations import ORIGINS, Origin
from dmmn_qp.choices import Beyond, Reduction
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.labels.draws import Draw
from dmmn_qp.labels.patches import PatchRef
from dmmn_qp.regions import Region
from dmmn_qp.slides.cached import DEFAULT_BUDGET_BYTES, CachedFields, CachedTiles, TileBudget, tiles_bytes
from dmmn_qp.slides.finding import SlidesRoot
from dmmn_qp.slides.on_demand import OnDemand, SlideOnDemand
from dmmn_qp.specs import UNLABELLED, LabelArray, PatchGrid
from dmmn_qp.training.augment import Augmentation, AugmentRules
from dmmn_qp.training.augment.on_device import DrawnChange, augment_on_device, wide_margin_px


class Example(NamedTuple):
    """One patch, or a batch of them with a leading B.

    Attributes:
        images: (M, 3, S, S) uint8 RGB, finest magnification first.
        targets: (T, S, S) uint8 labels of the finest T magnifications, 0 = unlabelled.
    """

    images: Tensor
    targets: Tensor


class WideExample(NamedTuple):
    """A patch with its surroundings, to be changed on a device; or a batch of them.

    Attributes:
        images: (M, 3, W, W) uint8 RGB about the patch's centre, W = S + 2 `wide_margin_px`.
        targets: (T, W, W) uint8 labels of the finest T magnifications.
        change: What is to be done with them.
    """

    images: Tensor
    targets: Tensor
    change: DrawnChange


class _OpenSlide(NamedTuple):
    """A slide in use: its fields and labels, its grid, and the (rows, columns) of its mask."""

    fields: CachedFields
    labels: CachedTiles
    grid: PatchGrid
    shape: tuple[int, int]


class PatchExamples(TorchDataset[Example | WideExample]):
    """Reads drawn patches from the slides and masks of a dataset; its index is a `Draw`, not a number.

    Slides are opened on first use, so that each worker process has handles and a cache of its own, and no more of them
    are open than `on_demand` allows. An example depends on its draw alone, not on which worker reads it.

    Args:
        dataset: The dataset.
        patches: The patch index.
        augment: How to turn, deform and recolour; None for validation, which takes patches as they are, or deformed
            where the draw says so.
        jitter_px: How far a target may be moved, in grid pixels; 0 where patches are not augmented.
        targets: Number of magnifications T whose labels are wanted; 1 is that of the target alone.
        wide: Whether to give `WideExample` for `augment_on_device`, which changes them where the network computes.
        slides_roots: Where to look for slides that have been moved.
        reduction: How the model wants lower magnifications made.
        beyond: What it wants to see outside the slide.
        cache_bytes: Most that decoded tiles take in each process.
        origins: Whose labels count; other pixels are unlabelled.
    """

    def __init__(
        self,
        dataset: Dataset,
        patches: Sequence[PatchRef],
        *,
        augment: AugmentRules | None,
        jitter_px: int = 0,
        targets: int = 1,
        wide: bool = False,
        slides_roots: Sequence[SlidesRoot] = (),
        reduction: Reduction = "area",
        beyond: Beyond = "black",
        cache_bytes: int = DEFAULT_BUDGET_BYTES,
        origins: Iterable[Origin] = tuple(ORIGINS),
    ) -> None:
        self._origins = frozenset(origins)
        self._dataset = dataset
        self._patches = patches
        self._augment = augment
        self._jitter_px = jitter_px
        self._targets = targets
        self._wide = wide
        self._slides_roots = tuple(slides_roots)
        self._reduction: Reduction = reduction
        self._beyond: Beyond = beyond
        self._open: dict[str, _OpenSlide] = {}
        self.cache_bytes = cache_bytes
        self._budget = TileBudget(cache_bytes)

    def __getitem__(self, draw: Draw) -> Example | WideExample:
        patch = self._patches[draw.patch]
        slide, labels, grid, shape = self._slide(patch.slide_id)
        rng = np.random.default_rng(draw.seed)
        size, magnifications = grid.spec.size_px, range(len(grid.spec.mpps))
        target = Region(patch.x, patch.y, size, size)
        if self._augment is not None and self._jitter_px and not patch.fixed:
            target = self._moved(target, shape, rng, step=2 ** (len(magnifications) - 1))
        fields = [grid.field(target, m) for m in magnifications]
        change = None
        if self._augment is not None:
            change = Augmentation.draw(rng, self._augment, size, len(magnifications), deformed=draw.deformed)
        elif draw.deformed:
            change = Augmentation.deformation(rng, size, len(magnifications))
        if change is None or self._wide:
            margin = wide_margin_px(size, len(magnifications)) if self._wide else 0
            around = [field.grown(margin) for field in fields]
            images = [slide.read(m, around[m]) for m in magnifications]
            unchanged = _example(images, [labels.read(m, around[m]) for m in range(self._targets)])
            return unchanged if change is None else WideExample(*unchanged, DrawnChange.of(change))
        samplings = [change.warp.sampling(m) for m in magnifications]
        sources = [sampling.source_in(field) for sampling, field in zip(samplings, fields, strict=True)]
        return _example(
            [change.color.apply(samplings[m].sample(slide.read(m, sources[m]))) for m in magnifications],
            [samplings[m].sample(labels.read(m, sources[m]), labels=True) for m in range(self._targets)],
        )

    def tiles_bytes(self) -> int:
        """What all decoded tiles of the patches would take in memory: with so much each is decoded once, per process.

        An estimate from above: every patch is taken as if it were moved, turned and zoomed as far as it may be.
        """
        of_slide: dict[str, list[Region]] = {}
        size = self._dataset.patch_spec.size_px
        for patch in self._patches:
            of_slide.setdefault(patch.slide_id, []).append(Region(patch.x, patch.y, size, size))
        total, magnifications = 0, len(self._dataset.patch_spec.mpps)
        margin = 0 if self._augment is None else wide_margin_px(size, magnifications)
        for slide_id, targets in of_slide.items():
            grid = self._dataset.patch_spec.grid_of(self._dataset.record(slide_id).mpp, slide_id)
            for m in range(magnifications):
                around = margin + -(-self._jitter_px // 2**m)
                seen = [grid.field(target, m).grown(around) for target in targets]
                total += tiles_bytes(seen, bytes_per_px=4 if m < self._targets else 3)
        return total

    def _moved(self, target: Region, shape: tuple[int, int], rng: np.random.Generator, step: int) -> Region:
        """Moves a target by whole pixels of every magnification and keeps it on the slide's grid."""
        reach = self._jitter_px // step
        dx, dy = (int(d) * step for d in rng.integers(-reach, reach + 1, 2))
        rows, columns = shape
        last_x = max(0, columns - target.width) // step * step
        last_y = max(0, rows - target.height) // step * step
        x, y = min(max(target.x + dx, 0), last_x), min(max(target.y + dy, 0), last_y)
        return Region(x, y, target.width, target.height)

    def _slide(self, slide_id: str) -> _OpenSlide:
        if slide_id not in self._open:
            record = self._dataset.record(slide_id)
            slide = SlideOnDemand(partial(self._dataset.open, record, self._slides_roots))
            grid = self._dataset.patch_spec.grid_of(record.mpp, slide_id)
            mask: OnDemand[LabelRaster | _MaskOfOrigins] = OnDemand(
                partial(open_mask, self._dataset, slide_id, self._origins)
            )
            number = 2 * len(self._open)
            with mask.lent() as raster:
                shape = raster.shape
            self._open[slide_id] = _OpenSlide(
                CachedFields(slide, grid, self._budget, number, self._reduction, self._beyond),
                CachedTiles(partial(_labels, mask), self._budget, number + 1),
                grid,
                shape,
            )
        return self._open[slide_id]


def open_mask(dataset: Dataset, slide_id: str, origins: Iterable[Origin]) -> LabelRaster | _MaskOfOrigins:
    """Opens the mask of a slide, of which only the labels of some origins count."""
    mask, recorded, wanted = LabelRaster(dataset.mask_path(slide_id)), dataset.origin_path(slide_id), frozenset(origins)
    if recorded is None or wanted == frozenset(ORIGINS):
        return mask
    return _MaskOfOrigins(mask, LabelRaster(recorded), wanted)


class _MaskOfOrigins:
    """A mask of which only the labels of some origins are given."""

    def __init__(self, mask: LabelRaster, origins: LabelRaster, wanted: Iterable[Origin]) -> None:
        self.shape = mask.shape
        self._mask, self._origins = mask, origins
        self._wanted = np.zeros(256, np.bool_)
        self._wanted[[ORIGINS[origin] for origin in wanted]] = True

    def read(self, region: Region) -> LabelArray:
        """Labels of a window, 0 for those of other origins: (height, width) uint8."""
        labels = self._mask.read(region)
        labels[~self._wanted[self._origins.read(region)]] = UNLABELLED
        return labels

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._mask.__exit__()
        self._origins.__exit__()


def _labels(mask: OnDemand[LabelRaster | _MaskOfOrigins], magnification: int, region: Region) -> LabelArray:
    """Labels of a region given in pixels of a magnification: that of the grid pixel in the middle of each."""
    step = 2**magnification
    with mask.lent() as raster:
        labels = raster.read(Region(region.x * step, region.y * step, region.width * step, region.height * step))
    return labels[step // 2 :: step, step // 2 :: step]


def _example(fields: Sequence[NDArray[np.uint8]], labels: Sequence[NDArray[np.uint8]]) -> Example:
    """Fields of (rows, columns, 3), and their labels, as tensors."""
    return Example(torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(labels)))


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


def augmented(batch: Example | WideExample, size_px: int, device: torch.device) -> Example:
    """A batch as the network is to see it; a wide one is changed on the device."""
    if isinstance(batch, WideExample):
        return Example(*augment_on_device(batch.images, batch.targets, batch.change, size_px, device))
    return batch
