"""The networks. `ARCHITECTURES` names them; each builds itself from the same options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from dmmn_qp.architectures.blocks import STEM_FACTORS
from dmmn_qp.architectures.dmmn_m3 import DmmnM3
from dmmn_qp.choices import Norm, Stem
from dmmn_qp.errors import ModelError

__all__ = ["ARCHITECTURES", "Architecture", "build_network"]


class _Builder(Protocol):
    def __call__(self, classes: int, width: int, magnifications: int, norm: Norm, stem: Stem) -> nn.Module: ...


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build a network and what it needs.

    Attributes:
        build: Makes the network.
        paper_width: The paper's base width f.
        divisor: What the patch size must be divisible by at full stem.
    """

    build: _Builder
    paper_width: int
    divisor: int


ARCHITECTURES: dict[str, Architecture] = {
    "dmmn-m3": Architecture(DmmnM3, paper_width=32, divisor=32),
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
) -> nn.Module:
    """Builds a network by name.

    Args:
        name: Key of `ARCHITECTURES`.
        classes: Number of outputs C.
        width: Base width f.
        magnifications: Number of inputs M.
        size_px: Side of the patches that it will see.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.

    Raises:
        ModelError: There is no architecture of that name, or it cannot work on patches of that size.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'architecture "{name}" is unknown; choose one of {", ".join(ARCHITECTURES)}')
    divisor = ARCHITECTURES[name].divisor * STEM_FACTORS[stem]
    if size_px % divisor:
        raise ModelError(
            f"{name} with {stem} stem needs patches whose size is a multiple of {divisor} px, not {size_px}; "
            "import with another patch size or choose another stem"
        )
    return ARCHITECTURES[name].build(classes=classes, width=width, magnifications=magnifications, norm=norm, stem=stem)
