"""Fields of many blocks in turn, for which each pixel of a slide is decoded once, ahead of whoever takes them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, floor

import numpy as np
from PIL import Image

from dmmn_qp.choices import Beyond, Reduction
from dmmn_qp.errors import SlideError, SlidePlaceError
from dmmn_qp.regions import Region
from dmmn_qp.slides.base import RgbArray, Slide, check_same, read_field
from dmmn_qp.slides.beyond import mirrored_beyond
from dmmn_qp.slides.pixel_sources import Source, sources_of
from dmmn_qp.specs import PatchGrid

AHEAD = 2
"""Blocks whose tiles are decoded before they are asked for."""

MOST_PX_FOR_A_TILE = 4096
"""Longest side of what is read of a finer level to take the place of a tile."""


@dataclass(slots=True)
class Unreadable:
    """What of a slide could not be read.

    Attributes:
        replaced: Regions that another level was taken for, in level-0 px.
        lost: Regions that no level has, in level-0 px; their pixels are 0.
        reason: What the first error said.
    """

    replaced: list[Region] = field(default_factory=list)
    lost: list[Region] = field(default_factory=list)
    reason: str = ""


class FieldReader:
    """Reads the fields of blocks, to the pixels that `read_field` gives (but for rounding where it resamples, and what
    lies beyond the slide).

    A tile of the source is decoded when the first block needs it, its lower magnifications are made at once, and each
    of them is kept until no later block needs it. So memory holds a few blocks and, of those below and above, the rows
    that fields of neighbouring blocks have in common.

    Where a tile cannot be read, the next coarser level that can takes its place, enlarged, else the next finer one,
    reduced; without any it is 0. An error may leave a slide unusable, so it is opened again.

    Args:
        reopen: Opens the slide.
        grid: The patch grid on it.
        fields: For each block, the field of each magnification that is wanted, finest first, in its own pixels.
        reduction: How lower magnifications are made.
        workers: Threads that decode.
        beyond: What lies outside the slide.
        check_unchanged: Raises where the slide's file became another one; asked where a tile cannot be read.
    """

    def __init__(
        self,
        reopen: Callable[[], Slide],
        grid: PatchGrid,
        fields: Sequence[Sequence[Region]],
        reduction: Reduction = "area",
        workers: int = 2,
        beyond: Beyond = "black",
        check_unchanged: Callable[[], None] = lambda: None,
    ) -> None:
        self._beyond = beyond
        self.unreadable = Unreadable()
        self._open = reopen
        self._check_unchanged = check_unchanged
        self._slide = reopen()
        self._info = self._slide.info
        self._grid = grid
        self._reduction = reduction
        self._fields = fields
        self._lock = threading.Lock()
        self._sources = sources_of(self._slide, grid, len(fields[0]) if fields else 0, reduction)
        self._source_of = {m: source for source in self._sources for m in source.factors}
        self._uses = Counter(key for block in fields for key in self._keys(block))
        self._tiles: dict[tuple[int, int, int], Future[dict[int, RgbArray]]] = {}
        self._decoders = ThreadPoolExecutor(workers)
        self._assembler = ThreadPoolExecutor(1)

    def __enter__(self) -> FieldReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._assembler.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)
        self._slide.close()

    def __iter__(self) -> Iterator[list[RgbArray]]:
        """Yields the fields of each block in turn, (height, width, 3) uint8 for each magnification."""
        ahead: list[Future[list[RgbArray]]] = []
        for i in range(len(self._fields) + AHEAD):
            if i < len(self._fields):
                for key in self._keys(self._fields[i]):
                    self._start(key)
                ahead.append(self._assembler.submit(self._assemble, self._fields[i]))
            if i >= AHEAD:
                yield ahead.pop(0).result()

    def _keys(self, fields: Sequence[Region]) -> Iterator[tuple[int, int, int]]:
        """Yields (magnification, row, column) of the tiles that fields touch."""
        for m, wanted in enumerate(fields):
            source = self._source_of[m]
            wide, high = source.wide // source.factors[m], source.high // source.factors[m]
            for row in range(wanted.y // high, -(-wanted.bottom // high)):
                for column in range(wanted.x // wide, -(-wanted.right // wide)):
                    yield m, row, column

    def _start(self, key: tuple[int, int, int]) -> None:
        m, row, column = key
        source = self._source_of[m]
        tile = (source.first, row, column)
        with self._lock:
            if tile not in self._tiles:
                self._tiles[tile] = self._decoders.submit(self._decode, source, row, column)

    def _assemble(self, fields: Sequence[Region]) -> list[RgbArray]:
        pixels = [np.empty((wanted.height, wanted.width, 3), np.uint8) for wanted in fields]
        for key in self._keys(fields):
            m, row, column = key
            source = self._source_of[m]
            wanted, wide, high = fields[m], source.wide // source.factors[m], source.high // source.factors[m]
            tile = Region(column * wide, row * high, wide, high)
            part = tile.intersection(wanted)
            assert part is not None
            made = self._tiles[source.first, row, column].result()
            y, x = part.y - wanted.y, part.x - wanted.x
            pixels[m][y : y + part.height, x : x + part.width] = made[m][
                part.y - tile.y : part.bottom - tile.y, part.x - tile.x : part.right - tile.x
            ]
            self._release(key)
        if self._beyond == "black":
            return pixels
        shapes = [self._grid.whole_shape(self._info.width, self._info.height, m) for m in range(len(fields))]
        return [mirrored_beyond(*field) for field in zip(pixels, fields, shapes, strict=True)]

    def _release(self, key: tuple[int, int, int]) -> None:
        """Drops what no later block needs."""
        m, row, column = key
        self._uses[key] -= 1
        if self._uses[key] == 0:
            del self._uses[key]
            tile = (self._source_of[m].first, row, column)
            with self._lock:
                made = self._tiles[tile].result()
                made.pop(m)
                if not any((other, row, column) in self._uses for other in self._source_of[m].factors):
                    del self._tiles[tile]

    def _decode(self, source: Source, row: int, column: int) -> dict[int, RgbArray]:
        """Decodes a tile at every magnification that some block needs."""
        region = Region(column * source.wide, row * source.high, source.wide, source.high)
        slide = self._slide
        try:
            pixels = self._read(slide, source, region)
        except SlidePlaceError:
            raise
        except SlideError as error:
            self._check_unchanged()
            self._open_again(slide)
            pixels = self._mended(source, region, str(error))
        return {
            m: self._reduced(pixels, factor)
            for m, factor in source.factors.items()
            if (m, row, column) in self._uses  # read without the lock: what is dropped is not decoded any more
        }

    def _read(self, slide: Slide, source: Source, region: Region) -> RgbArray:
        if source.level is None:
            return read_field(slide, self._grid, source.first, region, self._reduction)
        return slide.read_level(source.level, region)

    def _reduced(self, pixels: RgbArray, factor: int) -> RgbArray:
        if factor == 1:
            return pixels
        if self._reduction == "decimate":
            return np.ascontiguousarray(pixels[::factor, ::factor])
        return np.asarray(Image.fromarray(pixels).reduce(factor))

    def _mended(self, source: Source, region: Region, reason: str) -> RgbArray:
        """Returns what stands for a tile that could not be read: the next level that can be, or 0.

        It is first tried again: a slide that another thread has met an error in fails for everyone. Each try has a
        slide of its own for the same reason.
        """
        info = self._info
        finest = self._grid.downsample_of(source.first)
        across, down = (finest, finest) if source.level is None else info.scale_of(source.level)
        left, top = region.x * across, region.y * down
        right, bottom = region.right * across, region.bottom * down
        place = Region(floor(left), floor(top), ceil(right) - floor(left), ceil(bottom) - floor(top))
        size = (region.width, region.height)
        with _damage_passed_over(), self._reopen() as slide:
            return self._read(slide, source, region)
        with self._lock:
            self.unreadable.reason = self.unreadable.reason or reason
        levels = [(level, info.scale_of(level)) for level in range(len(info.level_downsamples))]
        coarser = [(level, other) for level, other in levels if other[0] > across]
        finer = [(level, other) for level, other in reversed(levels) if other[0] < across]
        for level, (wide, high) in coarser + finer:
            x, y = floor(left / wide), floor(top / high)
            around = Region(x, y, ceil(right / wide) - x, ceil(bottom / high) - y)
            if max(around.width, around.height) > MOST_PX_FOR_A_TILE:
                break
            box = (left / wide - x, top / high - y, right / wide - x, bottom / high - y)
            way = Image.Resampling.NEAREST if wide > across else Image.Resampling.BOX
            with _damage_passed_over(), self._reopen() as slide:
                pixels = Image.fromarray(slide.read_level(level, around))
                self._note(self.unreadable.replaced, place)
                return np.asarray(pixels.resize(size, way, box=box))
        self._note(self.unreadable.lost, place)
        return np.zeros((region.height, region.width, 3), np.uint8)

    def _reopen(self) -> Slide:
        """Opens the slide once more.

        Raises:
            SlideError: It cannot be opened, or has become another one.
        """
        slide = self._open()
        try:
            check_same(self._info, slide)
        except SlideError:
            slide.close()
            raise
        return slide

    def _note(self, places: list[Region], place: Region) -> None:
        with self._lock:
            if place not in places:
                places.append(place)

    def _open_again(self, broken: Slide) -> None:
        """Replaces a slide that met an error, unless another thread has done so, which may still read from it."""
        with self._lock, _damage_passed_over():
            if self._slide is broken:
                self._slide = self._reopen()


@contextmanager
def _damage_passed_over() -> Iterator[None]:
    """Goes on after what is wrong with a slide, but not with its place: for that nothing may stand."""
    try:
        yield
    except SlidePlaceError:
        raise
    except SlideError:
        pass
