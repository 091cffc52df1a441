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
from dmmn_qp.networks.stem import TakesMargins
from dmmn_qp.networks.tempering import class_chances, logits_of, tempered
from dmmn_qp.networks.views import VIEWS, as_seen, turned_back
from dmmn_qp.predicting.overlapping import Corner, Layout, blended, enlarged_bands, turned
from dmmn_qp.predicting.predictor import Predictor
from dmmn_qp.regions import Region
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
        logits: (C, height, width) float32, those of each class; None unless wanted.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.uint8] | None = None
    entropy: NDArray[np.uint8] | None = None
    logits: NDArray[np.float32] | None = None

    def arrays(self) -> dict[str, NDArray[np.uint8]]:
        """Those of bytes that are not None, by name."""
        named = {
            "probabilities": self.probabilities,
            "entropy": self.entropy,
            "confidence": self.confidence,
            "labels": self.labels,
        }
        return {name: array for name, array in named.items() if array is not None}


def predict_fields(
    fields: Sequence[RgbArray],
    targets: NDArray[np.bool_],
    predictor: Predictor,
    place: tuple[Region, Layout] | None = None,
    *,
    logits: bool = False,
) -> Callable[[], BlockPrediction]:
    """Predicts the targets of a block.

    Args:
        fields: Pixels of its fields (`Predictor.fields`), each (h, w, 3) uint8.
        targets: (rows, columns) of the block's targets, those to predict.
        predictor: The model.
        place: Where the block lies among the overlapping targets of its slide; None where none overlap.
        logits: Whether logits are wanted.

    Returns:
        A function that waits for the device and brings the result; until then a GPU can be given more work.
    """
    canvas = _Canvas.of(targets, predictor.card.patch_spec.size_px, place)
    with torch.inference_mode(), autocast(predictor.device, predictor.bf16):
        pixels = [torch.from_numpy(f).to(predictor.device, non_blocking=True).permute(2, 0, 1)[None] for f in fields]
        block = _Block(predictor, targets.shape, logits=logits)
        if predictor.turned:
            block.put([canvas.offset], _mean_of_turned(pixels, canvas, predictor))
        else:
            for corners, found in _pieces(pixels, canvas, predictor):
                block.put([(canvas.offset[0] + y, canvas.offset[1] + x) for y, x in corners], found)
    return lambda: block.result(targets)


@dataclass(frozen=True, slots=True)
class _Canvas:
    """What is predicted at a time: the block itself, or all that its overlapping targets cover.

    Attributes:
        shape: Its (rows, columns) in grid px.
        corners: (row, column) on it of the targets to predict, in ascending order.
        offset: (row, column) of it in the block.
        overlaps: Whether the targets overlap.
    """

    shape: tuple[int, int]
    corners: list[Corner]
    offset: Corner = (0, 0)
    overlaps: bool = False

    @classmethod
    def of(cls, targets: NDArray[np.bool_], size: int, place: tuple[Region, Layout] | None) -> _Canvas:
        """The canvas of a block with the targets that are wanted."""
        if place is None:
            corners = [(int(row) * size, int(column) * size) for row, column in np.argwhere(targets)]
            return cls((targets.shape[0] * size, targets.shape[1] * size), corners)
        block, layout = place
        around = layout.around(block)
        corners = [(y - around.y, x - around.x) for y, x in layout.corners(block, targets.tolist())]
        offset = around.y - block.y, around.x - block.x
        return cls((around.height, around.width), corners, offset, overlaps=True)

    def turned(self, size: int, quarters: int, *, mirrored: bool) -> _Canvas:
        """The same, mirrored and turned; the offset is lost."""
        shape = self.shape[::-1] if quarters % 2 else self.shape
        corners = turned(self.corners, size, self.shape, quarters, mirrored=mirrored)
        return _Canvas((shape[0], shape[1]), corners, overlaps=self.overlaps)


class _Block:
    """The growing result of a block, on the device."""

    def __init__(self, predictor: Predictor, shape: tuple[int, int], *, logits: bool = False) -> None:
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
        self.logits = zeros(self.classes, rows, columns).float() if logits else None

    def put(self, corners: Sequence[tuple[int, int]], values: Tensor) -> None:
        """Places logits (B, reserved + C, h, w) at B corners, or with ``turned`` probabilities (B, C, h, w).

        What leaves the block is left out.
        """
        self._place(self.labels, corners, predicted_labels(values, self.classes))
        turned, temperature = self.predictor.turned, self.predictor.card.temperature
        if self.logits is not None:
            self._place(self.logits, corners, logits_of(values) if turned else class_logits(values, self.classes))
        if self.confidence is None:
            return
        chances = tempered(values, temperature) if turned else class_chances(values, self.classes, temperature)
        self._place(self.confidence, corners, _as_byte(chances.amax(1)))
        if self.probabilities is not None:
            self._place(self.probabilities, corners, _as_byte(chances))
        if self.entropy is not None:
            entropy = torch.special.entr(chances).sum(1) / log(max(2, self.classes))
            self._place(self.entropy, corners, _as_byte(entropy))

    def _place(self, whole: Tensor, corners: Sequence[tuple[int, int]], parts: Tensor) -> None:
        for (y, x), part in zip(corners, parts, strict=True):
            inside = part[..., max(0, -y) :, max(0, -x) :]
            place = whole[..., max(0, y) : max(0, y + part.shape[-2]), max(0, x) : max(0, x + part.shape[-1])]
            place[:] = inside[..., : place.shape[-2], : place.shape[-1]]

    def result(self, targets: NDArray[np.bool_]) -> BlockPrediction:
        """The result in the machine's memory; nothing where nothing was to be predicted."""
        arrays = [
            None if t is None else t.cpu().numpy()
            for t in (self.labels, self.confidence, self.probabilities, self.entropy, self.logits)
        ]
        if not targets.all():  # what is seamless, turned or overlaps reaches beyond them
            wanted = targets.repeat(self.size, 0).repeat(self.size, 1)
            for array in arrays:
                if array is not None:
                    array[..., ~wanted] = UNLABELLED
        labels, confidence, probabilities, entropy, logits = arrays
        assert labels is not None
        return BlockPrediction(labels, confidence, probabilities, entropy, logits)


def _as_byte(share: Tensor) -> Tensor:
    return (share * 255).round_().clamp_(0, 255).to(torch.uint8)


def _mean_of_turned(pixels: Sequence[Tensor], canvas: _Canvas, predictor: Predictor) -> Tensor:
    """Mean probabilities (1, C, rows, columns) of a canvas over turned and mirrored copies of it."""
    size, classes = predictor.card.patch_spec.size_px, len(predictor.card.class_map)
    summed = torch.zeros(1, classes, *canvas.shape, device=predictor.device)
    views = VIEWS[predictor.views]
    for view in views:
        copy = canvas.turned(size, view.quarters, mirrored=view.mirrored)
        found = torch.zeros(1, classes, *copy.shape, device=predictor.device)
        for corners, logits in _pieces([as_seen(p, view) for p in pixels], copy, predictor):
            chances = class_chances(logits, classes)
            height, width = chances.shape[-2:]
            for i, (y, x) in enumerate(corners):
                found[..., y : y + height, x : x + width] = chances[i]
        summed += turned_back(found, view)
    return summed / len(views)


def _pieces(
    pixels: Sequence[Tensor], canvas: _Canvas, predictor: Predictor
) -> Iterator[tuple[Sequence[Corner], Tensor]]:
    """B (row, column) of pieces of a canvas, in grid px, and their logits (B, reserved + C, rows, columns)."""
    if predictor.context == "blocks":
        network = predictor.network.network
        assert isinstance(network, TakesMargins)
        yield [(0, 0)], network.of_middle([_input(p, predictor) for p in pixels], *canvas.shape)
        return
    if predictor.context == "seamless":
        yield from _seamless(pixels, *canvas.shape, predictor)
        return
    maps = _shared_maps(pixels, predictor)
    if canvas.overlaps:
        yield from _blended(pixels, maps, canvas, predictor)
    else:
        yield from _in_batches(pixels, maps, canvas.corners, predictor)


def _blended(
    pixels: Sequence[Tensor], maps: dict[int, list[Tensor]], canvas: _Canvas, predictor: Predictor
) -> Iterator[tuple[list[Corner], Tensor]]:
    """The mean logits of targets that overlap, in bands as wide as the canvas.

    Behind a stem they are blended before they are enlarged: less work, and what is enlarged has no borders.
    """
    network, size = predictor.network, predictor.card.patch_spec.size_px
    factor = network.factor

    def logits(corners: Sequence[Corner]) -> Iterator[tuple[Sequence[Corner], Tensor]]:
        at_grid = [(y * factor, x * factor) for y, x in corners]
        for some, found in _in_batches(pixels, maps, at_grid, predictor, enlarge=False):
            yield [(y // factor, x // factor) for y, x in some], found

    corners = [(y // factor, x // factor) for y, x in canvas.corners]
    height, width = (side // factor for side in canvas.shape)
    bands = blended(corners, size // factor, width, logits)
    if factor > 1:
        parts = list(bands)
        whole = parts[0][1].new_zeros(1, parts[0][1].shape[1], height, width)
        for top, part in parts:
            whole[..., top : top + part.shape[-2], :] = part
        whole = whole.contiguous(memory_format=torch.channels_last)
        bands = enlarged_bands(whole, factor, size // factor, network.enlarge)
    for top, band in bands:
        yield [(top, 0)], band.contiguous(memory_format=torch.channels_last)  # classes are compared much faster so


def _in_batches(
    pixels: Sequence[Tensor],
    maps: dict[int, list[Tensor]],
    corners: Sequence[Corner],
    predictor: Predictor,
    *,
    enlarge: bool = True,
) -> Iterator[tuple[Sequence[Corner], Tensor]]:
    """Some targets at a time, as many as the memory takes, and their logits: `_of_targets`."""
    while corners:
        batch = predictor.batch_size
        try:
            logits = _of_targets(pixels, maps, corners[:batch], predictor, enlarge=enlarge)
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
    return {m: predictor.network.context(m, _input(pixels[m], predictor)) for m in predictor.shared}


def _of_targets(
    pixels: Sequence[Tensor],
    maps: dict[int, list[Tensor]],
    corners: Sequence[tuple[int, int]],
    predictor: Predictor,
    *,
    enlarge: bool = True,
) -> Tensor:
    """Logits (B, reserved + C, S, S) of the targets at the given (row, column) of a block, in grid px.

    Without ``enlarge`` they have the network's resolution.
    """
    size, network = predictor.card.patch_spec.size_px, predictor.network

    def own(m: int) -> Tensor:
        cut = [pixels[m][..., y >> m : (y >> m) + size, x >> m : (x >> m) + size] for y, x in corners]
        return _input(torch.cat(cut), predictor)

    if not maps:
        images = [own(m) for m in range(network.used)]
        logits: Tensor = network(images) if enlarge else network.coarse_logits(images)
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


def _seamless(
    pixels: Sequence[Tensor], height: int, width: int, predictor: Predictor
) -> Iterator[tuple[list[Corner], Tensor]]:
    """Logits of a block of (height, width) grid px as a piece of an infinite canvas, in bands as wide as the block."""
    network, factor = predictor.network, predictor.network.factor
    coarse = _without_borders(pixels, height, width, predictor)
    if factor == 1:
        yield [(0, 0)], coarse
        return
    rows = predictor.card.patch_spec.size_px // factor
    for top in range(0, height // factor, rows):
        large = network.enlarge(coarse[..., top : top + rows + 2, :])
        yield [(top * factor, 0)], large[..., factor:-factor, factor:-factor]


def _without_borders(pixels: Sequence[Tensor], height: int, width: int, predictor: Predictor) -> Tensor:
    """Logits of a block at the network's resolution; behind a stem with a pixel around it, on which others depend."""
    network = predictor.network
    halo, factor = network.halo, network.factor
    assert halo is not None
    logits = network.decide([_behind_stem(image, m, predictor) for m, image in enumerate(pixels)])
    beyond = min(factor - 1, 1)
    start = halo // factor - beyond
    rows, columns = height // factor + 2 * beyond, width // factor + 2 * beyond
    part = logits[..., start : start + rows, start : start + columns]
    return part.contiguous(memory_format=torch.channels_last)  # classes are compared much faster so


def _behind_stem(pixels: Tensor, m: int, predictor: Predictor) -> Tensor:
    """What a wide field of magnification ``m`` is behind its stem, made in bands, which take little memory.

    An output depends on pixels of the output row above, not on those of the one below.
    """
    network, factor = predictor.network, predictor.network.factor
    if factor == 1:
        return _input(pixels, predictor)
    height, bands = predictor.card.patch_spec.size_px, []
    for top in range(0, pixels.shape[-2], height):
        above = min(top, factor)
        band = network.stems[m](_input(pixels[..., top - above : top + height, :], predictor))
        bands.append(band[..., above // factor :, :])
    return torch.cat(bands, 2)


def _input(pixels: Tensor, predictor: Predictor) -> Tensor:
    """Pixels (B, 3, h, w) uint8 on the device as the network takes them: float32, channels last."""
    return network_input(pixels, predictor.card.input).contiguous(memory_format=torch.channels_last)
