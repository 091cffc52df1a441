"""The networks: the paper's six, and one on a pretrained encoder. `ARCHITECTURES` names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from torch import nn

from dmmn_qp.choices import DEFAULT_ENCODER, Norm, Padding, Stem
from dmmn_qp.errors import ModelError
from dmmn_qp.networks.blocks import LEVELS, initialise
from dmmn_qp.networks.dmmn_m2s import DmmnM2s
from dmmn_qp.networks.dmmn_m3 import DmmnM3
from dmmn_qp.networks.dmmn_ms import DmmnMs
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.networks.dmmn_s2 import DmmnS2
from dmmn_qp.networks.encoders import build_encoder
from dmmn_qp.networks.padding import pad_with
from dmmn_qp.networks.segnet import SegNet
from dmmn_qp.networks.stem import STEM_FACTORS, Construction, Stemmed, stem_channels
from dmmn_qp.networks.unet import UNet

__all__ = ["ARCHITECTURES", "Architecture", "build_network"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network and what it needs.

    Attributes:
        build: Makes the network at full stem, of ``classes``, ``width`` and ``magnifications``, and of ``norm`` and
            ``in_channels``; of a pretrained ``encoder`` and ``views`` instead where it is built on one.
        paper_width: The paper's base width f; of a network that is not the paper's, its usual width.
        divisor: What the patch size must be divisible by at full stem: ``2**4`` for four poolings, and twice that
            where maps of the coarsest levels are cropped about their centre.
        max_magnifications: How many magnifications it can use; None is any number. Where it is 1, the network
            looks at the finest of the images that it is given.
        pretrained: Whether it is built on a pretrained encoder; it then has neither a stem nor normalisation nor
            padding of its own.
    """

    build: Callable[..., nn.Module]
    paper_width: int
    divisor: int
    max_magnifications: int | None = None
    pretrained: bool = False

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The normalisations that it takes, the paper's first."""
        return ("none",) if self.pretrained else get_args(Norm)

    @property
    def stems(self) -> tuple[Stem, ...]:
        """The stems that it takes, the paper's first."""
        return ("full",) if self.pretrained else get_args(Stem)

    def used(self, magnifications: int) -> int:
        """How many of that many images the network looks at."""
        return 1 if self.max_magnifications == 1 else magnifications


ARCHITECTURES: dict[str, Architecture] = {
    "segnet": Architecture(SegNet, paper_width=64, divisor=16, max_magnifications=1),
    "unet": Architecture(UNet, paper_width=64, divisor=16, max_magnifications=1),
    "dmmn-s2": Architecture(DmmnS2, paper_width=64, divisor=16),
    "dmmn-ms": Architecture(DmmnMs, paper_width=32, divisor=32),
    "dmmn-m2s": Architecture(DmmnM2s, paper_width=32, divisor=16),
    "dmmn-m3": Architecture(DmmnM3, paper_width=32, divisor=32, max_magnifications=LEVELS),
    "dmmn-p": Architecture(DmmnP, paper_width=64, divisor=32, pretrained=True),
}


def build_network(
    name: str,
    *,
    classes: int,
    width: int,
    magnifications: int,
    size_px: int,
    norm: Norm = "none",
    stem: Stem = "full",
    encoder: str | None = None,
    views: int = 1,
    padding: Padding = "zeros",
) -> Stemmed:
    """Builds a network by name, with random weights.

    It takes a list of M images (B, 3, S, S), finest first, with values in 0 .. 1, and gives logits (B, C, S, S).

    Args:
        name: Key of `ARCHITECTURES`.
        classes: Number of outputs C.
        width: Base width f.
        magnifications: Number of images M.
        size_px: Side of the patches that it will see.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        encoder: Of an architecture that is built on a pretrained encoder: key of `ENCODERS`, `DEFAULT_ENCODER` unless
            given. Its weights are random too (`dmmn_qp.folders.encoder_weights` has those it was published with).
        views: Of such an architecture: turned copies of an image over which the encoder's maps are averaged.
        padding: What convolutions see beyond the border of a map.

    Raises:
        ModelError: There is no architecture of that name, or it cannot work on so many magnifications or on
            patches of that size.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'architecture "{name}" is unknown; choose one of {", ".join(ARCHITECTURES)}')
    architecture = ARCHITECTURES[name]
    used = architecture.used(magnifications)
    if architecture.max_magnifications is not None and used > architecture.max_magnifications:
        raise ModelError(
            f"{name} takes at most {architecture.max_magnifications} magnifications, not {magnifications}; import "
            "with fewer --mpps or choose another architecture"
        )
    factor = STEM_FACTORS[stem]
    divisor = architecture.divisor * factor
    if size_px % divisor:
        raise ModelError(
            f"{name} with {stem} stem needs patches whose size is a multiple of {divisor} px, not {size_px}; "
            "import with another patch size or choose another stem"
        )
    if (
        norm not in architecture.norms
        or stem not in architecture.stems
        or (architecture.pretrained and padding != "zeros")
    ):
        raise ModelError(
            f"{name} is built on a pretrained encoder and has neither stem nor normalisation nor padding of its own; "
            'leave "stem", "norm" and "padding" out, or choose another architecture'
        )
    if architecture.pretrained:
        encoder = encoder or DEFAULT_ENCODER
        on = build_encoder(encoder)
        network = architecture.build(classes=classes, width=width, magnifications=used, encoder=on, views=views)
    elif encoder is not None or views != 1:
        raise ModelError(f"{name} is not built on a pretrained encoder and takes no encoder and no views")
    else:
        network = architecture.build(
            classes=classes, width=width, magnifications=used, norm=norm, in_channels=stem_channels(stem)
        )
    stemmed = Stemmed(network, stem, norm, images=magnifications, used=used)
    stemmed.construction = Construction(name, width, norm, stem, encoder, views, padding)
    if padding != "zeros":
        pad_with(stemmed, padding)
    initialise(stemmed)
    return stemmed
