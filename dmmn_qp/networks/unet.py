"""U-Net: one encoder and one decoder on the finest magnification (Figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import HALO, ConvFinal, Decoder, Encoder


class UNet(nn.Module):
    """U-Net, the baseline of one magnification. It does without the coarser images.

    Args:
        classes: Number of outputs C.
        width: Base width f; 64 in the paper.
        magnifications: Not used.
        norm: Normalisation after each convolution; none in the paper.
        in_channels: Channels of an image.
    """

    halo = HALO

    def __init__(
        self, classes: int, width: int = 64, magnifications: int = 1, norm: Norm = "none", in_channels: int = 3
    ) -> None:
        super().__init__()
        del magnifications
        self.encoder = Encoder(width, norm, in_channels)
        self.decoder = Decoder(width, norm)
        self.final = ConvFinal(width, width, classes)

    @property
    def encoders(self) -> list[nn.Module]:
        """The only one."""
        return [self.encoder]

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """Images (B, 3, S, S), finest first, S divisible by 16 -> logits (B, C, S, S)."""
        decoded = self.decoder(self.encoder(images[0]))
        logits: Tensor = self.final(decoded[0])
        return logits
