"""DMMN-MS: multi-encoder, single-decoder (Figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import HALO, LEVELS, ConvFinal, ConvTransposeOfCrop, Decoder, Encoder, channels_at


class DmmnMs(nn.Module):
    """An encoder for each magnification and one decoder, joined at all five levels.

    The encoder maps of the coarser branches are cropped to the target and enlarged to its pixel size. Those of
    levels 4 .. 1 are concatenated with the decoder's map before the transposed convolution to the next level,
    those of level 0 with its last map before the final convolutions.

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
        channels = [channels_at(width, k) for k in range(LEVELS)]
        others = magnifications - 1
        self.encoders = nn.ModuleList(Encoder(width, norm, in_channels) for _ in range(magnifications))
        self.enlarge = nn.ModuleList(
            nn.ModuleList(ConvTransposeOfCrop(channels[k], m, norm) for k in range(LEVELS))
            for m in range(1, magnifications)
        )
        self.decoder = Decoder(width, norm, joined=[others * channels[k + 1] for k in range(LEVELS - 1)])
        self.final = ConvFinal((1 + others) * width, width, classes)

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first, S divisible by 32 -> logits (B, C, S, S)."""
        return self.from_contexts(images[0], [self.context(m, image) for m, image in enumerate(images) if m])

    def context(self, m: int, image: Tensor) -> list[Tensor]:
        """The encoder maps e0 .. e4 of coarser branch ``m`` for its field, or for a wider one of many targets."""
        encoded: list[Tensor] = self.encoders[m](image)
        return encoded

    def from_contexts(self, image: Tensor, contexts: list[list[Tensor]]) -> Tensor:
        """Logits (B, C, S, S) from the finest image and, of each coarser branch, maps about the target's centre."""
        own = self.encoders[0](image)
        enlarged = [
            [enlarge(x, *like.shape[-2:]) for enlarge, x, like in zip(levels, maps, own, strict=True)]  # type: ignore[call-overload]
            for levels, maps in zip(self.enlarge, contexts, strict=True)
        ]
        joins = [[branch[k] for branch in enlarged] for k in range(LEVELS)]  # at level k: 10x, 5x
        decoded = self.decoder(own, joins[1:])
        logits: Tensor = self.final(torch.cat([decoded[0], *joins[0]], dim=1))
        return logits
