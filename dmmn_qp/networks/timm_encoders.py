"""Encoders that the library timm builds, where it can be imported: ``timm:NAME`` or ``timm:NAME?key=value&...``.

timm gives the structure alone. It is never asked for weights, so it opens no connection.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from dmmn_qp.errors import ConfigError, ModelError
from dmmn_qp.files.failures import install_command
from dmmn_qp.networks.conventions import InputConvention
from dmmn_qp.networks.patch_tokens import PatchTokens, is_plain_transformer
from dmmn_qp.text import shorten

TIMM: Final = "timm:"
"""Begins the names of encoders that timm builds."""

_NAME: Final = re.compile(r"timm:(?P<model>[A-Za-z0-9_.]{1,100})(\?(?P<options>[A-Za-z0-9_.,=&+-]{1,500}))?")
_MOST_CHANNELS: Final = 65536
_PROBE_PX: Final = 224
_LARGEST_STRIDE: Final = 32

_WHOLE: Final = {
    **dict.fromkeys(("img_size", "embed_dim", "window_size"), _MOST_CHANNELS),
    **dict.fromkeys(("num_heads", "depth", "reg_tokens", "patch_size"), 256),
}
_NUMBERS: Final = ("init_values", "mlp_ratio")
_SWITCHES: Final = ("class_token", "dynamic_img_size", "no_embed_class", "pre_norm", "qkv_bias", "strict_img_size")
_LAYERS: Final = {"mlp_layer": ("Mlp", "GluMlp", "SwiGLU", "SwiGLUPacked"), "act_layer": ("GELU", "SiLU", "ReLU")}
_COLOURS: Final = ("mean", "std")
_INPUT: Final = "input"
_INPUTS: Final[dict[str, dict[str, tuple[float, float, float]]]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "half": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
}
OPTIONS: Final = (*_WHOLE, *_NUMBERS, *_SWITCHES, *_LAYERS, *_COLOURS, _INPUT)
"""What may follow the name of a model of timm."""


class TimmMaps(nn.Module):
    """A model of timm that has maps of its own, as an encoder.

    Args:
        model: It has timm's ``forward_intermediates``.
        maps: Stride -> (number of the last of its maps with that stride, channels).
    """

    def __init__(self, model: nn.Module, maps: Mapping[int, tuple[int, int]]) -> None:
        super().__init__()
        self.model = model
        self.strides = tuple(sorted(maps))
        self.channels = tuple(maps[stride][1] for stride in self.strides)
        self._numbers = [maps[stride][0] for stride in self.strides]

    def train(self, mode: bool = True) -> Self:
        """Leaves it in evaluation mode: statistics of its normalisation stay, and nothing is dropped."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, h, w), multiples of 32 -> maps (B, channels[k], h / strides[k], w / strides[k])."""
        found: list[Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            image, indices=self._numbers, intermediates_only=True, output_fmt="NCHW"
        )
        return [features.contiguous() for features in found]


@lru_cache(maxsize=4)
def timm_encoder(name: str) -> tuple[InputConvention, tuple[tuple[int, tuple[int, int]], ...] | None]:
    """How an encoder of timm sees pixels, and its maps as `TimmMaps` has them; None of a plain transformer.

    Raises:
        ModelError: timm has no such model, or it gives no maps that can be used.
        ConfigError: timm cannot be imported, or the name is wrong.
    """
    with torch.device("meta"):
        model = _create(name)
        maps = None if is_plain_transformer(model) else tuple(_maps_of(name, model).items())
    given = _parsed(name)[1]
    published: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (given.get(key) or tuple(published.get(key) or ()) for key in _COLOURS)
    try:
        return InputConvention(mean=mean or None, std=std or None, beyond="mirror"), maps
    except ValueError as error:
        raise ModelError(
            f'encoder "{shorten(name)}" wants pixels with a mean or std that cannot be; say them after its name: '
            "?input=imagenet"
        ) from error


def build_timm_encoder(name: str) -> nn.Module:
    """Builds an encoder of timm with random weights; all that it computes with is in its ``state_dict``."""
    maps = timm_encoder(name)[1]
    model = _create(name)
    encoder = PatchTokens(model) if maps is None else TimmMaps(model, dict(maps))
    stored = encoder.state_dict().keys()
    for module in encoder.modules():
        module._non_persistent_buffers_set.clear()  # a model folder holds them, so that none is left undefined
    encoder.computed = frozenset(encoder.state_dict().keys() - stored)  # type: ignore[assignment]
    return encoder


def _maps_of(name: str, model: nn.Module) -> dict[int, tuple[int, int]]:
    """Stride -> number and channels of the last map of that stride, found by trying (on the meta device)."""
    try:
        found = model.forward_intermediates(torch.empty(1, 3, _PROBE_PX, _PROBE_PX), intermediates_only=True)  # type: ignore[operator]
        maps = {}
        for i, features in enumerate(found):
            stride = _PROBE_PX // features.shape[-1]
            if _PROBE_PX % features.shape[-1] == 0 and stride <= _LARGEST_STRIDE:
                maps[stride] = (i, int(features.shape[1]))
    except Exception as error:  # whatever timm's models raise
        raise ModelError(
            f'encoder "{shorten(name)}" gives no maps ({shorten(str(error), 160)}); choose another model of timm'
        ) from error
    if not maps:
        raise ModelError(f'encoder "{shorten(name)}" has no map of a stride up to {_LARGEST_STRIDE}; choose another')
    return maps


def _create(name: str) -> nn.Module:
    model_name, options = _parsed(name)
    try:
        import timm
    except Exception as error:  # it needs torchvision of torch's own build, and says so in many ways
        raise ConfigError(
            f'encoder "{shorten(name)}" needs timm, which cannot be imported ({shorten(str(error), 160)}); '
            f"{install_command('timm')} beside a torchvision that fits torch"
        ) from error
    arguments = {key: value for key, value in options.items() if key not in _COLOURS}
    for key in _LAYERS.keys() & arguments.keys():
        layer = arguments[key]
        arguments[key] = getattr(nn, layer) if hasattr(nn, layer) else getattr(timm.layers, layer)
    try:
        model: nn.Module = timm.create_model(model_name, pretrained=False, num_classes=0, **arguments)
    except Exception as error:  # whatever timm's models raise
        raise ModelError(
            f'timm cannot build encoder "{shorten(name)}" ({shorten(str(error), 160)}); see timm.list_models()'
        ) from error
    return model


def _parsed(name: str) -> tuple[str, dict[str, Any]]:
    """Name of a model of timm, and its options.

    Raises:
        ConfigError: The name is none, or an option or its value is none of those that are allowed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f'encoder "{shorten(name)}" is no name such as timm:vit_base_patch16_224?init_values=1e-5')
    options: dict[str, Any] = {}
    for part in (match["options"] or "").split("&"):
        if part:
            key, _, text = part.partition("=")
            if key == _INPUT and text in _INPUTS:
                options |= _INPUTS[text]
            else:
                options[key] = _value(key, text)
    return match["model"], options


def _value(key: str, text: str) -> Any:
    try:
        if key in _WHOLE and 0 <= int(text) <= _WHOLE[key]:
            return int(text)
        if key in _NUMBERS and 0 < float(text) < _MOST_CHANNELS:
            return float(text)
        if key in _SWITCHES and text in ("true", "false"):
            return text == "true"
        if key in _LAYERS and text in _LAYERS[key]:
            return text
        if key in _COLOURS:
            first, second, third = map(float, text.split(","))
            return first, second, third
    except ValueError:
        pass
    raise ConfigError(
        f'option "{shorten(key)}={shorten(text)}" of an encoder of timm is unknown or has a wrong value; options are '
        f"{', '.join(OPTIONS)}"
    )
