"""Every reader gives the pixels that the file was made from, at the borders and outside too."""

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import SLIDE_READERS, fingerprint, open_slide, read_field, read_overview
from dmmn_qp.slides.base import resolve_mpp
from dmmn_qp.slides.cached import CachedFields, TileBudget
from dmmn_qp.specs import PatchSpec
from tests.conftest import CMU_1, DEMO, write_tiff


def noise(rows, columns):
    return np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), np.uint8)


@pytest.fixture(params=sorted(SLIDE_READERS))
def made(request, tmp_path):
    """(slide, the pixels it was made from) of an odd size, through each reader."""
    pixels = noise(301, 517)
    if request.param == "openslide":
        path = write_tiff(tmp_path / "slide.tif", pixels)
    else:
        path = tmp_path / "slide.png"
        Image.fromarray(pixels).save(path)
    with open_slide(path, user_mpp=0.5) as slide:
        assert type(slide) is SLIDE_READERS[request.param][1]
        yield slide, pixels


class TestEveryReader:
    def test_info(self, made):
        slide, pixels = made
        assert (slide.info.height, slide.info.width) == pixels.shape[:2]
        assert slide.info.mpp == pytest.approx(0.5)
        assert slide.info.level_downsamples[0] == 1

    @pytest.mark.parametrize("region", [Region(0, 0, 517, 301), Region(100, 50, 33, 7), Region(516, 300, 1, 1)])
    def test_pixels_are_those_of_the_file(self, made, region):
        slide, pixels = made
        expected = pixels[region.y : region.bottom, region.x : region.right]
        assert np.array_equal(slide.read_level(0, region), expected)

    def test_outside_is_zero(self, made):
        slide, pixels = made
        read = slide.read_level(0, Region(-10, -20, 40, 50))
        assert not read[:20].any() and not read[:, :10].any()
        assert np.array_equal(read[20:, 10:], pixels[:30, :30])
        assert not slide.read_level(0, Region(517, 0, 8, 8)).any()
        assert not slide.read_level(0, Region(-100, -100, 8, 8)).any()

    def test_fields_are_exact_means(self, made):
        slide, pixels = made
        grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
        padded = np.zeros((64 * 4, 64 * 4, 3))
        padded[96:, 96:] = pixels[:160, :160]
        for m in range(3):
            field = read_field(slide, grid, m, grid.field(Region(0, 0, 64, 64), m))
            side, k = 64 * 2**m, 2**m
            start = 128 - side // 2
            wide = padded[start : start + side, start : start + side]
            means = wide.reshape(64, k, 64, k, 3).mean(axis=(1, 3))
            assert np.abs(field - means).max() <= 0.5

    @pytest.mark.parametrize("mpp", [0.5, 0.25, 0.2271])
    def test_cached_fields_are_the_fields(self, made, mpp):
        slide, _ = made
        grid = PatchSpec(size_px=64, stride_px=64).grid_of(mpp)
        cached = CachedFields(slide, grid, TileBudget(limit_bytes=2_000_000), number=0)
        for m in range(3):
            for region in (Region(-40, -7, 300, 90), Region(500, 3, 64, 64), Region(0, 0, 64, 64)):
                difference = cached.read(m, region).astype(int) - read_field(slide, grid, m, region)
                assert np.abs(difference).max() <= (0 if grid.downsample == int(grid.downsample) else 1)

    def test_overview(self, made):
        slide, pixels = made
        picture = read_overview(slide, 128)
        assert picture.shape == (61, 104, 3)  # 301 / 5 and 517 / 5, rounded up
        assert abs(float(picture[:60, :103].mean()) - float(pixels.mean())) < 1


def test_tile_budget_drops_the_oldest():
    budget = TileBudget(limit_bytes=250)
    for number in range(3):
        budget.put((number, 0, 0, 0), np.zeros((10, 10), np.uint8))
    assert [key[0] for key in budget.tiles] == [1, 2]
    assert budget.used_bytes == 200


def test_real_aperio_slide():
    with open_slide(CMU_1) as slide:
        assert (slide.info.width, slide.info.height) == (2220, 2967)
        assert slide.info.mpp == pytest.approx(0.499)
        grid = PatchSpec().grid_of(slide.info.mpp)
        assert grid.downsample == 1
        fine, coarse = (read_field(slide, grid, m, Region(256 >> m, 256 >> m, 256, 256)) for m in (0, 1))
        halved = fine.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
        assert np.abs(coarse[:128, :128] - halved).max() <= 0.5


def test_pyramid_level_is_taken_as_it_is():
    with open_slide(DEMO / "slides" / "val-1.tif") as slide:
        assert slide.info.level_downsamples == pytest.approx((1, 4, 16))
        grid = PatchSpec().grid_of(slide.info.mpp)
        region = Region(100, 200, 256, 256)
        assert np.array_equal(read_field(slide, grid, 2, region), slide.read_level(1, region))


def test_bounds_are_qupaths_frame(monkeypatch, tmp_path):
    import openslide

    pixels = noise(400, 600)
    path = write_tiff(tmp_path / "bounds.tif", pixels)
    bounds = {"openslide.bounds-x": "30", "openslide.bounds-y": "50"}
    bounds |= {"openslide.bounds-width": "200", "openslide.bounds-height": "100", "openslide.mpp-x": "0.5"}
    bounds |= {"openslide.mpp-y": "0.5"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda self: bounds))
    with open_slide(path) as slide:
        assert (slide.info.width, slide.info.height, slide.info.origin_px) == (200, 100, (30, 50))
        assert np.array_equal(slide.read_level(0, Region(0, 0, 10, 10)), pixels[50:60, 30:40])
        assert not slide.read_level(0, Region(200, 0, 5, 5)).any()
    with open_slide(path, crop_to_bounds=False) as slide:
        assert (slide.info.width, slide.info.height, slide.info.origin_px) == (600, 400, (0, 0))


@pytest.mark.parametrize(
    ("from_file", "from_project", "from_user", "expected"),
    [
        ((0.25, 0.25), 0.5, 1.0, 0.25),
        (None, 0.5, 1.0, 0.5),
        (None, None, 1.0, 1.0),
        ((1000.0, 1000.0), None, 0.5, 0.5),
        ((0.25, 0.5), None, 0.5, 0.5),
    ],
)
def test_pixel_size_precedence(from_file, from_project, from_user, expected):
    assert resolve_mpp("S", from_file, from_project, from_user) == expected


@pytest.mark.parametrize("from_file", [None, (1000.0, 1000.0), (0.25, 0.5), (float("nan"), 1.0)])
def test_unknown_pixel_size_says_the_way_out(from_file):
    with pytest.raises(PixelSizeError, match=r'"S" has no usable pixel size.*--mpp'):
        resolve_mpp("S", from_file, None, None)


def test_unreadable_files(tmp_path):
    with pytest.raises(SlideError, match="does not exist"):
        open_slide(tmp_path / "none.svs")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(SlideError, match="neither by OpenSlide nor as a picture"):
        open_slide(tmp_path / "text.svs")
    (tmp_path / "cut.svs").write_bytes(CMU_1.read_bytes()[:5000])
    with pytest.raises(SlideError):
        open_slide(tmp_path / "cut.svs")


def test_damaged_tile_names_the_place(tmp_path):
    data = bytearray(CMU_1.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    (tmp_path / "holed.svs").write_bytes(data)
    with open_slide(tmp_path / "holed.svs") as slide, pytest.raises(SlideError, match="damaged at level 0"):
        slide.read_level(0, Region(0, 0, 2220, 2967))


def test_fingerprint_tells_files_apart(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"a" * 1000)
    second.write_bytes(b"a" * 999 + b"b")
    assert fingerprint(first) == fingerprint(first) != fingerprint(second)
