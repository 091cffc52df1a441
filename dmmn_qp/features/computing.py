"""Tiles of slides -> the maps that a pretrained encoder makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmmn_qp.engines.cores import available_cores
from dmmn_qp.features.cache import FeatureCache, KeptMaps
from dmmn_qp.networks.conventions import InputConvention, network_input
from dmmn_qp.networks.devices import autocast
from dmmn_qp.networks.dmmn_p import DmmnP
from dmmn_qp.networks.encoders import digest_of
from dmmn_qp.networks.laying import cut
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import Slide
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import PatchGrid

TILE_PX = 1024
"""Side of a tile in grid px."""

MARGIN_PX = 128
"""Context around a tile on each side, in px of each magnification."""

MOST_DECODERS = 8


@dataclass(frozen=True, slots=True)
class SeenSlide:
    """A slide whose tiles are looked at.

    Attributes:
        key: What tells it, in the frame in which it is read, from every other.
        grid: The patch grid on it.
        open: Opens it.
    """

    key: str
    grid: PatchGrid
    open: Callable[[], Slide]


class FeatureMaps:
    """Gives the maps of tiles, from the cache where they are in it.

    Once the encoder has learned, they are computed anew each time, and kept nowhere.

    Args:
        network: The network whose encoder looks; on its device, in evaluation mode.
        convention: How pixels become its input.
        device: Where it is.
        bf16: Whether it computes in 16 bits.
        cache: Where maps are kept.
    """

    def __init__(
        self, network: DmmnP, convention: InputConvention, device: torch.device, bf16: bool, cache: FeatureCache
    ) -> None:
        self._network, self._convention, self._device, self._bf16 = network, convention, device, bf16
        self._cache = cache
        self._encoder_key = digest_of(network.encoder)

    def of_tiles(self, slide: SeenSlide, tiles: Sequence[Region]) -> Iterator[list[Tensor]]:
        """Yields the maps of each tile of a slide in turn.

        Args:
            slide: The slide.
            tiles: In grid px, of `TILE_PX` on each side and at multiples of it.

        Yields:
            For each magnification and stride (1, channels, h, w) float16 on the CPU, about the tile's centre, as far
            as `DmmnP.decide` needs them for the tile.
        """
        frozen = digest_of(self._network.encoder) == self._encoder_key
        folder = self._cache.folder_of(self._key(slide)) if frozen else KeptMaps(self._cache, None)
        missing = [tile for tile in tiles if not folder.has(tile)]
        absent = set(missing)
        with self._cache.room():
            computed = self._computed(slide, missing)
            for tile in tiles:
                if tile in absent:
                    maps = next(computed)
                    folder.put(tile, maps)
                    yield maps
                    continue
                kept = folder.get(tile)
                yield next(self._computed(slide, [tile])) if kept is None else kept

    def _computed(self, slide: SeenSlide, tiles: Sequence[Region]) -> Iterator[list[Tensor]]:
        if not tiles:
            return
        fields = [
            [slide.grid.around(tile, m, MARGIN_PX, self._network.divisor) for m in self._magnifications]
            for tile in tiles
        ]
        workers = min(MOST_DECODERS, available_cores())
        with FieldReader(
            slide.open, slide.grid, fields, self._convention.reduction, workers, self._convention.beyond
        ) as reader:
            for pixels in reader:
                with torch.inference_mode(), autocast(self._device, self._bf16):
                    images = [
                        network_input(
                            torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None], self._convention
                        ).contiguous(memory_format=torch.channels_last)
                        for image in pixels
                    ]
                    yield self._cut(self._network.see(images))

    def _cut(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [
            cut(features, side_px, TILE_PX, TILE_PX).to("cpu", torch.float16).contiguous()
            for features, side_px in zip(maps, self._network.cells_px, strict=True)
        ]

    @property
    def _magnifications(self) -> range:
        return range(self._network.magnifications)

    def _key(self, slide: SeenSlide) -> str:
        """What the maps of a slide depend on, beside the tile."""
        said = (
            self._encoder_key,
            slide.key,
            slide.grid.downsample,
            self._network.magnifications,
            MARGIN_PX,
            self._network.views,
            self._convention.model_dump_json(),
            self._bf16,
            self._device.type,
            TILE_PX,
        )
        return hashlib.sha256(repr(said).encode()).hexdigest()


def tiles_over(regions: Sequence[Region], tile_px: int = TILE_PX) -> list[Region]:
    """The tiles that regions touch, row by row; all in grid px."""
    places = {
        (row, column)
        for region in regions
        for row in range(region.y // tile_px, -(-region.bottom // tile_px))
        for column in range(region.x // tile_px, -(-region.right // tile_px))
    }
    return [Region(column * tile_px, row * tile_px, tile_px, tile_px) for row, column in sorted(places)]
