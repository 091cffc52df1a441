"""The stem: at which resolution a network computes. The paper's networks compute at that of their input."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.choices import Stem

STEM_FACTORS: dict[Stem, int] = {"full": 1, "half": 2, "quarter": 4}
"""How many times coarser than its input a network computes."""


class Stemmed(nn.Module):
    """A network behind its stem.

    With ``full`` this is the network itself. With ``half`` the four pixels of each 2x2 square become channels, the
    network computes on a quarter of the pixels, and its logits are interpolated back; with ``quarter`` likewise
    the 16 pixels of each 4x4 square.

    Args:
        network: Takes images of ``3 * factor**2`` channels.
        stem: Resolution at which it computes.
        images: Number of images M that the whole is given.
        used: How many of them, finest first, the network looks at.
    """

    def __init__(self, network: nn.Module, stem: Stem, images: int, used: int) -> None:
        super().__init__()
        self.network = network
        self.factor = STEM_FACTORS[stem]
        self.images = images
        self.used = used

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first -> logits (B, C, S, S).

        Raises:
            ValueError: There are not M images.
        """
        if len(images) != self.images:
            raise ValueError(f"the network takes {self.images} images, not {len(images)}")
        images = images[: self.used]
        if self.factor == 1:
            full: Tensor = self.network(images)
            return full
        coarse = self.network([functional.pixel_unshuffle(image, self.factor) for image in images])
        return functional.interpolate(coarse, scale_factor=self.factor, mode="bilinear")
