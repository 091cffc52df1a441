"""SegNet: an encoder and a decoder joined by the positions of the maxima only (Figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import HALO, LEVELS, ConvBlock, ConvFinal, channels_at


class SegNet(nn.Module):
    """SegNet, the other baseline of one magnification. It does without the coarser images.

    The decoder has neither skip connections nor transposed convolutions: it puts each value where the encoder's
    pooling found its maximum, and 0 elsewhere. Where rounding lets two values change places its output jumps, so
    it differs more between fp32 and bf16 than the others do.

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
        channels = [channels_at(width, k) for k in range(LEVELS)]
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.down = nn.ModuleList(
            ConvBlock(inputs, outputs, norm)
            for inputs, outputs in zip([in_channels, *channels[:3]], channels[:4], strict=True)
        )
        self.centre = ConvBlock(channels[3], channels[3], norm, between=channels[4])
        self.up = nn.ModuleList(
            ConvBlock(inputs, outputs, norm, between=inputs)
            for inputs, outputs in zip(channels[3::-1], [*channels[2::-1], width], strict=True)
        )
        self.final = ConvFinal(width, width, classes)

    @property
    def encoders(self) -> list[nn.Module]:
        """The way down and the centre, which ends it."""
        return [*self.down, self.centre]

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """Images (B, 3, S, S), finest first, S divisible by 16 -> logits (B, C, S, S)."""
        x = images[0]
        positions: list[Tensor] = []
        for block in self.down:
            x, maxima = self.pool(block(x))
            positions.append(maxima)
        x = self.centre(x)
        for block in self.up:
            x = block(self.unpool(x, positions.pop()))
        logits: Tensor = self.final(x)
        return logits
