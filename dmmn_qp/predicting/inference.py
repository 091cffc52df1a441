"""A model and the fields of a block -> what it says of every pixel of the block (paper, section 2.6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmn_qp.choices import Context
from dmmn_qp.errors import ModelError
from dmmn_qp.folders.model import ModelCard, load_model
from dmmn_qp.networks.blocks import LEVELS, even_part
from dmmn_qp.networks.conventions import class_logits, network_input, predicted_labels
from dmmn_qp.networks.devices import autocast, choose_bf16, choose_devices
from dmmn_qp.networks.stem import Stemmed
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray
from dmmn_qp.specs import UNLABELLED, PatchGrid, PatchSpec

CPU_BATCH: Final = 4
LARGEST_BATCH: Final = 64

BYTES_PER_VALUE: Final = 4
VALUES_PER_PIXEL: Final = 8
"""Values that a forward pass holds at its peak for each pixel of the finest image and channel of the base width."""

LARGEST_SUM_BYTES: Final = 2**28
"""Probabilities of a block that are summed over turned copies may take so much."""

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        card: Its card.
        network: In evaluation mode, on the device.
        device: Where to compute.
        bf16: Whether in bf16.
        batch_size: Targets per forward pass; halved for good where the device's memory does not suffice.
        context: How targets see what is around them: ``patch``, ``shared``, ``shared-coarsest`` or ``seamless``, see
            `choose_context`.
        probabilities: Whether probabilities are wanted.
        uncertainty: Whether the entropy is wanted.
        turned: Whether the mean over the eight turned and mirrored copies is taken.
    """

    card: ModelCard
    network: Stemmed
    device: torch.device
    bf16: bool = False
    batch_size: int = CPU_BATCH
    context: Context = "patch"
    probabilities: bool = False
    uncertainty: bool = False
    turned: bool = False

    @property
    def block_targets(self) -> int:
        """Side of a block in targets: what is read, predicted and written at a time.

        Shared maps must fit into memory, and better into a processor's caches; the halo of a seamless block costs less
        the larger the block is.
        """
        side = 8
        if self.context in ("shared", "shared-coarsest"):
            side = 8 if self.device.type == "cuda" else 4
        elif self.context == "seamless":
            side = 4 if self.network.factor == 1 else 8
        size = self.card.patch_spec.size_px
        while side > 1 and len(self.card.class_map) * (side * size) ** 2 * BYTES_PER_VALUE > LARGEST_SUM_BYTES:
            side //= 2
        return side

    def fields(self, grid: PatchGrid, block: Region) -> list[Region]:
        """What the network sees around a block: a region of each magnification that it looks at, in its own pixels."""
        used = range(self.network.used)
        if self.context != "seamless":
            return [grid.field(block, m) for m in used]
        assert self.network.halo is not None
        return [
            Region(block.x >> m, block.y >> m, block.width >> m, block.height >> m).grown(self.network.halo)
            for m in used
        ]


@dataclass(frozen=True, slots=True)
class BlockPrediction:
    """What a model says of a block, each (block.height, block.width) uint8.

    Attributes:
        labels: 1 .. C; 0 where nothing was predicted.
        confidence: Probability of the predicted class, 255 is 1; None unless probabilities or entropy are wanted.
        probabilities: (C, height, width), that of each class; None unless wanted.
        entropy: Entropy of the probabilities, 255 is log C; None unless wanted.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.uint8] | None = None
    entropy: NDArray[np.uint8] | None = None

    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """Those that there are, by name."""
        named = {
            "probabilities": self.probabilities,
            "entropy": self.entropy,
            "confidence": self.confidence,
            "labels": self.labels,
        }
        return {name: array for name, array in named.items() if array is not None}


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
        network: The network, in evaluation mode.
        device: Where to compute.
        context: How targets see what is around them, as `choose_context` settled it.
        options: How to predict.
    """
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        turned=options.tta,
    )
    return predictor if options.batch_size else replace(predictor, batch_size=fitting_batch(predictor))


def choose_context(network: Stemmed, spec: PatchSpec, wanted: Context) -> Context:
    """How targets see what is around them; ``auto`` is decided here.

    ``patch`` is the paper: each target with fields of its own, zero-padded at their borders. With ``shared``
    neighbouring targets share the work of the coarser branches: their maps have no border at each target, and differ
    from the paper's by what its zero padding did. ``shared-coarsest`` shares the coarsest alone, whose padding hardly
    reaches the target. ``seamless`` has no border anywhere: the result is that of an infinite canvas.

    ``auto`` shares where a network computes at the resolution of its images. Behind a stem the padding reaches
    further, and with it the difference (docs/prediction.md has figures).

    To share, targets must lie on whole pixels of every map, poolings included, of every branch.

    Raises:
        ModelError: The network cannot do what is asked for.
    """
    pixel = 2 ** (LEVELS - 1) * network.factor
    aligned = all((spec.size_px >> m) % pixel == 0 for m in range(1, network.used))
    shares = network.shares_contexts and aligned
    if wanted in ("shared", "shared-coarsest") and not shares:
        raise ModelError(
            "this model's coarser branches cannot be shared (it has none of their own, or its patches do not fall on "
            "their pixels); pass --context patch"
        )
    if wanted == "seamless" and not (network.halo is not None and aligned and (shares or network.used == 1)):
        raise ModelError(
            "this model cannot predict without borders (its images of different magnifications are one stack, or its "
            "patches do not fall on their pixels); pass --context patch"
        )
    if wanted == "auto":
        return "shared" if shares and network.factor == 1 else "patch"
    return wanted


def context_of(card: ModelCard, wanted: Context) -> Context:
    """How a model's targets see what is around them (`choose_context`), known without its weights.

    Raises:
        ModelError: The network cannot do what is asked for.
    """
    with torch.device("meta"):
        return choose_context(card.build(), card.patch_spec, wanted)


def compile_network(network: Stemmed) -> None:
    """Lets torch compile what is called often; the first blocks of each size take longer."""
    for name in ("forward", "context", "from_contexts"):
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


def predict_fields(
    fields: Sequence[RgbArray], targets: NDArray[np.bool_], predictor: Predictor
) -> Callable[[], BlockPrediction]:
    """Predicts the targets of a block.

    Args:
        fields: Pixels of its fields (`Predictor.fields`), each (h, w, 3) uint8.
        targets: (rows, columns) of the block's targets, those to predict.
        predictor: The model.

    Returns:
        A function that waits for the device and brings the result; until then a GPU can be given more work.
    """
    with torch.inference_mode(), autocast(predictor.device, predictor.bf16):
        pixels = [torch.from_numpy(f).to(predictor.device, non_blocking=True).permute(2, 0, 1)[None] for f in fields]
        block = _Block(predictor, targets.shape)
        if predictor.turned:
            block.put([(0, 0)], _mean_of_turned(pixels, targets, predictor))
        else:
            for corners, logits in _pieces(pixels, targets, predictor):
                block.put(corners, logits)
    return lambda: block.result(targets)


class _Block:
    """The growing result of a block, on the device."""

    def __init__(self, predictor: Predictor, shape: tuple[int, int]) -> None:
        self.predictor = predictor
        self.size = predictor.card.patch_spec.size_px
        self.classes = len(predictor.card.class_map)
        rows, columns = shape[0] * self.size, shape[1] * self.size
        keeps = predictor.probabilities or predictor.uncertainty

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.uint8, device=predictor.device)

        self.labels = zeros(rows, columns)
        self.confidence = zeros(rows, columns) if keeps else None
        self.probabilities = zeros(self.classes, rows, columns) if predictor.probabilities else None
        self.entropy = zeros(rows, columns) if predictor.uncertainty else None

    def put(self, corners: Sequence[tuple[int, int]], values: Tensor) -> None:
        """Places logits (B, reserved + C, h, w) at B corners, or with ``turned`` probabilities (B, C, h, w)."""
        self._place(self.labels, corners, predicted_labels(values, self.classes))
        if self.confidence is None:
            return
        chances = values if self.predictor.turned else class_logits(values, self.classes).float().softmax(1)
        self._place(self.confidence, corners, _as_byte(chances.amax(1)))
        if self.probabilities is not None:
            self._place(self.probabilities, corners, _as_byte(chances))
        if self.entropy is not None:
            entropy = torch.special.entr(chances).sum(1) / log(max(2, self.classes))
            self._place(self.entropy, corners, _as_byte(entropy))

    def _place(self, whole: Tensor, corners: Sequence[tuple[int, int]], parts: Tensor) -> None:
        height, width = parts.shape[-2:]
        for (y, x), part in zip(corners, parts, strict=True):
            whole[..., y : y + height, x : x + width] = part

    def result(self, targets: NDArray[np.bool_]) -> BlockPrediction:
        """The result in the machine's memory; nothing where nothing was to be predicted."""
        arrays = [
            None if t is None else t.cpu().numpy()
            for t in (self.labels, self.confidence, self.probabilities, self.entropy)
        ]
        if not targets.all():  # a seamless or turned block is predicted as a whole
            wanted = targets.repeat(self.size, 0).repeat(self.size, 1)
            for array in arrays:
                if array is not None:
                    array[..., ~wanted] = UNLABELLED
        labels, confidence, probabilities, entropy = arrays
        assert labels is not None
        return BlockPrediction(labels, confidence, probabilities, entropy)


def _as_byte(share: Tensor) -> Tensor:
    return (share * 255).round_().clamp_(0, 255).to(torch.uint8)


def _mean_of_turned(pixels: Sequence[Tensor], targets: NDArray[np.bool_], predictor: Predictor) -> Tensor:
    """Mean probabilities (1, C, h, w) of a block over its eight turned and mirrored copies."""
    size, classes = predictor.card.patch_spec.size_px, len(predictor.card.class_map)
    summed = torch.zeros(1, classes, targets.shape[0] * size, targets.shape[1] * size, device=predictor.device)
    for mirrored in (False, True):
        for quarters in range(4):
            seen = [torch.rot90(p.flip(-1) if mirrored else p, quarters, (-2, -1)) for p in pixels]
            where = np.rot90(targets[:, ::-1] if mirrored else targets, quarters)
            turned = torch.zeros(1, classes, where.shape[0] * size, where.shape[1] * size, device=predictor.device)
            for corners, logits in _pieces(seen, where, predictor):
                chances = class_logits(logits, classes).float().softmax(1)
                height, width = chances.shape[-2:]
                for i, (y, x) in enumerate(corners):
                    turned[..., y : y + height, x : x + width] = chances[i]
            back = torch.rot90(turned, -quarters, (-2, -1))
            summed += back.flip(-1) if mirrored else back
    return summed / 8


def _pieces(
    pixels: Sequence[Tensor], targets: NDArray[np.bool_], predictor: Predictor
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """B (row, column) of pieces of a block, in grid px, and their logits (B, reserved + C, rows, columns)."""
    size = predictor.card.patch_spec.size_px
    if predictor.context == "seamless":
        height, width = targets.shape[0] * size, targets.shape[1] * size
        yield [(0, 0)], _seamless(pixels, height, width, predictor)
        return
    corners = [(int(row) * size, int(column) * size) for row, column in np.argwhere(targets)]
    maps = _shared_maps(pixels, predictor)
    while corners:
        batch = predictor.batch_size
        try:
            logits = _of_targets(pixels, maps, corners[:batch], predictor)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            predictor.batch_size = batch // 2
            _LOG.info("batches of %d targets: memory does not suffice for %d", batch // 2, batch)
            torch.cuda.empty_cache()
            continue
        yield corners[:batch], logits
        corners = corners[batch:]


def _shared_maps(pixels: Sequence[Tensor], predictor: Predictor) -> dict[int, list[Tensor]]:
    """The maps of each branch that the targets of a block share, each (1, channels, h, w)."""
    coarser = range(1, predictor.network.used)
    shared = {"shared": coarser, "shared-coarsest": coarser[-1:]}.get(predictor.context, range(0))
    return {m: predictor.network.context(m, _input(pixels[m], predictor)) for m in shared}


def _of_targets(
    pixels: Sequence[Tensor],
    maps: dict[int, list[Tensor]],
    corners: Sequence[tuple[int, int]],
    predictor: Predictor,
) -> Tensor:
    """Logits (B, reserved + C, S, S) of the targets at some (row, column) of a block, in grid px."""
    size, network = predictor.card.patch_spec.size_px, predictor.network

    def own(m: int) -> Tensor:
        cut = [pixels[m][..., y >> m : (y >> m) + size, x >> m : (x >> m) + size] for y, x in corners]
        return _input(torch.cat(cut), predictor)

    if not maps:
        logits: Tensor = network([own(m) for m in range(network.used)])
        return logits
    contexts = [
        _middles(maps[m], m, pixels[m].shape[-2], corners, size) if m in maps else network.context(m, own(m))
        for m in range(1, network.used)
    ]
    return network.from_contexts(own(0), contexts)


def _middles(
    maps: Sequence[Tensor], m: int, field_px: int, corners: Sequence[tuple[int, int]], size: int
) -> list[Tensor]:
    """Cuts what a target's logits depend on, the middle of its own field, out of the maps of branch ``m``.

    Args:
        maps: (1, channels, h, w) each.
        m: Number of the branch.
        field_px: Rows of the block's field.
        corners: (row, column) of the targets in the block, in grid px.
        size: Side of a target in grid px.
    """
    cut: list[Tensor] = []
    for features in maps:
        pixel = field_px // features.shape[-2]  # field px of a pixel of the map
        side = size // pixel
        needed = min(side, even_part(side, m))
        margin = (side - needed) // 2
        places = [((y >> m) // pixel + margin, (x >> m) // pixel + margin) for y, x in corners]
        cut.append(torch.cat([features[..., y : y + needed, x : x + needed] for y, x in places]))
    return cut


def _seamless(pixels: Sequence[Tensor], height: int, width: int, predictor: Predictor) -> Tensor:
    """Logits (1, reserved + C, height, width) of a block as a piece of an infinite canvas."""
    network = predictor.network
    inputs = [_input(p, predictor) for p in pixels]
    if network.used == 1:
        logits: Tensor = network(inputs)
    else:
        logits = network.from_contexts(inputs[0], [network.context(m, x) for m, x in enumerate(inputs) if m])
    halo = network.halo
    assert halo is not None
    return logits[..., halo : halo + height, halo : halo + width]


def _input(pixels: Tensor, predictor: Predictor) -> Tensor:
    """Pixels (B, 3, h, w) uint8 on the device as the network takes them: float32, channels last."""
    return network_input(pixels, predictor.card.input).contiguous(memory_format=torch.channels_last)
