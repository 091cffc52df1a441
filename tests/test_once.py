"""Fields of many blocks: the pixels of `read_field`, each decoded once, whatever cannot be read."""

import threading

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.errors import SlideChangedError, SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.base import SlideInfo, read_field, read_inside
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import PatchSpec
from tests.conftest import CMU_1

SPEC = PatchSpec(size_px=64, stride_px=64)


class ArraySlide:
    """A pyramid in memory that notes what is read, and fails as OpenSlide does: once, and from then on always.

    Args:
        levels: Pixels of each level.
        path: What the slide is called.
        mpp: um/px of level 0.
        damaged: (level, region) that cannot be read.
        read: Notes (level, region) of each read that succeeds.
        tile_px: See `SlideInfo`.
    """

    def __init__(self, levels, path, mpp=0.5, damaged=(), read=None, tile_px=(64, 64)):
        rows, columns = levels[0].shape[:2]
        self.levels, self.damaged, self.read = levels, damaged, read
        downsamples = tuple(columns / level.shape[1] for level in levels)
        self.info = SlideInfo(path, columns, rows, mpp, downsamples, tile_px=tile_px)
        self.broken = self.closed = False

    def read_level(self, level, region):
        assert not self.closed
        if self.broken or any(level == of and region.intersection(place) for of, place in self.damaged):
            self.broken = True
            raise SlideError("the tile is damaged" if not self.broken else f"damaged at level {level}")
        if self.read is not None:
            self.read.append((level, region))
        rows, columns = self.levels[level].shape[:2]

        def cut(inside):
            return self.levels[level][inside.y : inside.bottom, inside.x : inside.right]

        return read_inside(region, columns, rows, cut)

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)


def pyramid(rows, columns, *factors):
    """Levels whose pixels have nothing in common, so that it shows which was read."""
    return [noise(rows // f, columns // f, seed=f) for f in (1, *factors)]


def blocks_of(slide, grid, side=2, margin=0, magnifications=3):
    """The fields of all blocks of ``side`` targets."""
    rows, columns = grid.shape(slide.info.width, slide.info.height)
    size = grid.spec.size_px
    whole = Region(0, 0, -(-columns // size) * size, -(-rows // size) * size)
    return [
        [grid.field(block, m).grown(margin) if margin else grid.field(block, m) for m in range(magnifications)]
        for block in whole.tiles(side * size)
    ]


def check_pixels(reopen, grid, fields, reduction="area", tolerance=0):
    with reopen() as slide, FieldReader(reopen, grid, fields, reduction) as reader:
        for block, pixels in zip(fields, reader, strict=True):
            for m, (wanted, found) in enumerate(zip(block, pixels, strict=True)):
                expected = read_field(slide, grid, m, wanted, reduction)
                assert found.shape == expected.shape and found.dtype == np.uint8
                assert np.abs(found.astype(int) - expected).max() <= tolerance
        assert not reader._tiles and not reader._uses
        assert reader.unreadable.replaced == reader.unreadable.lost == [] and reader.unreadable.reason == ""


@pytest.mark.parametrize("margin", [0, 112])
@pytest.mark.parametrize("reduction", ["area", "decimate"])
@pytest.mark.parametrize("factors", [(), (4,), (2, 4), (3,)])
@pytest.mark.parametrize("mpp", [0.5, 0.25])
def test_pixels_are_those_of_read_field(tmp_path, mpp, factors, reduction, margin):
    levels = pyramid(360, 480, *factors)
    reopen = lambda: ArraySlide(levels, tmp_path, mpp)  # noqa: E731
    grid = SPEC.grid_of(mpp)
    resampled = reduction == "area" and factors == (3,)  # 4 px of level 0 are no whole number of a level's
    check_pixels(reopen, grid, blocks_of(reopen(), grid, margin=margin), reduction, tolerance=2 if resampled else 0)


@pytest.mark.parametrize("reduction", ["area", "decimate"])
def test_resampled_pixels_but_for_rounding(tmp_path, reduction):
    levels = pyramid(400, 500, 4)
    reopen = lambda: ArraySlide(levels, tmp_path, 0.36)  # noqa: E731
    grid = SPEC.grid_of(0.36)
    assert grid.downsample != round(grid.downsample)
    check_pixels(reopen, grid, blocks_of(reopen(), grid), reduction, tolerance=2)


@pytest.mark.parametrize("side", [1, 3])
def test_pixels_of_a_scanned_slide(side):
    reopen = lambda: open_slide(CMU_1)  # noqa: E731
    with reopen() as slide:
        grid = PatchSpec().grid_of(slide.info.mpp)
        fields = blocks_of(slide, grid, side)
    check_pixels(reopen, grid, fields[: 12 // side])


@pytest.mark.parametrize("reduction", ["area", "decimate"])
@pytest.mark.parametrize("factors", [(), (4,), (2, 4)])
@pytest.mark.parametrize("mpp", [0.5, 0.25])
def test_every_pixel_is_decoded_once(tmp_path, mpp, factors, reduction):
    """Count the reads that each pixel of each level is in; those of blocks beside each other overlap by far."""
    levels, read = pyramid(720, 960, *factors), []
    grid = SPEC.grid_of(mpp)
    fields = blocks_of(ArraySlide(levels, tmp_path, mpp), grid, 1)
    with FieldReader(lambda: ArraySlide(levels, tmp_path, mpp, read=read), grid, fields, reduction, 1) as reader:
        for _ in reader:
            pass
    assert read
    finest = 1 if mpp == 0.25 and 2 in factors else 0
    for level, pixels in enumerate(levels):
        times = np.zeros(pixels.shape[:2], int)
        for _, region in (entry for entry in read if entry[0] == level):
            times[max(0, region.y) : max(0, region.bottom), max(0, region.x) : max(0, region.right)] += 1
        if level == finest:
            assert times.min() == times.max() == 1
        else:
            assert times.max() <= (1 if reduction == "area" and level > finest else 0)


def test_blocks_that_are_left_out_cost_no_reading(tmp_path):
    levels, read = pyramid(1024, 3072), []
    grid = PatchSpec(size_px=64, mpps=(0.5,), stride_px=64).grid_of(0.5)
    fields = [[Region(x, 0, 128, 128)] for x in (0, 2944)]
    with FieldReader(lambda: ArraySlide(levels, tmp_path, read=read), grid, fields) as reader:
        assert len(list(reader)) == 2
    assert sorted((region.x, region.y) for _, region in read) == [(0, 0), (2560, 0)]


def test_of_a_file_that_became_another_one_nothing_more_is_read(tmp_path):
    """A hundred blocks, of which the first cannot be read."""
    grid, read = PatchSpec(size_px=64, mpps=(0.5,), stride_px=64).grid_of(0.5), []
    fields = [[Region(512 * i, 0, 64, 64)] for i in range(100)]

    class Cut(ArraySlide):
        def read_level(self, level, region):
            read.append(region)
            raise SlideError("damaged")

    def changed():
        raise SlideChangedError("changed")

    def opened():
        return Cut(pyramid(64, 51_200), tmp_path)

    with FieldReader(opened, grid, fields, check_unchanged=changed) as reader, pytest.raises(SlideChangedError):
        list(reader)
    assert 1 <= len(read) < 10


def test_memory_does_not_grow_with_the_slide(tmp_path):
    """The most tiles that are held at once on a tall slide are those on one of half its height."""
    most = {}
    grid = SPEC.grid_of(0.5)
    for rows in (4096, 8192):
        levels = [np.zeros((rows, 256, 3), np.uint8)]
        fields = blocks_of(ArraySlide(levels, tmp_path), grid)
        with FieldReader(lambda levels=levels: ArraySlide(levels, tmp_path), grid, fields) as reader:
            most[rows] = 0
            for _ in reader:
                with reader._lock:
                    most[rows] = max(most[rows], len(reader._tiles))
            assert not reader._tiles and not reader._uses
    assert 0 < most[8192] <= most[4096] + 1 and most[8192] <= 8


@pytest.mark.parametrize("side", [1, 2, 5])
def test_only_what_is_damaged_is_replaced(tmp_path, side):
    """Of a slide that reads nothing more after an error; the coarser level takes the place of one tile."""
    levels = pyramid(1024, 1536, 4)
    damaged = [(0, Region(700, 600, 20, 20))]
    grid = replace_mpps((0.5, 1.0)).grid_of(0.5)
    opened = []

    def reopen(damaged=damaged):
        opened.append(ArraySlide(levels, tmp_path, damaged=damaged))
        return opened[-1]

    whole = lambda: ArraySlide(levels, tmp_path)  # noqa: E731
    fields = blocks_of(whole(), grid, side, magnifications=2)
    tile = Region(512, 512, 512, 512)  # of 64 px tiles, what is decoded together
    enlarged = np.asarray(Image.fromarray(levels[1][128:256, 128:256]).resize((512, 512), Image.Resampling.NEAREST))
    mended = levels[0].copy()
    mended[512:1024, 512:1024] = enlarged
    with FieldReader(reopen, grid, fields, workers=3) as reader, ArraySlide([mended], tmp_path) as expected:
        for block, pixels in zip(fields, reader, strict=True):
            for m, (wanted, found) in enumerate(zip(block, pixels, strict=True)):
                assert np.array_equal(found, read_field(expected, grid, m, wanted))
        assert reader.unreadable.replaced == [tile] and reader.unreadable.lost == []
        assert "damaged" in reader.unreadable.reason
        assert not reader._tiles and not reader._uses
    assert opened[-1].closed


def replace_mpps(mpps):
    return SPEC.model_copy(update={"mpps": mpps})


def test_what_no_level_has_is_lost(tmp_path):
    levels = pyramid(1024, 1024, 4)
    damaged = [(0, Region(100, 600, 20, 20)), (1, Region(20, 140, 5, 5))]
    grid = replace_mpps((0.5, 1.0)).grid_of(0.5)
    reopen = lambda: ArraySlide(levels, tmp_path, damaged=damaged)  # noqa: E731
    fields = blocks_of(reopen(), grid, magnifications=2)
    mended = levels[0].copy()
    mended[512:1024, 0:512] = 0
    with FieldReader(reopen, grid, fields) as reader, ArraySlide([mended], tmp_path) as expected:
        for block, pixels in zip(fields, reader, strict=True):
            for m, (wanted, found) in enumerate(zip(block, pixels, strict=True)):
                assert np.array_equal(found, read_field(expected, grid, m, wanted))
        assert reader.unreadable.lost == [Region(0, 512, 512, 512)] and reader.unreadable.replaced == []


def test_coarser_level_that_is_damaged_costs_no_labels(tmp_path):
    """A lower magnification is then made of finer pixels: what is to be predicted is all there."""
    levels = pyramid(1024, 1024, 4)
    damaged = [(1, Region(100, 100, 20, 20))]
    grid = replace_mpps((0.5, 1.0, 2.0)).grid_of(0.5)
    reopen = lambda: ArraySlide(levels, tmp_path, damaged=damaged)  # noqa: E731
    fields = blocks_of(reopen(), grid)
    with FieldReader(reopen, grid, fields) as reader, ArraySlide(levels[:1], tmp_path) as finest:
        for block, pixels in zip(fields, reader, strict=True):
            for m in (0, 1):
                assert np.array_equal(pixels[m], read_field(finest, grid, m, block[m]))
            made = read_field(finest, grid, 2, block[2])
            assert np.abs(pixels[2].astype(int) - made).max() <= 1
        assert reader.unreadable.lost == [] and len(reader.unreadable.replaced) >= 1


def test_errors_that_are_none_of_the_slide_reach_the_caller(tmp_path):
    class Full(ArraySlide):
        def read_level(self, level, region):
            raise MemoryError("no room")

    levels = pyramid(512, 512)
    grid = SPEC.grid_of(0.5)
    fields = blocks_of(ArraySlide(levels, tmp_path), grid)
    before = threading.active_count()
    with pytest.raises(MemoryError, match="no room"), FieldReader(lambda: Full(levels, tmp_path), grid, fields) as all_:
        list(all_)
    assert threading.active_count() == before


def test_reader_can_be_left_early(tmp_path):
    levels = pyramid(2048, 512)
    grid = SPEC.grid_of(0.5)
    fields = blocks_of(ArraySlide(levels, tmp_path), grid)
    before = threading.active_count()
    with FieldReader(lambda: ArraySlide(levels, tmp_path), grid, fields) as reader:
        next(iter(reader))
    assert threading.active_count() == before
