"""The tokens of a vision transformer as maps, so that it is an encoder like a convolutional one."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional


def is_plain_transformer(model: nn.Module) -> bool:
    """Whether a module has the parts of timm's ``VisionTransformer``, with a position added to each patch."""
    parts = ("patch_embed", "cls_token", "pos_embed", "blocks", "norm")
    turned = getattr(model, "rope", None) is not None  # positions that turn tokens, too
    return all(hasattr(model, part) for part in parts) and isinstance(model.pos_embed, Tensor) and not turned


class PatchTokens(nn.Module):
    """A vision transformer as an encoder of one stride.

    Class and register tokens take part and are dropped at the end. Positions, which were learned for images of one
    size, are interpolated for others. Images whose sides are no multiples of a patch are mirrored at their borders, by
    as much on either side, so that the map keeps the image's centre.

    Args:
        model: With the parts of timm's ``VisionTransformer``: ``patch_embed.proj``, ``cls_token``, ``reg_token``,
            ``pos_embed``, ``norm_pre``, ``blocks`` and ``norm``; with ``no_embed_class`` only patches have positions.

    Attributes:
        strides: Side of a patch.
        channels: Length of a token.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        projection: nn.Conv2d = model.patch_embed.proj  # type: ignore[assignment, union-attr]
        self.strides = (projection.stride[0],)
        self.channels = (projection.out_channels,)

    def train(self, mode: bool = True) -> Self:
        """Leaves it in evaluation mode: it computes the same in training."""
        del mode
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, h, w) -> one map (B, channels, h / stride, w / stride), rounded up, about the image's centre."""
        patches = self._patches(image)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        extra = [token.expand(len(image), -1, -1) for token in self._extra_tokens()]
        for_extra, for_patches = self._positions(rows, columns)
        tokens = torch.cat([*extra, tokens + for_patches], 1)
        dropped = tokens.shape[1] - rows * columns
        if for_extra.shape[1]:
            tokens = torch.cat([tokens[:, :dropped] + for_extra, tokens[:, dropped:]], 1)
        tokens = self._part("norm_pre", tokens)
        for block in self.model.blocks:  # type: ignore[union-attr]
            tokens = block(tokens)
        tokens = self._part("norm", tokens)[:, dropped:]
        return [tokens.transpose(1, 2).reshape(len(image), -1, rows, columns)]

    def _patches(self, image: Tensor) -> Tensor:
        """The patches before anything is added: (B, channels, rows, columns)."""
        (side,) = self.strides
        missing = [-length % side for length in image.shape[-2:]]
        (top, left), (bottom, right) = ([m // 2 for m in missing], [m - m // 2 for m in missing])
        if any(missing):
            image = functional.pad(image, (left, right, top, bottom), mode="reflect")
        patches: Tensor = self.model.patch_embed.proj(image)  # type: ignore[union-attr, operator]
        norm = getattr(self.model.patch_embed, "norm", None)
        if norm is not None:
            patches = norm(patches.movedim(1, -1)).movedim(-1, 1)
        return patches

    def _extra_tokens(self) -> list[Tensor]:
        tokens = (getattr(self.model, name, None) for name in ("cls_token", "reg_token"))
        return [token for token in tokens if token is not None]

    def _positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """What is added to class and register tokens (none where they have no place), and to so many patches."""
        positions: Tensor = self.model.pos_embed  # type: ignore[assignment]
        extra = sum(token.shape[1] for token in self._extra_tokens())
        places = 0 if getattr(self.model, "no_embed_class", False) else extra
        learned = positions[:, places:]
        side = math.isqrt(learned.shape[1])
        if (rows, columns) != (side, side):
            grid = learned.transpose(1, 2).reshape(1, -1, side, side).float()
            grid = functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False, antialias=True)
            learned = grid.flatten(2).transpose(1, 2).to(positions.dtype)
        return positions[:, :places], learned

    def _part(self, name: str, tokens: Tensor) -> Tensor:
        layer = getattr(self.model, name, None)
        return tokens if layer is None else layer(tokens)
