"""DMMN-S2: single-encoder, single-decoder (Figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import ConvFinal, Decoder, Encoder


class DmmnS2(nn.Module):
    """U-Net on the images of all magnifications, stacked as channels although their pixels differ in size.

    Args:
        classes: Number of outputs C.
        width: Base width f; 64 in the paper.
        magnifications: Number of images; 3 in the paper, which makes 9 channels.
        norm: Normalisation after each convolution; none in the paper.
        in_channels: Channels of an image.
    """

    def __init__(
        self, classes: int, width: int = 64, magnifications: int = 3, norm: Norm = "none", in_channels: int = 3
    ) -> None:
        super().__init__()
        self.encoder = Encoder(width, norm, magnifications * in_channels)
        self.decoder = Decoder(width, norm)
        self.final = ConvFinal(width, width, classes)

    @property
    def encoders(self) -> list[nn.Module]:
        """The only one, of all magnifications."""
        return [self.encoder]

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first, S divisible by 16 -> logits (B, C, S, S)."""
        stacked = torch.cat(images, dim=1)  # 20x, 10x, 5x, uncropped
        decoded = self.decoder(self.encoder(stacked))
        logits: Tensor = self.final(decoded[0])
        return logits
