"""What convolutions see beyond the border of a map: zeros, as in the paper, or the map's own border again.

Nothing in tissue is like zeros. A network that was trained with them tells from them where its target ends, and answers
otherwise there; where nothing but the border's own values lies beyond, it learns nothing of it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.choices import Padding


class DoublingConvolution(nn.ConvTranspose2d):
    """Transposed 3x3 convolution of stride 2: (B, in, h, w) -> (B, out, 2h, 2w).

    The last row and column of what it gives look at one row and column behind the map.

    Attributes:
        padding_beyond: What lies there.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.padding_beyond: Padding = "zeros"

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, in, h, w) -> (B, out, 2h, 2w)."""
        if self.padding_beyond == "zeros":
            return super().forward(x, output_size)
        padded = functional.pad(x, (0, 1, 0, 1), mode="replicate")
        doubled = functional.conv_transpose2d(padded, self.weight, self.bias, stride=2, padding=1)
        return doubled[..., :-1, :-1]


def pad_with(network: nn.Module, padding: Padding) -> None:
    """Lets every convolution of a network see this beyond the border of its map.

    Weights and their names stay: a network may be padded in another way than it was before.
    """
    for module in network.modules():
        if isinstance(module, DoublingConvolution):
            module.padding_beyond = padding
        elif isinstance(module, nn.Conv2d) and module.padding != (0, 0):
            module.padding_mode = padding
