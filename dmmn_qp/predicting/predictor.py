"""A model ready to predict: on its device, in its precision, with its batch and its way of seeing context."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Final

import torch

from dmmn_qp.choices import Context
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.model import ModelCard, load_model
from dmmn_qp.networks.blocks import LEVELS
from dmmn_qp.networks.devices import choose_bf16, choose_devices
from dmmn_qp.networks.padding import pad_with
from dmmn_qp.networks.stem import Stemmed, TakesMargins
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.overlapping import Layout
from dmmn_qp.regions import Region
from dmmn_qp.specs import PatchGrid, PatchSpec

CPU_BATCH: Final = 4
LARGEST_BATCH: Final = 64

WIDER: Final = 3
"""So many times wider than high is a block of overlapping targets."""

BYTES_PER_VALUE: Final = 4
VALUES_PER_PIXEL: Final = 8
"""Values that a forward pass holds at its peak for each pixel of the finest image and channel of the base width."""

LARGEST_SUM_BYTES: Final = 2**28
"""Probabilities of a block that are summed over turned copies may take so much."""


@dataclass(slots=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        card: Its card.
        network: In evaluation mode, on the device.
        device: Where to compute.
        bf16: Whether in bf16.
        batch_size: Targets per forward pass; halved for good where the device's memory does not suffice.
        context: How targets see what is around them: ``patch``, ``blended``, ``shared``, ``shared-coarsest`` or
            ``seamless``, see `choose_context`.
        probabilities: Whether probabilities are wanted.
        uncertainty: Whether the entropy is wanted.
        views: Turned and mirrored copies over which the mean is taken: a key of `VIEWS`.
    """

    card: ModelCard
    network: Stemmed
    device: torch.device
    bf16: bool = False
    batch_size: int = CPU_BATCH
    context: Context = "patch"
    probabilities: bool = False
    uncertainty: bool = False
    views: int = 1

    @property
    def turned(self) -> bool:
        """Whether a mean over copies is taken."""
        return self.views > 1

    @property
    def shared(self) -> range:
        """The magnifications whose maps the targets of a block share."""
        coarser = range(1, self.network.used)
        if self.context == "shared" or (self.context == "blended" and _shares_well(self.network, self.card.patch_spec)):
            return coarser
        return coarser[-1:] if self.context == "shared-coarsest" else coarser[:0]

    @property
    def takes_any_block(self) -> bool:
        """Whether a part of a block may be predicted without the rest, as what it sees does not end with the block."""
        return self.context == "blocks"

    @property
    def block_targets(self) -> int:
        """Rows of a block in targets: what is read, predicted and written at a time.

        Shared maps must fit into memory, and better into a processor's caches; the halo of a seamless block costs less
        the larger the block is.
        """
        side = 8
        if self.context in ("shared", "shared-coarsest"):
            side = 8 if self.device.type == "cuda" else 4
        elif self.context == "seamless":
            side = {1: 4, 2: 8}.get(self.network.factor, 12)
        size = self.card.patch_spec.size_px
        return max(1, min(side, isqrt(LARGEST_SUM_BYTES // (len(self.card.class_map) * size**2 * BYTES_PER_VALUE))))

    @property
    def block_columns(self) -> int:
        """Columns of a block in targets. Overlapping targets on its border are predicted once for each block."""
        return self.block_targets * (WIDER if self.context == "blended" and not self.turned else 1)

    def layout(self, shape: tuple[int, int]) -> Layout | None:
        """Where overlapping targets lie on a slide of (rows, columns) grid px; None where none overlap.

        They start on whole pixels of every magnification, those that share maps on whole pixels of these, and those
        behind a stem on whole pixels of the network.
        """
        if self.context != "blended":
            return None
        factor, coarsest = self.network.factor, 1 << (self.network.used - 1)
        step = 2 ** (LEVELS - 1) * factor * coarsest if self.shared else max(factor, coarsest)
        return Layout.of(shape, self.card.patch_spec.size_px, step, ahead=factor if factor > 1 else 0)

    def fields(self, grid: PatchGrid, block: Region, layout: Layout | None = None) -> list[Region]:
        """What the network sees around a block: a region of each magnification that it looks at, in its own pixels.

        Args:
            grid: The patch grid on the slide.
            block: The block in grid px.
            layout: Where overlapping targets lie on the slide; None where none overlap.
        """
        used = range(self.network.used)
        if self.context == "blocks":
            network = self.network.network
            assert isinstance(network, TakesMargins)
            return [grid.around(block, m, network.margin_px, network.divisor) for m in used]
        if layout is not None:
            block = layout.around(block)
        if self.context != "seamless":
            return [grid.field(block, m) for m in used]
        assert self.network.halo is not None
        return [
            Region(block.x >> m, block.y >> m, block.width >> m, block.height >> m).grown(self.network.halo)
            for m in used
        ]


def load_predictors(model_folder: Path, options: PredictOptions) -> list[Predictor]:
    """Reads a model and makes it ready on every device that the options ask for, in the same way on each.

    Raises:
        ModelError: The model is missing or damaged, or cannot see its context as asked.
        ConfigError: The device is not there.
    """
    card, network = load_model(model_folder)
    devices = choose_devices(options.device, options.devices)
    context = choose_context(network, card.patch_spec, options.context)
    predictors = []
    for device in devices:
        own = network if len(devices) == 1 else load_model(model_folder)[1]
        predictors.append(make_predictor(card, own, device, context, options))
    return predictors


def make_predictor(
    card: ModelCard, network: Stemmed, device: torch.device, context: Context, options: PredictOptions
) -> Predictor:
    """Makes a network ready on one device; it is moved there.

    Args:
        card: Its card.
        network: The network, in evaluation mode; seamless, its padding is what takes least time.
        device: Where to compute.
        context: How targets see what is around them, as `choose_context` settled it.
        options: How to predict.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if context == "seamless" and network.padding != "zeros":
        pad_with(network, "zeros")  # within the halo nothing that is padded can matter, and zeros take no time
    if options.compile:
        compile_network(network)
    predictor = Predictor(
        card=card,
        network=network,
        device=device,
        bf16=choose_bf16(options.precision, device),
        batch_size=options.batch_size or CPU_BATCH,
        context=context,
        probabilities=options.probabilities,
        uncertainty=options.uncertainty,
        views=options.copies,
    )
    return predictor if options.batch_size else replace(predictor, batch_size=fitting_batch(predictor))


def choose_context(network: Stemmed, spec: PatchSpec, wanted: Context) -> Context:
    """How targets see what is around them; ``auto`` is decided here.

    ``patch`` is the paper: each target with fields of its own, zero-padded at their borders. With ``shared``
    neighbouring targets share the work of the coarser branches: their maps have no border at each target, and differ
    from the paper's by what its zero padding did. ``shared-coarsest`` shares the coarsest alone, whose padding hardly
    reaches the target. ``blended`` lets targets overlap and takes the mean of their logits, weighted less towards
    their borders: every network can, because targets see just what they were trained with. ``seamless`` has no
    border anywhere: the result is that of an infinite canvas.

    ``auto`` is seamless for a network that was trained with its own borders repeated beyond themselves, because it
    does not know where a target ends. Else it shares where a network computes at the resolution of its images. Behind
    a stem zeros reach further, and with them the difference (docs/prediction.md has figures), so that borders of
    targets show: there it blends.

    With ``blocks`` all targets of a block are predicted at once, with a margin of real tissue around them.

    To share, targets must lie on whole pixels of every map, poolings included, of every branch.

    Raises:
        ModelError: The network cannot do what is asked for.
    """
    aligned, shares = _aligned(network, spec), _shares(network, spec)
    borderless = network.halo is not None and aligned and (shares or network.used == 1)
    if wanted in ("shared", "shared-coarsest") and not shares:
        raise ModelError(
            "this model's coarser branches cannot be shared (it has none of their own, or its patches do not fall on "
            "their pixels); pass --context patch"
        )
    if wanted == "seamless" and not borderless:
        raise ModelError(
            "this model cannot predict without borders (its images of different magnifications are one stack, or its "
            "patches do not fall on their pixels); pass --context patch"
        )
    takes_margins = isinstance(network.network, TakesMargins)
    if wanted == "blocks" and not takes_margins:
        raise ModelError(
            "this model predicts one target at a time (blocks are for networks on a pretrained encoder); pass "
            "--context patch"
        )
    if wanted == "auto" and takes_margins:
        return "blocks"
    if wanted == "auto":
        if network.padding == "replicate" and borderless:
            return "seamless"
        if network.factor > 1:
            return "blended"
        return "shared" if shares else "patch"
    return wanted


def _aligned(network: Stemmed, spec: PatchSpec) -> bool:
    """Whether targets lie on whole pixels of every map, poolings included, of every branch."""
    pixel = 2 ** (LEVELS - 1) * network.factor
    return all((spec.size_px >> m) % pixel == 0 for m in range(1, network.used))


def _shares(network: Stemmed, spec: PatchSpec) -> bool:
    """Whether neighbouring targets can share the work of coarser branches."""
    return network.shares_contexts and _aligned(network, spec)


def _shares_well(network: Stemmed, spec: PatchSpec) -> bool:
    """Whether they do so without another answer than the paper's."""
    return network.factor == 1 and _shares(network, spec)


def context_of(card: ModelCard, wanted: Context) -> Context:
    """How a model's targets see what is around them (`choose_context`), known without its weights.

    Raises:
        ModelError: The network cannot do what is asked for.
    """
    with torch.device("meta"):
        return choose_context(card.build(), card.patch_spec, wanted)


def compile_network(network: Stemmed) -> None:
    """Lets torch compile what is called often; the first blocks of each size take longer."""
    for name in ("forward", "coarse_logits", "context", "from_contexts", "decide"):
        setattr(network, name, torch.compile(getattr(network, name), dynamic=False))


def fitting_batch(predictor: Predictor) -> int:
    """Targets per forward pass: few on a processor, where more gain nothing; on a GPU a quarter of its free memory."""
    if predictor.device.type != "cuda":
        return CPU_BATCH
    free, _ = torch.cuda.mem_get_info(predictor.device)
    width = predictor.card.network.width
    value = BYTES_PER_VALUE // 2 if predictor.bf16 else BYTES_PER_VALUE
    per_target = VALUES_PER_PIXEL * width * value * predictor.card.patch_spec.size_px**2 * predictor.network.used
    return max(1, min(LARGEST_BATCH, int(free / 4 / per_target)))
