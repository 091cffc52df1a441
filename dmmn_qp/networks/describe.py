"""What an architecture costs and what it sees, measured on the network itself.

Nothing here is a table of known figures: parameters, operations and kept activations are counted on the meta device,
where tensors have shapes but no memory; what a pixel sees is found by letting NaN run through a network of width 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmmn_qp.choices import Norm, Padding, Stem
from dmmn_qp.errors import ModelError
from dmmn_qp.networks import ARCHITECTURES, build_network
from dmmn_qp.networks.stem import STEM_FACTORS
from dmmn_qp.specs import PatchSpec

OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps for each parameter: the momentum; the two moments."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a network of some architecture is made of, and what it costs in fp32.

    Memory in training is ``activation_bytes`` for each target of the batch, and once the rest. It is an estimate
    from below: the loss, the workspaces of the convolutions and the gradients on their way are not in it. With bf16
    autocast about half of the activations remain.

    Attributes:
        architecture: Key of `ARCHITECTURES`.
        classes: Number of outputs.
        width: Base width f.
        parameters: Trainable parameters.
        gflop_per_target: 1e9 operations of one forward pass for one target, 2 for a multiplication with addition.
        field_um: Side of the largest field that it is given and looks at.
        context_um: Side of the tissue that can change the output in the middle of the target.
        activation_bytes: What a forward pass keeps for the backward pass, for one target.
        parameter_bytes: The parameters.
        gradient_bytes: Their gradients.
        optimizer_bytes: What each optimiser keeps.
    """

    architecture: str
    classes: int
    width: int
    parameters: int
    gflop_per_target: float
    field_um: float
    context_um: float
    activation_bytes: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: dict[str, int]


def describe(
    name: str,
    *,
    classes: int,
    width: int | None = None,
    patch_spec: PatchSpec | None = None,
    norm: Norm = "none",
    stem: Stem = "full",
    encoder: str | None = None,
    views: int = 1,
    padding: Padding = "zeros",
) -> Description:
    """Describes an architecture.

    Args:
        name: Key of `ARCHITECTURES`.
        classes: Number of outputs C.
        width: Base width f; the paper's unless given.
        patch_spec: Size and magnifications of the patches; the paper's unless given.
        norm: Normalisation after each convolution.
        stem: Resolution at which it computes.
        encoder: The pretrained encoder of an architecture that is built on one.
        views: Turned copies of an image over which that encoder's maps are averaged.
        padding: What convolutions see beyond the border of a map.

    Raises:
        ModelError: The architecture is unknown or cannot work on such patches.
    """
    if name not in ARCHITECTURES:
        raise ModelError(f'architecture "{name}" is unknown; choose one of {", ".join(ARCHITECTURES)}')
    architecture = ARCHITECTURES[name]
    spec = patch_spec or PatchSpec()
    base_width = width or architecture.paper_width
    with torch.device("meta"):
        network = build_network(
            name,
            classes=classes,
            width=base_width,
            magnifications=len(spec.mpps),
            size_px=spec.size_px,
            norm=norm,
            stem=stem,
            encoder=encoder,
            views=views,
            padding=padding,
        )
        images = [torch.empty(1, 3, spec.size_px, spec.size_px) for _ in spec.mpps]
    with FlopCounterMode(display=False) as operations:
        activation_bytes = kept_for_backward(network, images)
    trainable = [p for p in network.parameters() if p.requires_grad]
    parameter_bytes = sum(p.numel() * p.element_size() for p in trainable)
    return Description(
        architecture=name,
        classes=classes,
        width=base_width,
        parameters=sum(p.numel() for p in trainable),
        gflop_per_target=operations.get_total_flops() / 1e9,
        field_um=spec.size_px * spec.mpps[architecture.used(len(spec.mpps)) - 1],
        context_um=context_um(name, spec, norm, stem, encoder),
        activation_bytes=activation_bytes,
        parameter_bytes=parameter_bytes,
        gradient_bytes=parameter_bytes,
        optimizer_bytes={optimizer: states * parameter_bytes for optimizer, states in OPTIMIZER_STATES.items()},
    )


def kept_for_backward(network: nn.Module, images: list[Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters and buffers apart.

    What several operations keep counts once; what is kept as a part of something larger counts whole.
    """
    owned = {t.untyped_storage()._cdata for t in [*network.parameters(), *network.buffers()]}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no storage is freed and its number used again

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(images)
        total = sum(t.untyped_storage().nbytes() for number, t in kept.items() if number not in owned)
    del output
    return total


def context_um(
    name: str, patch_spec: PatchSpec, norm: Norm = "none", stem: Stem = "full", encoder: str | None = None
) -> float:
    """Side of the tissue, in um, that can change the output in the middle of the target.

    An image has NaN in all columns on one side of some column. The output is NaN where it sees one of them, so
    halving finds the first and the last column that the pixel right of the middle sees. The images are as wide as
    the patch, which bounds the answer, and as high as need be.
    """
    architecture = ARCHITECTURES[name]
    size_px, magnifications = patch_spec.size_px, len(patch_spec.mpps)
    network = build_network(
        name, classes=1, width=1, magnifications=magnifications, size_px=size_px, norm=norm, stem=stem, encoder=encoder
    )
    network = network.double().eval()  # in double precision no convolution takes a way that spreads NaN further
    images = [
        torch.zeros(1, 3, architecture.divisor * STEM_FACTORS[stem], size_px, dtype=torch.float64)
        for _ in patch_spec.mpps
    ]

    def sees(m: int, columns: slice) -> bool:
        image = images[m].clone()
        image[..., columns] = torch.nan
        output = network([image if i == m else other for i, other in enumerate(images)])
        return bool(output[0, 0, :, size_px // 2].isnan().any())

    def span_um(m: int) -> float:
        if sees(m, slice(0, 1)) and sees(m, slice(-1, None)):  # which saves the searches of a deep encoder
            return size_px * patch_spec.mpps[m]
        first = _first(size_px, lambda x: sees(m, slice(0, x + 1)))
        end = _first(size_px, lambda x: not sees(m, slice(x, None)))
        return (end - first) * patch_spec.mpps[m]

    seen_um = 0.0
    with torch.inference_mode():
        for m in reversed(range(architecture.used(magnifications))):
            if size_px * patch_spec.mpps[m] > seen_um:  # else the whole image shows no more than a coarser one did
                seen_um = max(seen_um, span_um(m))
    return seen_um


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of 0 .. count - 1 for which something holds that holds for all after it; ``count`` if none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
