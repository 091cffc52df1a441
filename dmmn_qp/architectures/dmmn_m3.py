"""DMMN-M3: multi-encoder, multi-decoder, multi-concatenation (paper, section 2.4 and Figure 4e)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.architectures.blocks import (
    LEVELS,
    STEM_FACTORS,
    ConvFinal,
    Decoder,
    Encoder,
    centre_crop,
    channels_at,
    initialise,
)
from dmmn_qp.choices import Norm, Stem


class DmmnM3(nn.Module):
    """The Deep Multi-Magnification Network with joins at every decoder level.

    Each magnification has its own encoder and decoder and they share no weights. Before every transposed
    convolution of the finest branch to level ``k``, the decoder maps of the coarser branches are
    concatenated: branch ``m`` (``2**m`` times coarser) gives its map of level ``k + 1 - m``, cropped to the
    concentric ``1 / 2**m``, which has the pixel size of the finest branch's level ``k + 1``.

    Args:
        classes: Number of outputs C.
        width: Base width f; 32 in the paper.
        magnifications: Number of inputs; 3 in the paper (0.5, 1 and 2 um/px).
        norm: Normalisation after each convolution; none in the paper.
        stem: ``full`` as in the paper; ``half`` computes at half resolution, a quarter of the work: the four
            pixels of each 2x2 square become channels, and the logits are interpolated back.
    """

    def __init__(
        self,
        classes: int,
        width: int = 32,
        magnifications: int = 3,
        norm: Norm = "none",
        stem: Stem = "full",
    ) -> None:
        super().__init__()
        self.magnifications = magnifications
        self.stem = stem
        in_channels = 3 * STEM_FACTORS[stem] ** 2
        self.encoders = nn.ModuleList(Encoder(width, norm, in_channels) for _ in range(magnifications))
        joined = tuple(
            sum(channels_at(width, source) for _, source in self._joins_to(level))
            for level in range(LEVELS - 2, -1, -1)
        )
        self.decoders = nn.ModuleList(
            Decoder(width, norm, joined if m == 0 else (0, 0, 0, 0))  # type: ignore[arg-type]
            for m in range(magnifications)
        )
        self.final = ConvFinal(width, width, classes)
        initialise(self)

    def _joins_to(self, level: int) -> list[tuple[int, int]]:
        """(branch, its level) of the maps joined before the transposed convolution to ``level``."""
        return [(m, level + 1 - m) for m in range(1, self.magnifications) if level + 1 - m >= 0]

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first, S divisible by 16 * 2**(M - 1) -> logits (B, C, S, S)."""
        factor = STEM_FACTORS[self.stem]
        images = [functional.pixel_unshuffle(image, factor) for image in images]
        encoded = [encoder(image) for encoder, image in zip(self.encoders, images, strict=True)]
        coarse = {m: self.decoders[m](encoded[m]) for m in range(1, self.magnifications)}
        joins = [
            [centre_crop(coarse[m][source], 2**m) for m, source in self._joins_to(level)] for level in range(LEVELS - 1)
        ]
        logits: Tensor = self.final(self.decoders[0](encoded[0], joins)[0])
        if factor > 1:
            logits = functional.interpolate(logits, scale_factor=factor, mode="bilinear")
        return logits
