"""Names of the tensors of pretrained encoders, as their files have them -> as our modules have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from dmmn_qp.networks.efficientnet import EfficientNetLite
from dmmn_qp.networks.patch_tokens import PatchTokens
from dmmn_qp.networks.timm_encoders import TimmMaps

_EPSILON: Final = 1e-3  # of the batch normalisation of EfficientNet

HEADS: Final = ("head.", "head_dist.", "fc.", "classifier.", "_fc.", "pooler.", "mask_token", "embeddings.mask_token")
"""How names begin of what comes behind an encoder, or was there for its training."""

_WRAPPERS: Final = ("module.", "model.", "backbone.", "encoder.", "vit.", "teacher.", "trunk.")


def named_as_ours(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file under the names that an encoder has for them, its head left out.

    Names that are not known stay as they are: it is for the caller to compare them with those of the encoder.
    """
    if isinstance(encoder, EfficientNetLite) and "_conv_stem.weight" in state:
        return _folded(state, encoder)
    if not isinstance(encoder, PatchTokens | TimmMaps):
        return dict(state)
    names = {name: name for name in state}
    for wrapper in _WRAPPERS:
        if all(short.startswith(wrapper) for short in names.values()):
            names = {name: short.removeprefix(wrapper) for name, short in names.items()}
    found = {short: state[name] for name, short in names.items() if not short.startswith(HEADS)}
    if any(name.startswith(_OF_TRANSFORMERS) for name in found):
        found = _of_transformers(found)
    return {f"model.{name}": tensor for name, tensor in found.items()}


def _folded(published: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of EfficientNet under the names of `EfficientNetLite`, batch normalisation folded into convolutions."""
    folded: dict[str, Tensor] = {}
    for name, _ in encoder.named_parameters():
        layer, _, kind = name.rpartition(".0.")
        if kind == "weight":
            convolution, normalisation = _published_names(layer)
            scale = published[f"{normalisation}.weight"] / torch.sqrt(
                published[f"{normalisation}.running_var"] + _EPSILON
            )
            folded[name] = published[f"{convolution}.weight"] * scale[:, None, None, None]
            shift = published[f"{normalisation}.running_mean"] * scale
            folded[f"{layer}.0.bias"] = published[f"{normalisation}.bias"] - shift
    return folded


def _published_names(layer: str) -> tuple[str, str]:
    """What a convolution of `EfficientNetLite` and its normalisation are called in the published file."""
    if layer == "stem":
        return "_conv_stem", "_bn0"
    _, number, part = layer.split(".")
    convolution, normalisation = _PARTS[part]
    return f"_blocks.{number}.{convolution}", f"_blocks.{number}.{normalisation}"


_PARTS: Final = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


_OF_TRANSFORMERS: Final = ("embeddings.", "encoder.layer.", "layer.")
_ONE_TO_ONE: Final = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"embeddings\.cls_token", "cls_token"),
        (r"embeddings\.register_tokens", "reg_token"),
        (r"embeddings\.position_embeddings", "pos_embed"),
        (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
        (r"layernorm\.(\w+)", r"norm.\1"),
        (r"(?:encoder\.)?layer\.(\d+)\.(?:layernorm_before|norm1)\.(\w+)", r"blocks.\1.norm1.\2"),
        (r"(?:encoder\.)?layer\.(\d+)\.(?:layernorm_after|norm2)\.(\w+)", r"blocks.\1.norm2.\2"),
        (r"(?:encoder\.)?layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
        (r"(?:encoder\.)?layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
        (r"(?:encoder\.)?layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
        (r"(?:encoder\.)?layer\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
        (r"(?:encoder\.)?layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    )
]
_ATTENTION: Final = re.compile(r"(?:encoder\.)?layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)")


def _of_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a vision transformer of the library transformers (ViT, DINOv2) under timm's names."""
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        attention = _ATTENTION.fullmatch(name)
        if attention:
            number, part, kind = attention.groups()
            joined.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[part] = tensor
            continue
        ours = next((m.expand(new) for old, new in _ONE_TO_ONE if (m := old.fullmatch(name))), name)
        found[ours] = tensor
    for name, parts in joined.items():
        if parts.keys() == {"query", "key", "value"}:
            found[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return found
