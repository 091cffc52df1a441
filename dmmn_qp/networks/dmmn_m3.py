"""DMMN-M3: multi-encoder, multi-decoder, multi-concatenation (Figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.blocks import HALO, LEVELS, ConvFinal, Decoder, Encoder, channels_at, crop_to


class DmmnM3(nn.Module):
    """A complete U-Net for each magnification, joined before every transposed convolution of the finest.

    Before the transposed convolution of the finest branch to level ``k``, the decoder maps of the coarser branches
    are concatenated: branch ``m`` (``2**m`` times coarser) gives its map of level ``k + 1 - m``, cropped to the
    concentric ``1 / 2**m``, which has the pixel size of the finest branch's level ``k + 1``.

    Args:
        classes: Number of outputs C.
        width: Base width f; 32 in the paper.
        magnifications: Number of images, at most 5, the number of levels; 3 in the paper (0.5, 1 and 2 um/px).
        norm: Normalisation after each convolution; none in the paper.
        in_channels: Channels of an image.
    """

    halo = HALO

    def __init__(
        self, classes: int, width: int = 32, magnifications: int = 3, norm: Norm = "none", in_channels: int = 3
    ) -> None:
        super().__init__()
        self.magnifications = magnifications
        joined = [sum(channels_at(width, source) for _, source in self._joins_to(k)) for k in range(LEVELS - 1)]
        plain = [0] * (LEVELS - 1)
        self.encoders = nn.ModuleList(Encoder(width, norm, in_channels) for _ in range(magnifications))
        self.decoders = nn.ModuleList(Decoder(width, norm, plain if m else joined) for m in range(magnifications))
        self.final = ConvFinal(width, width, classes)

    def _joins_to(self, level: int) -> list[tuple[int, int]]:
        """(branch, its level) of the maps joined before the transposed convolution to ``level``."""
        return [(m, level + 1 - m) for m in range(1, self.magnifications) if level + 1 - m >= 0]

    @property
    def output(self) -> nn.Conv2d:
        """The last layer, one output for each class."""
        return self.final.logits

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first, S divisible by 32 -> logits (B, C, S, S)."""
        return self.forward_branches(images)[0]

    def forward_branches(self, images: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The logits, and d0 of each coarser branch: (B, f, S, S) of its own, wider field."""
        contexts = [self.context(m, image) for m, image in enumerate(images) if m]
        return self.from_contexts(images[0], contexts), [maps[0] for maps in contexts]

    def context(self, m: int, image: Tensor) -> list[Tensor]:
        """The decoder maps d0 .. d3 of coarser branch ``m`` for its field, or for a wider one of many targets."""
        decoded: list[Tensor] = self.decoders[m](self.encoders[m](image))
        return decoded

    def from_contexts(self, image: Tensor, contexts: list[list[Tensor]]) -> Tensor:
        """Logits (B, C, S, S) from the finest image and, of each coarser branch, maps about the target's centre."""
        encoded = self.encoders[0](image)
        joins = [
            [crop_to(contexts[m - 1][source], *encoded[level + 1].shape[-2:]) for m, source in self._joins_to(level)]
            for level in range(LEVELS - 1)
        ]
        logits: Tensor = self.final(self.decoders[0](encoded, joins)[0])
        return logits
