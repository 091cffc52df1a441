"""A slide -> vectors that describe tiles of its tissue: their colour, and what a pretrained encoder sees there."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dmmn_qp.features.domain import COLOR_NUMBERS, ENCODER_NUMBERS, DomainKind, Vectors
from dmmn_qp.networks.conventions import InputConvention, network_input
from dmmn_qp.networks.devices import autocast
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.networks.encoders import PretrainedEncoder
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, overview_downsample, read_field, read_overview
from dmmn_qp.slides.tissue import TISSUE_CHROMA, part_covered, tissue_mask
from dmmn_qp.specs import PatchGrid, PatchSpec

TILES = 24
"""Tiles that a slide is described by, at most."""

SIDE_PX = 256
"""Side of a tile, in px of the magnification that is nearest to `MPP`."""

MPP = 1.0

_STRIDES = (16, 32)
"""Strides of the encoder's maps that are looked at, as far as it has them; else its coarsest."""

_OVERVIEW_PX = 1024
_LEAST_TISSUE = 0.5
"""Part of a tile that must be tissue; where no tile has so much, all with any tissue are taken."""

_LEAST_PIXELS = 64
"""Pixels of tissue that a tile must have."""


@dataclass(frozen=True, slots=True)
class TissueDescriber:
    """Describes slides, as one model sees them.

    Attributes:
        convention: How pixels become its input.
        encoder: A pretrained encoder, in evaluation mode; None for colour alone.
        device: Where that is; None without.
        bf16: Whether it computes in 16 bits.
    """

    convention: InputConvention
    encoder: nn.Module | None = None
    device: torch.device | None = None
    bf16: bool = False

    @classmethod
    def of_network(
        cls, network: nn.Module, convention: InputConvention, device: torch.device, *, bf16: bool
    ) -> TissueDescriber:
        """The describer for a network: with its encoder, where it is built on a pretrained one."""
        encoder = network.encoder if isinstance(network, DmmnP) else None
        return cls(convention, encoder, device, bf16)

    @property
    def kind(self) -> DomainKind:
        """What the vectors hold."""
        return "color" if self.encoder is None else "color and encoder"

    def vectors(self, slide: Slide, grid: PatchGrid) -> Vectors:
        """Describes a slide.

        Args:
            slide: The slide.
            grid: The patch grid on it.

        Returns:
            (tiles, numbers) float64; no tile where there is no tissue.
        """
        magnification = magnification_of(grid.spec)
        found: list[NDArray[np.float64]] = []
        for tile in tissue_tiles(slide, grid, magnification):
            vector = self.vector(slide, grid, tile)
            if vector is not None:
                found.append(vector)
        return np.stack(found) if found else np.zeros((0, COLOR_NUMBERS))

    @property
    def numbers(self) -> int:
        """How many numbers a vector has."""
        return COLOR_NUMBERS + (ENCODER_NUMBERS if self.encoder is not None and self.device is not None else 0)

    def vector(self, slide: Slide, grid: PatchGrid, tile: Region) -> NDArray[np.float64] | None:
        """Describes one tile.

        Args:
            slide: The slide.
            grid: The patch grid on it.
            tile: In px of the magnification of `magnification_of`, at most `SIDE_PX` on each side.

        Returns:
            (`numbers`,) float64; None where there is hardly any tissue.
        """
        pixels = read_field(slide, grid, magnification_of(grid.spec), tile, self.convention.reduction)
        color = color_of(pixels)
        return None if color is None else np.concatenate([color, self._seen(pixels)])

    def _seen(self, pixels: RgbArray) -> NDArray[np.float64]:
        """What the encoder sees of a tile, in `ENCODER_NUMBERS` numbers; none without an encoder."""
        if self.encoder is None or self.device is None:
            return np.zeros(0)
        below, right = (SIDE_PX - side for side in pixels.shape[:2])
        whole = np.pad(pixels, ((0, below), (0, right), (0, 0)), "symmetric")
        image = torch.from_numpy(np.ascontiguousarray(whole)).to(self.device).permute(2, 0, 1)[None]
        kind: PretrainedEncoder = self.encoder  # type: ignore[assignment]
        with torch.inference_mode(), autocast(self.device, self.bf16):
            maps = self.encoder(network_input(image, self.convention).contiguous(memory_format=torch.channels_last))
        wanted = [stride in _STRIDES for stride in kind.strides]
        chosen = [m for m, is_wanted in zip(maps, wanted, strict=True) if is_wanted] or maps[-1:]
        # In double precision on the processor: Apple's GPUs have none.
        means = torch.cat([m[0].float().mean(dim=(1, 2)) for m in chosen]).cpu().double().numpy()
        return np.asarray(means @ projection(len(means)))


def magnification_of(spec: PatchSpec) -> int:
    """Number of the magnification that is nearest to `MPP`, by its ratio to it."""
    return min(range(len(spec.mpps)), key=lambda m: abs(math.log(spec.mpps[m] / MPP)))


def tissue_tiles(slide: Slide, grid: PatchGrid, magnification: int) -> list[Region]:
    """Tiles of tissue, spread over it: the same ones of the same slide, whoever asks.

    Args:
        slide: The slide.
        grid: The patch grid on it.
        magnification: The magnification.

    Returns:
        At most `TILES` regions inside the slide in px of the magnification, `SIDE_PX` on each side where the slide is
        not smaller; neighbours may overlap.
    """
    rows, columns = grid.whole_shape(slide.info.width, slide.info.height, magnification)
    tissue, downsample = tissue_of(slide)
    scale = downsample / grid.downsample_of(magnification)
    height, width = min(rows, SIDE_PX), min(columns, SIDE_PX)
    tops, lefts = _starts(rows, height), _starts(columns, width)
    part = covered(tissue, tops / scale, lefts / scale, height / scale, width / scale)
    places = np.argwhere(part >= _LEAST_TISSUE)
    if not len(places):
        places = np.argwhere(part > 0)
    if not len(places):
        return []
    along = sorted(((int(row), int(column)) for row, column in places), key=lambda place: _z_order(*place))
    chosen = np.unique(np.linspace(0, len(along) - 1, TILES).round().astype(int))
    return [Region(int(lefts[along[k][1]]), int(tops[along[k][0]]), width, height) for k in chosen]


def _starts(length_px: int, side_px: int) -> NDArray[np.int64]:
    """Where about as many tiles start as fit into a length: the outer ones at its ends, a single one amid it."""
    number, free = max(1, round(length_px / side_px)), length_px - side_px
    return np.array([free // 2]) if number == 1 else np.linspace(0, free, number).round().astype(np.int64)


def tissue_of(slide: Slide) -> tuple[NDArray[np.bool_], float]:
    """Where a slide shows tissue: a small mask, and level-0 px per pixel of it."""
    mask = tissue_mask(read_overview(slide, _OVERVIEW_PX))
    return mask, overview_downsample(slide.info, _OVERVIEW_PX)


def covered(
    mask: NDArray[np.bool_], tops: NDArray[np.float64], lefts: NDArray[np.float64], height: float, width: float
) -> NDArray[np.float64]:
    """Part of each tile that a mask covers: (tops, lefts); all in pixels of the mask."""
    rows, columns = mask.shape
    top, left = (starts.astype(np.int64) for starts in (tops, lefts))
    bottom = np.clip((tops + height).astype(np.int64), top + 1, rows)
    right = np.clip((lefts + width).astype(np.int64), left + 1, columns)
    return part_covered(mask, top, bottom, left, right)


def color_of(pixels: RgbArray) -> NDArray[np.float64] | None:
    """Mean and standard deviation of the optical density of a tile's tissue.

    Args:
        pixels: (rows, columns, 3) uint8 RGB.

    Returns:
        (6,) means of red, green and blue, then deviations; None where there is hardly any tissue, which is what has
        colour.
    """
    is_tissue = pixels.max(axis=2) - pixels.min(axis=2) >= TISSUE_CHROMA
    if np.count_nonzero(is_tissue) < _LEAST_PIXELS:
        return None
    density = _DENSITY[pixels[is_tissue]]
    return np.concatenate([density.mean(axis=0), density.std(axis=0)])


_DENSITY = -np.log10((np.arange(256) + 1) / 256)
"""Optical density of each value of a pixel."""


def projection(channels: int) -> NDArray[np.float64]:
    """An orthogonal projection of so many numbers to `ENCODER_NUMBERS`, the same on every machine.

    Its columns span what signs drawn from a hash span, so no generator of random numbers need stay as it is.

    Returns:
        (channels, `ENCODER_NUMBERS`) float64 with orthonormal columns; fewer channels stay as they are, before zeros.
    """
    if channels <= ENCODER_NUMBERS:
        return np.eye(channels, ENCODER_NUMBERS)
    size = channels * ENCODER_NUMBERS
    drawn = np.frombuffer(hashlib.shake_128(b"dmmn-qp training domain").digest(-(-size // 8)), np.uint8)
    signs = np.unpackbits(drawn)[:size].astype(np.float64) * 2 - 1
    q, r = np.linalg.qr(signs.reshape(channels, ENCODER_NUMBERS))
    return np.asarray(q * np.sign(np.diag(r)))  # which of the two signs LAPACK gives is its own affair


def _z_order(row: int, column: int) -> int:
    """Place of a tile on a curve that goes through a square quarter by quarter."""
    return sum((row >> bit & 1) << 2 * bit + 1 | (column >> bit & 1) << 2 * bit for bit in range(20))
