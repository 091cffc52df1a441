"""DMMN-M2S: multi-encoder, multi-decoder, single-concatenation (Figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import HALO, ConvFinal, ConvTransposeOfCrop, Decoder, Encoder


class DmmnM2s(nn.Module):
    """A complete U-Net for each magnification, joined once, before the final convolutions.

    The last decoder maps of the coarser branches are cropped to the target and enlarged to its pixel size.

    Args:
        classes: Number of outputs C.
        width: Base width f; 32 in the paper.
        magnifications: Number of images; 3 in the paper (0.5, 1 and 2 um/px).
        norm: Normalisation after each convolution; none in the paper.
        in_channels: Channels of an image.
    """

    halo = HALO + 16  # the enlargement of the coarser maps reaches further

    def __init__(
        self, classes: int, width: int = 32, magnifications: int = 3, norm: Norm = "none", in_channels: int = 3
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder(width, norm, in_channels) for _ in range(magnifications))
        self.decoders = nn.ModuleList(Decoder(width, norm) for _ in range(magnifications))
        self.enlarge = nn.ModuleList(ConvTransposeOfCrop(width, m, norm) for m in range(1, magnifications))
        self.final = ConvFinal(magnifications * width, width, classes)

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first, S divisible by 16 -> logits (B, C, S, S)."""
        return self.forward_branches(images)[0]

    def forward_branches(self, images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits, and d0 of each coarser branch: (B, f, S, S) of its own, wider field."""
        contexts = [self.context(m, image) for m, image in enumerate(images) if m]
        return self.from_contexts(images[0], contexts), [maps[0] for maps in contexts]

    def context(self, m: int, image: Tensor) -> list[Tensor]:
        """The decoder map d0 of coarser branch ``m`` for its field, or for a wider one of many targets."""
        return [self.decoders[m](self.encoders[m](image))[0]]

    def from_contexts(self, image: Tensor, contexts: list[list[Tensor]]) -> Tensor:
        """Logits (B, C, S, S) from the finest image and, of each coarser branch, a map about the target's centre."""
        own = self.decoders[0](self.encoders[0](image))[0]
        enlarged = [enlarge(maps[0], *own.shape[-2:]) for enlarge, maps in zip(self.enlarge, contexts, strict=True)]
        logits: Tensor = self.final(torch.cat([own, *enlarged], dim=1))
        return logits
