"""EfficientNet-Lite without its classifier (Tan and Le, 2019; the Lite variants have no squeeze-and-excitation).

Its batch normalisation is folded into the convolutions, since it only ever runs with the statistics that it was
published with. So training and prediction compute the same, and a model folder holds convolutions and nothing else.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class _Stage(NamedTuple):
    """Blocks of one kind; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)

_STEM_CHANNELS = 32

STRIDES = (2, 4, 8, 16, 32)

STRIP_BYTES = 8 * 2**20
"""Size of the widened map from which on a block is computed in strips, and of each of these.

It stays in the cache, and is memory that is used again; larger pieces are asked from the system each time.
"""


class _Convolution(nn.Sequential):
    """A convolution, padded as TensorFlow pads an image of even sides: one less before than behind with stride 2."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, depthwise: bool = False, active: bool = True
    ) -> None:
        both = kernel - stride  # for images whose sides are multiples of the stride
        self.before, self.behind = both // 2, both - both // 2
        padding = self.before if self.before == self.behind else 0
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=inputs if depthwise else 1)
        ]
        super().__init__(*layers, *([nn.ReLU6(inplace=True)] if active else []))

    def forward(self, x: Tensor) -> Tensor:
        if self.before != self.behind:
            x = functional.pad(x, (self.before, self.behind, self.before, self.behind))
        for layer in self:
            x = layer(x)
        return x

    def of_padded(self, x: Tensor) -> Tensor:
        """What it makes of an image that is padded already."""
        convolution, *others = self
        assert isinstance(convolution, nn.Conv2d)
        x = functional.conv2d(x, convolution.weight, convolution.bias, convolution.stride, groups=convolution.groups)
        for layer in others:
            x = layer(x)
        return x


class _Block(nn.Module):
    """Inverted residual: expand, convolve each channel, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.inner, self.kernel, self.stride = inner, kernel, stride
        self.expand = _Convolution(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _Convolution(inner, inner, kernel, stride, depthwise=True)
        self.project = _Convolution(inner, outputs, 1, active=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        rows = self._rows_of_strips(x)
        if rows is not None:
            return torch.cat([self._strip(x, top, rows) for top in range(0, x.shape[-2] // self.stride, rows)], dim=-2)
        found: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + found if self.adds else found

    def _rows_of_strips(self, x: Tensor) -> int | None:
        """Rows that it makes at once, in inference on a CPU; None for all of them, and where others see the graph.

        What is exported is traced outside of inference mode.
        """
        if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_inference_mode_enabled():
            return None
        row_bytes = x.shape[0] * x.shape[-1] * self.inner * x.element_size()
        if row_bytes * x.shape[-2] <= STRIP_BYTES:
            return None
        return max(1, STRIP_BYTES // (row_bytes * self.stride))

    def _strip(self, x: Tensor, top: int, rows: int) -> Tensor:
        """Rows of what `forward` makes, from ``top`` on."""
        convolution, stride = self.depthwise, self.stride
        rows = min(rows, x.shape[-2] // stride - top)
        first = top * stride - convolution.before
        last = (top + rows - 1) * stride - convolution.before + self.kernel
        above, below = max(0, -first), max(0, last - x.shape[-2])
        wide = self.expand(x[..., first + above : last - below, :])
        wide = functional.pad(wide, (convolution.before, convolution.behind, above, below))
        found: Tensor = self.project(convolution.of_padded(wide))
        return x[..., top : top + rows, :] + found if self.adds else found


class EfficientNetLite(nn.Module):
    """The encoder of EfficientNet-Lite: an image -> a map of each of its five strides.

    Args:
        width: Factor on the channels, but for the stem.
        depth: Factor on the number of blocks, but for the first and the last stage.

    Attributes:
        strides: Image px per cell of each map.
        channels: Channels of each map.
    """

    strides = STRIDES

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM_CHANNELS, 3, 2)
        self.blocks = nn.ModuleList()
        inputs, ends, channels = _STEM_CHANNELS, [], []
        last = len(_STAGES) - 1
        for i, stage in enumerate(_STAGES):
            outputs = _scaled(stage.channels, width)
            for k in range(stage.blocks if i in (0, last) else math.ceil(stage.blocks * depth)):
                self.blocks.append(_Block(inputs, outputs, stage.kernel, 1 if k else stage.stride, stage.expansion))
                inputs = outputs
            if i == last or _STAGES[i + 1].stride > 1:
                ends.append(len(self.blocks) - 1)
                channels.append(outputs)
        self._ends = frozenset(ends)
        self.channels = tuple(channels)

    @property
    def layers(self) -> list[nn.Module]:
        """Its parts from the image upwards."""
        return [self.stem, *self.blocks]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, h, w), h and w multiples of 32 -> maps (B, channels[k], h / strides[k], w / strides[k])."""
        maps: list[Tensor] = []
        x = self.stem(image)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._ends:
                maps.append(x)
        return maps


def _scaled(channels: int, factor: float, divisor: int = 8) -> int:
    """Channels times a factor, as a multiple of the divisor that is at most a tenth too small."""
    wanted = channels * factor
    rounded = max(divisor, int(wanted + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * wanted else rounded
