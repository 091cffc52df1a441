"""The stem: at which resolution a network computes. The paper's networks compute at that of their input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional

from dmmn_qp.choices import Norm, Padding, Stem
from dmmn_qp.networks.blocks import normalisation

STEM_FACTORS: dict[Stem, int] = {"full": 1, "half": 2, "quarter": 4}
"""How many times coarser than its input a network computes."""


def stem_channels(stem: Stem) -> int:
    """Channels of the images that a network behind this stem is given."""
    return 3 if stem == "full" else STEM_CHANNELS


STEM_CHANNELS = 16
"""Channels of a stem's output, whatever the width: thin lines must survive the loss of resolution."""


class StridedStem(nn.Sequential):
    """3x3 convolutions of stride 2 with ReLU, one for each halving: (B, 3, S, S) -> (B, 16, S/f, S/f)."""

    def __init__(self, factor: int, norm: Norm) -> None:
        inputs = [3] + [STEM_CHANNELS] * (factor.bit_length() - 2)
        super().__init__(
            *(
                nn.Sequential(
                    nn.Conv2d(channels, STEM_CHANNELS, 3, stride=2, padding=1),
                    *normalisation(norm, STEM_CHANNELS),
                    nn.ReLU(inplace=True),
                )
                for channels in inputs
            )
        )


@runtime_checkable
class NamesParts(Protocol):
    """A network that can be trained from one with other classes: it says which of its parts that concerns."""

    @property
    def encoders(self) -> Iterable[nn.Module]:
        """The modules that ``--freeze encoder`` leaves as they are; the output is in none of them."""
        ...

    @property
    def output(self) -> nn.Conv2d:
        """The last layer: its filter number i makes the logits of class i, and of nothing else."""
        ...


@runtime_checkable
class SharesContexts(Protocol):
    """A network whose coarser branches do not depend on the finest, so that neighbouring targets can share them."""

    def context(self, m: int, image: Tensor) -> list[Tensor]:
        """Maps of coarser branch ``m`` for a field of one or many targets, each half as fine as the one before."""
        ...

    def from_contexts(self, image: Tensor, contexts: list[list[Tensor]]) -> Tensor:
        """Logits from the finest image and, of each coarser branch, maps about the target's centre.

        The maps may be those of the target's field, of a wider one, or the middle ``1 / 2**m`` of them (`even_part`).
        """
        ...


@runtime_checkable
class SeesFar(Protocol):
    """A network that can predict a piece of an infinite canvas.

    Attributes:
        halo: Pixels of each magnification around an output that can matter to it, a multiple of 16; what lies beyond
            changes nothing, bit for bit, as long as images begin on whole pixels of the coarsest level.
    """

    halo: int


@runtime_checkable
class TakesMargins(Protocol):
    """A network that takes images of any sizes about one centre: of a wider one the surplus is context.

    Attributes:
        margin_px: Context that a block of targets should be given on each side, in pixels of each magnification.
        divisor: What the sides of an image must be multiples of.
    """

    margin_px: int
    divisor: int

    def of_middle(self, images: list[Tensor], height: int, width: int) -> Tensor:
        """M images (B, 3, h_m, w_m) -> logits (B, C, height, width) of so many px of the finest about their centre."""
        ...


class Construction(NamedTuple):
    """What a network was built from, beside the classes and the patches.

    Attributes:
        architecture: Its name.
        width: Base width f.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        encoder: The pretrained encoder that it is built on; None of a network without.
        views: Turned copies of an image over which that encoder's maps are averaged.
        padding: What its convolutions see beyond the border of a map.
    """

    architecture: str
    width: int
    norm: Norm
    stem: Stem
    encoder: str | None = None
    views: int = 1
    padding: Padding = "zeros"


class Stemmed(nn.Module):
    """A network behind its stem.

    With ``full`` this is the network itself. With ``half`` every image goes through a strided convolution of its own,
    the network computes on a quarter of the pixels, and its logits are interpolated back; with ``quarter`` likewise
    through two of them on a sixteenth.

    Args:
        network: Takes images of ``stem_channels`` channels.
        stem: Resolution at which it computes.
        norm: Normalisation after the stem's convolutions.
        images: Number of images M that the whole is given.
        used: How many of them, finest first, the network looks at.

    Attributes:
        construction: What `build_network` built it from; None of one that was put together by hand.
    """

    def __init__(self, network: nn.Module, stem: Stem, norm: Norm, images: int, used: int) -> None:
        super().__init__()
        self.construction: Construction | None = None
        self.network = network
        self.factor = STEM_FACTORS[stem]
        self.stems = nn.ModuleList(StridedStem(self.factor, norm) for _ in range(used if self.factor > 1 else 0))
        self.images = images
        self.used = used

    def forward(self, images: list[Tensor]) -> Tensor:
        """M images (B, 3, S, S), finest first -> logits (B, C, S, S).

        Images that the network does not look at may be left out.

        Raises:
            ValueError: There are not M images.
        """
        return self.enlarge(self.coarse_logits(images))

    def coarse_logits(self, images: list[Tensor]) -> Tensor:
        """The same at the resolution at which the network computes: (B, C, S / factor, S / factor)."""
        return self.decide(self.behind_stem(images))

    def decide(self, maps: list[Tensor]) -> Tensor:
        """What images are behind their stems -> logits at that resolution, of as many pixels as the first map has."""
        logits: Tensor = self.network(maps)
        return logits

    @property
    def padding(self) -> Padding:
        """What its convolutions see beyond the border of a map."""
        return "zeros" if self.construction is None else self.construction.padding

    @property
    def halo(self) -> int | None:
        """Context of an output in pixels of each magnification (`SeesFar`); None where there is no such number."""
        return self.network.halo * self.factor if isinstance(self.network, SeesFar) else None

    @property
    def shares_contexts(self) -> bool:
        """Whether the coarser branches can be computed once for many targets (`SharesContexts`)."""
        return self.used > 1 and isinstance(self.network, SharesContexts)

    def context(self, m: int, image: Tensor) -> list[Tensor]:
        """Maps of coarser branch ``m`` for a field (B, 3, h, w) of one or many targets.

        Map number k has ``1 / 2**k`` of the resolution at which the network computes.
        """
        network = cast(SharesContexts, self.network)
        return network.context(m, self.stems[m](image) if self.stems else image)

    def from_contexts(self, image: Tensor, contexts: list[list[Tensor]]) -> Tensor:
        """Logits (B, C, S, S) from the finest image and the maps of the coarser branches about its centre."""
        network = cast(SharesContexts, self.network)
        return self.enlarge(network.from_contexts(self.stems[0](image) if self.stems else image, contexts))

    def behind_stem(self, images: list[Tensor]) -> list[Tensor]:
        """What the network takes: the images that it looks at, each through its stem.

        Raises:
            ValueError: There are not M images.
        """
        if len(images) not in (self.images, self.used):
            raise ValueError(f"the network takes {self.images} images, not {len(images)}")
        images = images[: self.used]
        return [stem(image) for stem, image in zip(self.stems, images, strict=True)] if self.stems else images

    def enlarge(self, logits: Tensor) -> Tensor:
        """Logits at the network's resolution -> at that of the images."""
        if self.factor == 1:
            return logits
        return functional.interpolate(logits, scale_factor=self.factor, mode="bilinear")
