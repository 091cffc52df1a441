"""DMMN-P: one pretrained encoder for all magnifications (not in the paper).

As in DMMN-M3 each magnification is seen by an encoder, and what the coarser ones see is cropped about the target and
enlarged to the finest. Here the encoder is the same for all of them, was trained elsewhere, and its decoder is light:
the maps of all magnifications and strides are laid on each other, and every cell of 4 px is classified by two layers.
The first of them is linear, so it is applied to each map at its own resolution, and its results are enlarged and added.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.networks.encoders import PretrainedEncoder
from dmmn_qp.networks.laying import at_cells, laid_on_each_other
from dmmn_qp.networks.views import VIEWS, as_seen, turned_back

CELL_PX = 4
"""Side of what is classified at once, in px of the finest magnification; between the middles it is interpolated."""


class DmmnP(nn.Module):
    """A pretrained encoder and a light decoder.

    Images may have any sizes that are multiples of 32, as long as they have one centre: of a wider one the surplus is
    context.

    Args:
        encoder: The encoder, which is shared by all magnifications.
        classes: Number of outputs C.
        width: Channels of the hidden layer.
        magnifications: Number of images.
        views: Turned and mirrored copies of an image over which its maps are averaged: a key of `VIEWS`.

    Attributes:
        margin_px: Context that a block of targets should be given on each side, in pixels of each magnification.
        divisor: What the sides of an image must be multiples of.
        views: Likewise; it may be changed.
    """

    margin_px = 256

    def __init__(self, encoder: nn.Module, classes: int, width: int, magnifications: int, views: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.magnifications = magnifications
        self.views = views
        kind: PretrainedEncoder = encoder  # type: ignore[assignment]
        self._strides = tuple(stride << m for m in range(magnifications) for stride in kind.strides)
        self.divisor = max(kind.strides)
        self.cells_px = tuple(max(CELL_PX, stride) for stride in self._strides)
        self.channels = tuple(kind.channels) * magnifications
        self.first = nn.ModuleList(nn.Conv2d(n, width, 1, bias=not i) for i, n in enumerate(self.channels))
        self.final = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(width, classes, 1))

    @property
    def encoders(self) -> list[nn.Module]:
        """What ``--freeze encoder`` leaves as it is."""
        return [self.encoder]

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        layer = self.final[-1]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, h_m, w_m), finest first -> logits (B, C, h_0, w_0)."""
        return self.of_middle(images, *images[0].shape[-2:])

    def of_middle(self, images: list[Tensor], height: int, width: int) -> Tensor:
        """M images (B, 3, h_m, w_m) -> logits (B, C, height, width) of so many px of the finest about their centre."""
        return self.decide(self.see(images), height, width)

    def see(self, images: Sequence[Tensor]) -> list[Tensor]:
        """What the encoder makes of images: for each magnification a map of each stride, all about one centre.

        Cells smaller than `CELL_PX` are averaged.
        """
        maps = [features for image in images for features in self._maps(image)]
        return [
            _pooled(features, cell_px // stride)
            for features, cell_px, stride in zip(maps, self.cells_px, self._strides, strict=True)
        ]

    def _maps(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps, as the mean over views of the image."""
        if self.views == 1:
            maps: list[Tensor] = self.encoder(image)
            return maps
        views = VIEWS[self.views]
        seen = [[turned_back(features, view) for features in self.encoder(as_seen(image, view))] for view in views]
        return [torch.stack(of_stride).mean(0) for of_stride in zip(*seen, strict=True)]

    def decide(self, maps: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Maps of `see` -> logits (B, C, height, width) for so many px of the finest image about their centre.

        A cell more is decided on each side. Without it the outermost 2 px would not know what is beside them, and
        labels of two neighbours that differ would always change just where these meet.
        """
        logits = self.of_cells(maps, -(-height // CELL_PX), -(-width // CELL_PX), around=1)
        with _in_32_bits(logits.device):
            enlarged = functional.interpolate(logits, scale_factor=CELL_PX, mode="bilinear", align_corners=False)
        return enlarged[..., CELL_PX : CELL_PX + height, CELL_PX : CELL_PX + width]

    def of_cells(self, maps: Sequence[Tensor], rows: int, columns: int, around: int = 0) -> Tensor:
        """Maps of `see` -> logits (B, C, rows, columns) of so many cells about their centre, and ``around`` them.

        It computes in 32 bits: what distinguishes features may be small beside their mean.
        """
        kept = self.output.weight.dtype
        with _in_32_bits(maps[0].device):
            hidden = [layer(features.to(kept)) for layer, features in zip(self.first, maps, strict=True)]
            logits: Tensor = self.final(laid_on_each_other(hidden, self.cells_px, CELL_PX, rows, columns, around))
        return logits

    def vectors(self, maps: Sequence[Tensor], cells: Tensor, rows: int, columns: int) -> Tensor:
        """What `decide` knows of single cells, before its first layer.

        Args:
            maps: Of one image, each (1, channels, h, w).
            cells: (N, 2) row and column of the cells.
            rows: Rows of cells about the maps' centre.
            columns: Columns of them.

        Returns:
            (N, sum of the channels) float32.
        """
        return at_cells([features[0].float() for features in maps], self.cells_px, CELL_PX, cells, rows, columns)


def _pooled(features: Tensor, factor: int) -> Tensor:
    return functional.avg_pool2d(features, factor) if factor > 1 else features


def _in_32_bits(device: torch.device) -> AbstractContextManager[None]:
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
