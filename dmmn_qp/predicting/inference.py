"""The fields of a block -> what a model predicts for every pixel of the block (paper, section 2.6)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmmn_qp.networks.blocks import even_part
from dmmn_qp.networks.conventions import class_logits, network_input, predicted_labels
from dmmn_qp.networks.devices import autocast
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.slides.base import RgbArray
from dmmn_qp.specs import UNLABELLED

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockPrediction:
    """What a model predicts for a block, each (block.height, block.width) uint8.

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
        """Those that are not None, by name."""
        named = {
            "probabilities": self.probabilities,
            "entropy": self.entropy,
            "confidence": self.confidence,
            "labels": self.labels,
        }
        return {name: array for name, array in named.items() if array is not None}


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
        if not targets.all():  # some blocks are predicted as a whole
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
    if predictor.context == "blocks":
        height, width = targets.shape[0] * size, targets.shape[1] * size
        logits = predictor.network([_input(p, predictor) for p in pixels])
        top, left = (logits.shape[-2] - height) // 2, (logits.shape[-1] - width) // 2
        yield [(0, 0)], logits[..., top : top + height, left : left + width]
        return
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
    """Logits (B, reserved + C, S, S) of the targets at the given (row, column) of a block, in grid px."""
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
