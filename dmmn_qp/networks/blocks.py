"""The building blocks that the paper's networks share (paper, section 2.4 and Figure 4).

Level ``k`` of a branch is its resolution ``1 / 2**k``; it has ``width * 2**k`` channels, ``k = 0 .. 4``.
Every convolution has a bias. The paper has no normalisation; ``norm`` adds one after each convolution but the
final ones. Branch ``m`` sees a field that is ``2**m`` times larger than the target and has as many pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmmn_qp.choices import Norm
from dmmn_qp.networks.padding import DoublingConvolution

LEVELS = 5
"""Resolutions of one branch: full, 1/2, 1/4, 1/8 and 1/16 ("centre")."""


HALO = 112
"""How far from an output pixel an input pixel can matter to a branch: 94 px before it and 110 px behind it, in whole
pixels of the coarsest level, for `Encoder` and `Decoder` with `ConvFinal`, in pixels of the branch's own image."""


def channels_at(width: int, level: int) -> int:
    """Number of channels of a branch of base ``width`` at ``level``."""
    return width << level


def normalisation(norm: Norm, channels: int) -> list[nn.Module]:
    """The layers of a normalisation of so many channels; none for ``none``."""
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    if norm == "group":
        return [nn.GroupNorm(math.gcd(8, channels), channels)]
    return []


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each with ReLU: (B, in, h, w) -> (B, out, h, w).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        norm: Normalisation after each convolution.
        between: Channels between the two convolutions; as many as the output has unless given.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = "none", between: int | None = None) -> None:
        between = between or out_channels
        super().__init__(
            nn.Conv2d(in_channels, between, 3, padding=1),
            *normalisation(norm, between),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, out_channels, 3, padding=1),
            *normalisation(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class ConvTranspose(nn.Sequential):
    """Transposed 3x3 convolution of stride 2 with ReLU, the paper's CONV_TR: (B, in, h, w) -> (B, out, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = "none") -> None:
        super().__init__(
            DoublingConvolution(in_channels, out_channels),
            *normalisation(norm, out_channels),
            nn.ReLU(inplace=True),
        )


class ConvFinal(nn.Sequential):
    """3x3 convolution with ReLU, then 1x1 to the logits: (B, in, h, w) -> (B, classes, h, w)."""

    def __init__(self, in_channels: int, width: int, classes: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, classes, 1),
        )

    @property
    def logits(self) -> nn.Conv2d:
        """The 1x1 convolution to the logits."""
        layer = self[-1]
        assert isinstance(layer, nn.Conv2d)
        return layer


class Encoder(nn.Module):
    """Five convolution blocks with 2x2 max-pooling between them."""

    def __init__(self, width: int, norm: Norm = "none", in_channels: int = 3) -> None:
        super().__init__()
        inputs = [in_channels] + [channels_at(width, k) for k in range(LEVELS - 1)]
        self.blocks = nn.ModuleList(ConvBlock(inputs[k], channels_at(width, k), norm) for k in range(LEVELS))
        self.pool = nn.MaxPool2d(2)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in, s, s) -> the feature maps e0 .. e4, e_k of shape (B, width * 2**k, s/2**k, s/2**k)."""
        features: list[Tensor] = []
        x = image
        for level, block in enumerate(self.blocks):
            x = block(self.pool(x) if level else x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Transposed convolutions with skip connections, from the centre back to full resolution.

    Args:
        width: Base width of the branch.
        norm: Normalisation after each convolution.
        joined: For levels 0 .. 3: channels that other branches bring to the input of the transposed
            convolution to that level.
    """

    def __init__(self, width: int, norm: Norm = "none", joined: Sequence[int] = (0, 0, 0, 0)) -> None:
        super().__init__()
        levels = range(LEVELS - 2, -1, -1)
        self.ups = nn.ModuleList(
            ConvTranspose(channels_at(width, k + 1) + joined[k], channels_at(width, k), norm) for k in levels
        )
        self.blocks = nn.ModuleList(ConvBlock(2 * channels_at(width, k), channels_at(width, k), norm) for k in levels)

    def forward(self, encoded: list[Tensor], joins: list[list[Tensor]] | None = None) -> list[Tensor]:
        """Decodes e0 .. e4 into d0 .. d3.

        Args:
            encoded: The encoder's maps e0 .. e4.
            joins: For levels 0 .. 3: the maps of other branches that are concatenated behind this
                branch's own map before the transposed convolution to that level.

        Returns:
            The maps d0 .. d3, d_k of shape (B, width * 2**k, s/2**k, s/2**k).
        """
        decoded: list[Tensor] = []
        x = encoded[-1]
        for step, (up, block) in enumerate(zip(self.ups, self.blocks, strict=True)):
            level = LEVELS - 2 - step
            if joins is not None and joins[level]:
                x = torch.cat([x, *joins[level]], dim=1)
            x = block(torch.cat([encoded[level], up(x)], dim=1))  # skip first, upsampled second
            decoded.insert(0, x)
        return decoded


class ConvTransposeOfCrop(nn.Module):
    """The concentric ``1 / 2**m`` of a map of branch ``m``, brought back to the map's size by m `ConvTranspose`.

    So a map of a coarser branch takes the pixel size of the finest one: (B, C, h, w) -> (B, C, h, w), h and w
    even. Where the crop would end inside a pixel (h / 2**m odd or broken), it is taken a little larger, and its
    enlargement cropped; on the paper's patches of 256 px it never does. The map may have any size about the target's
    centre that holds the crop.

    Args:
        channels: Channels of the map, kept.
        m: How many times the map's size is halved and doubled.
        norm: Normalisation after each transposed convolution.
    """

    def __init__(self, channels: int, m: int, norm: Norm = "none") -> None:
        super().__init__()
        self.m = m
        self.ups = nn.Sequential(*(ConvTranspose(channels, channels, norm) for _ in range(m)))

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, C, h, w) -> (B, C, height, width), ``2**m`` times enlarged about the centre."""
        rows, columns = (
            covering_part(side, wanted, self.m) for side, wanted in zip(x.shape[-2:], (height, width), strict=True)
        )
        return crop_to(self.ups(crop_to(x, rows, columns)), height, width)


def crop_to(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of (B, C, h, w): (B, C, height, width)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def covering_part(side: int, wanted: int, m: int) -> int:
    """The least length, in px of branch ``m``, that covers ``wanted`` of the finest and has the middle of ``side``.

    The map of a patch has an even side, and so has this part of it; that of a seamless block may have an odd one.
    """
    part = math.ceil(wanted / (1 << m))
    return part + (side - part) % 2


def even_part(side: int, m: int) -> int:
    """The smallest even length, in pixels of branch ``m``, that covers ``side`` pixels of the finest branch."""
    return 2 * math.ceil(side / (2 << m))


def initialise(network: nn.Module) -> None:
    """Kaiming-normal weights (fan-in, ReLU) for every convolution, biases 0.

    The fan-in is torch's, that is the second axis of the weights times 9. Of a transposed convolution this is the
    number of its outputs. Weights on the meta device have no values and are passed over: torch would load 800 modules
    to draw none.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
