"""Every reader gives the pixels that the file was made from, at the borders and outside too."""

import _thread
import struct
import threading
import weakref
from dataclasses import dataclass, replace
from functools import partial

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr.codecs
from openslide import OpenSlide, lowlevel
from PIL import Image

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import SLIDE_READERS, jpeg_tiles, open_slide, tiff_tiles, tifffile_reader
from dmmn_qp.slides.base import Slide, read_field, read_overview
from dmmn_qp.slides.cached import CachedFields, TileBudget, tiles_bytes
from dmmn_qp.slides.closing import opened
from dmmn_qp.slides.files import fingerprint, slide_file
from dmmn_qp.slides.folders import list_slides
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.pixel_sizes import StatedMpp
from dmmn_qp.slides.scanner import scanner_of
from dmmn_qp.slides.tiff_level import TiffLevel
from dmmn_qp.slides.transformed import Crop, Flip, Placement, Rotate, TransformedSlide
from dmmn_qp.slides.view import SlideView
from dmmn_qp.specs import PatchSpec
from tests.conftest import CMU_1, DEMO, two_tissues, write_tiff
from tests.slide_files import OME, write_dicom, write_leica, write_pyramid
from tests.zarr_files import write_ome_zarr


def noise(rows, columns):
    """Waves that all sizes have in common, as reduced copies have, and noise that every size has of its own."""
    y, x = (2 * np.pi * (np.arange(side) + 0.5) / side for side in (rows, columns))
    waves = 127.5 + 45 * np.sin(7 * y)[:, None, None] + 45 * np.sin(11 * x)[None, :, None]
    own = np.random.default_rng(rows).uniform(-35, 35, (rows, columns, 3))
    return (waves + own).round().astype(np.uint8)


@dataclass
class Made:
    """An open slide and the arrays of its levels."""

    slide: Slide
    levels: list[np.ndarray]


def odd_levels():
    """Three levels of odd sizes, none of which can stand in for another."""
    return [noise(301, 517), noise(151, 259), noise(76, 130)]


def whole_levels():
    """Levels whose downsamples are whole numbers, for OpenSlide, which interpolates between others."""
    return [noise(302, 518), noise(151, 259)]


def make_openslide(folder):
    levels = whole_levels()
    return write_pyramid(folder / "slide.tif", levels, subifds=False, tile=(128, 128)), levels, {}


def make_dicom(folder):
    levels = whole_levels()
    return write_dicom(folder / "dicom", levels), levels, {}


def make_leica(folder):
    pixels = noise(301, 517)
    return write_leica(folder / "slide.scn", pixels, (700, 600), (41, 33)), [pixels], {}


def make_tiff(folder, **options):
    levels = odd_levels()
    return (
        write_pyramid(folder / "slide.tif", levels, **{"description": OME.format(w=517, h=301, more=""), **options}),
        levels,
        {},
    )


def make_zarr(folder, **options):
    return write_ome_zarr(folder / "slide.ome.zarr", odd_levels(), **options), odd_levels(), {}


def make_picture(folder):
    pixels = noise(301, 517)
    Image.fromarray(pixels).save(folder / "slide.png")
    return folder / "slide.png", [pixels], {}


def make_turned(degrees):
    def make(folder):
        path, levels, _ = make_tiff(folder, tile=(64, 64))
        levels = levels if degrees == 0 else levels[:1]  # the odd sizes put the new corner inside coarser pixels
        return path, [np.rot90(pixels, -degrees // 90) for pixels in levels], {"frame": (Rotate(degrees=degrees),)}

    return make


def make_cropped(folder):
    """Cropped where all levels have a corner, turned, and cropped again where only two of them have one."""
    levels = [noise(640, 960), noise(320, 480), noise(160, 240)]
    path = write_pyramid(folder / "slide.tif", levels, tile=(64, 64), description=OME)
    frame = (Crop(x=8, y=40, width=900, height=600), Rotate(degrees=90), Crop(x=4, y=10, width=517, height=301))
    expected = []
    for k, pixels in zip((1, 2), levels, strict=False):
        turned = np.rot90(pixels[40 // k : 640 // k, 8 // k : 908 // k], -1)
        y, x = 10 // k, 4 // k
        expected.append(turned[y : y + round(301 / k), x : x + round(517 / k)])
    return path, expected, {"frame": frame}


FORMS = {
    "tiff of a kind that openslide knows": ("direct-tiff", make_openslide),
    "openslide dicom": ("openslide", make_dicom),
    "openslide leica with bounds": ("openslide", make_leica),
    "tifffile tiles": ("tifffile", partial(make_tiff, tile=(64, 96), compression="deflate")),
    "tifffile tiles without compression": ("tifffile", partial(make_tiff, tile=(64, 96))),
    "tifffile pages": ("tifffile", partial(make_tiff, subifds=False, rowsperstrip=16, compression="lzw")),
    "tifffile strips": ("tifffile", partial(make_tiff, rowsperstrip=7, compression="deflate", predictor=True)),
    "tifffile strips without compression": ("tifffile", partial(make_tiff, rowsperstrip=7)),
    "tifffile one strip": ("tifffile", partial(make_tiff, rowsperstrip=301, compression="zstd")),
    "tifffile bigtiff jpeg 2000": ("tifffile", partial(make_tiff, tile=(64, 64), compression="jpeg2000")),
    "ome-zarr 0.5": ("ome-zarr", make_zarr),
    "ome-zarr 0.5 cyx gzip": ("ome-zarr", partial(make_zarr, axes="cyx", compressors=zarr.codecs.GzipCodec())),
    "ome-zarr 0.5 shards": ("ome-zarr", partial(make_zarr, shards=(1, 3, 1, 128, 192))),
    "ome-zarr 0.5 channels together": ("ome-zarr", partial(make_zarr, chunk=(1, 3, 1, 50, 60), compressors=None)),
    "ome-zarr 0.4 blosc": ("ome-zarr", partial(make_zarr, version="0.4", compressors=numcodecs.Blosc())),
    "ome-zarr 0.4 zlib F": ("ome-zarr", partial(make_zarr, version="0.4", compressors=numcodecs.Zlib(), order="F")),
    "picture": ("picture", make_picture),
    "turned by 90": ("transformed", make_turned(90)),
    "turned by 180": ("transformed", make_turned(180)),
    "turned by 270": ("transformed", make_turned(270)),
    "cropped and turned": ("transformed", make_cropped),
}
"""What the contract is tested with: name -> (reader, what writes a file and says its levels)."""


def test_every_reader_is_tested():
    assert {reader for reader, _ in FORMS.values()} == {*SLIDE_READERS, "transformed"}


@pytest.fixture(params=FORMS, scope="module")
def written(request, tmp_path_factory):
    """A slide of an odd size for each reader, with the pixels it was made from; tests leave it as it is."""
    reader, make = FORMS[request.param]
    return reader, *make(tmp_path_factory.mktemp("slide"))


@pytest.fixture
def made(written):
    """It, opened anew."""
    reader, path, levels, how = written
    with open_slide(path, mpp=0.5, **how) as slide:
        assert type(slide) is (TransformedSlide if reader == "transformed" else SLIDE_READERS[reader][1])
        yield Made(slide, levels)


class TestEveryReader:
    def test_info(self, made):
        rows, columns, _ = made.levels[0].shape
        info = made.slide.info
        assert (info.height, info.width) == (rows, columns)
        assert info.mpp == pytest.approx(0.5)
        assert info.level_downsamples == pytest.approx([columns / level.shape[1] for level in made.levels], rel=0.01)
        assert info.level_downsamples[0] == 1

    def test_pixels_are_those_of_the_file_at_every_level(self, made):
        rng = np.random.default_rng(1)
        for level, pixels in enumerate(made.levels):
            rows, columns, _ = pixels.shape
            regions = [
                Region(0, 0, columns, rows),
                Region(columns - 1, rows - 1, 1, 1),
                Region(0, rows - 1, columns, 1),
            ]
            for _ in range(20):
                x, y = int(rng.integers(columns)), int(rng.integers(rows))
                regions.append(Region(x, y, int(rng.integers(1, columns - x + 1)), int(rng.integers(1, rows - y + 1))))
            for region in regions:
                expected = pixels[region.y : region.bottom, region.x : region.right]
                assert np.array_equal(made.slide.read_level(level, region), expected), (level, region)

    def test_outside_is_zero_at_every_level(self, made):
        for level, pixels in enumerate(made.levels):
            rows, columns, _ = pixels.shape
            read = made.slide.read_level(level, Region(-10, -20, columns + 15, rows + 27))
            assert np.array_equal(read[20 : 20 + rows, 10 : 10 + columns], pixels)
            read[20 : 20 + rows, 10 : 10 + columns] = 0
            assert not read.any()
            assert not made.slide.read_level(level, Region(columns, 0, 8, 8)).any()
            assert not made.slide.read_level(level, Region(-100, -100, 8, 8)).any()

    def test_what_was_read_is_the_readers_own(self, made):
        region = Region(3, 5, 20, 10)
        first = made.slide.read_level(0, region)
        before = first.copy()
        if first.flags.writeable:
            first[:] = 0
        assert np.array_equal(made.slide.read_level(0, region), before)

    def test_fields_are_exact_means(self, made):
        grid = PatchSpec(size_px=64, stride_px=64).grid_of(0.5)
        pixels = made.levels[0]
        for m in range(3):
            if any(downsample < 2**m + 0.1 for downsample in made.slide.info.level_downsamples[1:]):
                continue  # a level of the file, which in these tests is another picture
            side, k = 64 * 2**m, 2**m
            start = 32 - side // 2
            padded = np.zeros((256, 256, 3))
            padded[96:, 96:] = pixels[:160, :160]
            wide = padded[96 + start : 96 + start + side, 96 + start : 96 + start + side]
            field = read_field(made.slide, grid, m, grid.field(Region(0, 0, 64, 64), m))
            means = wide.reshape(64, k, 64, k, 3).mean(axis=(1, 3))
            assert np.abs(field - means).max() <= 0.5

    @pytest.mark.parametrize("mpp", [0.5, 0.25, 0.2271])
    def test_cached_fields_are_the_fields(self, made, mpp):
        grid = PatchSpec(size_px=64, stride_px=64).grid_of(mpp)
        cached = CachedFields(made.slide, grid, TileBudget(limit_bytes=2_000_000), number=0)
        for m in range(3):
            for region in (Region(-40, -7, 300, 90), Region(500, 3, 64, 64), Region(0, 0, 64, 64)):
                difference = cached.read(m, region).astype(int) - read_field(made.slide, grid, m, region)
                assert np.abs(difference).max() <= (0 if grid.downsample == int(grid.downsample) else 1)

    def test_overview(self, made):
        picture = read_overview(made.slide, 128)
        rows, columns, _ = made.levels[0].shape
        k = -(-max(rows, columns) // 128)
        assert picture.shape == (-(-rows // k), -(-columns // k), 3)
        assert abs(float(picture[:60, :60].mean() - made.levels[0][: 60 * k, : 60 * k].mean())) < 2


def test_tiles_of_regions_are_counted_once():
    """Tiles of 128 px and 3 bytes: the first region touches 2 x 1, the second 1 x 2 with one in common."""
    assert tiles_bytes([Region(-1, 0, 2, 128), Region(0, 0, 10, 129)], 3) == 3 * 128 * 128 * 3


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


def test_bounds_are_qupaths_frame(tmp_path):
    pixels = noise(200, 300)
    path = write_leica(tmp_path / "slide.scn", pixels, (600, 500), (40, 30))
    with open_slide(path) as slide:
        assert (slide.info.width, slide.info.height, slide.info.origin_px) == (300, 200, (40, 30))
        assert slide.info.mpp == pytest.approx(0.5)
        assert np.array_equal(slide.read_level(0, Region(0, 0, 300, 200)), pixels)
        assert not slide.read_level(0, Region(300, 0, 5, 5)).any()
    with open_slide(path, crop_to_bounds=False) as slide:
        assert (slide.info.width, slide.info.height, slide.info.origin_px) == (600, 500, (0, 0))
        assert np.array_equal(slide.read_level(0, Region(40, 30, 300, 200)), pixels)
        assert (slide.read_level(0, Region(0, 0, 40, 500)) == 255).all()  # glass that was not scanned


def test_openslide_between_whole_downsamples(tmp_path):
    """OpenSlide interpolates by at most half a level-0 pixel: a smooth picture stays what it is."""
    sizes = [(301, 517), (150, 258)]
    levels = [np.broadcast_to(np.linspace(0, 200, c)[None, :, None], (r, c, 3)).astype(np.uint8) for r, c in sizes]
    path = write_pyramid(tmp_path / "slide.tif", levels, subifds=False, tile=(128, 128))
    with open_slide(path, mpp=0.5) as slide:
        assert type(slide) is SLIDE_READERS["direct-tiff"][1]
        read = slide.read_level(1, Region(33, 17, 200, 100))
        assert np.abs(read.astype(int) - levels[1][17:117, 33:233]).max() <= 1


class TestDicom:
    def test_folder_and_any_of_its_files_are_the_slide(self, tmp_path):
        levels = whole_levels()
        folder = write_dicom(tmp_path / "s", levels, mpp=0.25)
        for path in (folder, *sorted(folder.iterdir())):
            with open_slide(path) as slide:
                assert (slide.info.width, slide.info.height) == (518, 302)
                assert slide.info.mpp == pytest.approx(0.25)
                assert np.array_equal(slide.read_level(1, Region(0, 0, 259, 151)), levels[1])
        assert fingerprint(folder) == fingerprint(folder / "1-0.dcm")

    def test_a_slide_of_many_files_is_listed_once(self, tmp_path):
        write_dicom(tmp_path, whole_levels(), series="1")
        write_dicom(tmp_path, whole_levels(), series="2")
        write_dicom(tmp_path / "third", whole_levels(), series="3")
        (tmp_path / "empty").mkdir()
        assert [p.name for p in list_slides(tmp_path)] == ["1-0.dcm", "2-0.dcm", "third"]
        with pytest.raises(SlideError, match="holds 2 DICOM slides"):
            slide_file(tmp_path)
        with pytest.raises(SlideError, match="holds no DICOM file"):
            open_slide(tmp_path / "empty")


class TestTiff:
    """What is particular to TIFFs that OpenSlide refuses."""

    def opened(self, tmp_path, pixels=None, **options):
        path = tmp_path / "slide.tif"
        tifffile.imwrite(path, noise(61, 97) if pixels is None else pixels, metadata=None, **options)
        return open_slide(path)

    @pytest.mark.parametrize(
        ("options", "mpp"),
        [
            ({"description": OME.format(w=97, h=61, more='PhysicalSizeX="0.25" PhysicalSizeY="0.25"')}, 0.25),
            (
                {
                    "description": OME.format(
                        w=97,
                        h=61,
                        more='PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.00025" '
                        'PhysicalSizeYUnit="mm"',
                    )
                },
                0.25,
            ),
            ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
            ({"resolution": (101_600, 101_600), "resolutionunit": "INCH"}, 0.25),
            ({"description": "ImageJ=1.53\nunit=micron\n", "resolution": (4, 4), "resolutionunit": "NONE"}, 0.25),
            (
                {"description": OME.format(w=1, h=1, more="")} | {"resolution": (40_000, 40_000), "resolutionunit": 3},
                0.25,
            ),
        ],
    )
    def test_pixel_size(self, tmp_path, options, mpp):
        with self.opened(tmp_path, photometric="rgb", **options) as slide:
            assert slide.info.mpp == pytest.approx(mpp)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"description": "<OME broken"},
            {"resolution": (0, 0), "resolutionunit": 3},
            {"resolution": (300, 300), "resolutionunit": "INCH"},
            {"resolution": (40_000, 20_000), "resolutionunit": 3},
            {"description": OME.format(w=1, h=1, more='PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1"')},
            {"description": OME.format(w=1, h=1, more='PhysicalSizeX="NaN" PhysicalSizeY="NaN"')},
        ],
    )
    def test_no_pixel_size(self, tmp_path, options):
        with pytest.raises(PixelSizeError, match="--mpp"):
            self.opened(tmp_path, photometric="rgb", **options)

    @pytest.mark.parametrize("declaration", ["<!DOCTYPE OME [<!ENTITY a 'b'>]>", "<!doctype OME SYSTEM 'file:/etc/x'>"])
    def test_entities_are_refused(self, tmp_path, declaration):
        text = OME.format(w=1, h=1, more="").replace("<OME", declaration + "<OME", 1)
        with pytest.raises(SlideError, match="DOCTYPE or an entity"):
            self.opened(tmp_path, photometric="rgb", description=text)

    @pytest.mark.parametrize(
        ("pixels", "options", "what"),
        [
            (np.zeros((61, 97), np.uint8), {"photometric": "minisblack"}, "1 channel instead"),
            (np.zeros((61, 97, 3), np.uint16), {"photometric": "rgb"}, "bits per sample .*uint16"),
            (np.zeros((61, 97, 3), np.float32), {"photometric": "rgb"}, "bits per sample .*float32"),
            (np.zeros((61, 97, 4), np.uint8), {"photometric": "rgb", "extrasamples": [2]}, "4 channels instead"),
            (np.zeros((61, 97, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
            (np.zeros((61, 97, 3), np.uint8), {"photometric": "cielab"}, "colours of kind CIELAB"),
        ],
    )
    def test_what_is_no_rgb_is_named(self, tmp_path, pixels, options, what):
        with pytest.raises(SlideError, match=what):
            self.opened(tmp_path, pixels, **options)

    def test_channels_in_planes_of_their_own(self, tmp_path):
        pixels = noise(61, 97)
        path = tmp_path / "slide.tif"
        tifffile.imwrite(
            path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate", compression="deflate",
            rowsperstrip=8, metadata=None,
        )  # fmt: skip
        with open_slide(path, mpp=0.5) as slide:
            assert np.array_equal(slide.read_level(0, Region(5, 3, 90, 50)), pixels[3:53, 5:95])

    def test_jpeg_tiles_come_as_rgb(self, tmp_path):
        flat = np.broadcast_to(np.array([200, 60, 120], np.uint8), (128, 192, 3))
        path = write_pyramid(tmp_path / "slide.tif", [flat], tile=(64, 64), compression="jpeg", description=OME)
        with tifffile_reader.TiffReader(path, mpp=0.5) as slide:
            read = slide.read_level(0, Region(0, 0, 192, 128)).astype(int)
        assert np.abs(read - flat).max() <= 3

    def test_memory_is_bounded(self, tmp_path, monkeypatch):
        path = write_pyramid(tmp_path / "slide.tif", [noise(640, 640)], tile=(64, 64), description=OME)
        with monkeypatch.context() as patch:
            patch.setattr(tiff_tiles, "CACHE_BYTES", 5 * 64 * 64 * 3)
            with tifffile_reader.TiffReader(path, mpp=0.5) as slide:
                slide.read_level(0, Region(0, 0, 640, 640))
                assert len(slide._tiles._cache.tiles) == 5
        monkeypatch.setattr(tiff_tiles, "MAX_SEGMENT_BYTES", 64 * 64 * 3 - 1)
        with pytest.raises(SlideError, match="tiles of 64 x 64 px, too large"):
            tifffile_reader.TiffReader(path, mpp=0.5)

    def test_a_jpeg_larger_than_its_tile_is_refused(self):
        level = TiffLevel(None, 640, 640, 64, 64)
        start = bytes.fromhex("ffd8 ffe0 0004 0000 ffc0 0011 08")
        jpeg_tiles.check_jpeg_size(start + bytes.fromhex("0040 0040 03"), level)
        with pytest.raises(ValueError, match="65535 x 64 px"):
            jpeg_tiles.check_jpeg_size(start + bytes.fromhex("0040 ffff 03"), level)

    def test_damage_raises_nothing_but_our_errors(self, tmp_path):
        whole = tmp_path / "whole.tif"
        write_pyramid(whole, odd_levels(), tile=(64, 64), compression="deflate", description=OME)
        data = whole.read_bytes()
        rng = np.random.default_rng(0)
        refused = 0
        for case in range(300):
            damaged = bytearray(data if case % 3 else data[: int(rng.integers(len(data)))])
            for _ in range(int(rng.integers(1, 6))):
                reach = 3000 if case % 2 else len(damaged)
                if damaged:
                    damaged[int(rng.integers(min(reach, len(damaged))))] = int(rng.integers(256))
            path = tmp_path / "damaged.tif"
            path.write_bytes(damaged)
            try:
                with tifffile_reader.TiffReader(path, mpp=0.5) as slide:
                    for level in range(len(slide.info.level_downsamples)):
                        slide.read_level(level, Region(0, 0, 600, 400))
            except SlideError as error:
                refused += 1
                assert "\n" not in str(error)
        assert refused > 50

    def test_truncated_tile_names_the_place(self, tmp_path):
        path = write_pyramid(
            tmp_path / "slide.tif", [noise(640, 640)], tile=(64, 64), compression="deflate", description=OME
        )
        path.write_bytes(path.read_bytes()[:-3000])
        with (
            tifffile_reader.TiffReader(path, mpp=0.5) as slide,
            pytest.raises(SlideError, match="damaged at level 0"),
        ):
            slide.read_level(0, Region(0, 0, 640, 640))


class TestFrames:
    @pytest.mark.parametrize("degrees", [90, 180, 270])
    def test_turns_are_clockwise(self, degrees):
        """The top-left corner of what is turned by 90 degrees clockwise is the bottom-left one before."""
        placement = Placement.of([Rotate(degrees=degrees)], 30, 20)
        assert placement.size == ((20, 30) if degrees != 180 else (30, 20))
        before = {90: Region(0, 19, 1, 1), 180: Region(29, 19, 1, 1), 270: Region(29, 0, 1, 1)}
        assert placement.source(Region(0, 0, 1, 1)) == before[degrees]

    @pytest.mark.parametrize(("axis", "before"), [("horizontal", (29, 0)), ("vertical", (0, 19)), ("both", (29, 19))])
    def test_flips_exchange_sides(self, axis, before):
        placement = Placement.of([Flip(axis=axis)], 30, 20)
        assert placement.size == (30, 20)
        assert placement.source(Region(0, 0, 1, 1)) == Region(*before, 1, 1)

    def test_any_chain_is_the_same_as_its_steps(self):
        rng = np.random.default_rng(3)
        for _ in range(200):
            pixels = np.arange(37 * 53 * 3).reshape(37, 53, 3)
            expected, frame = pixels, []
            for _ in range(int(rng.integers(1, 6))):
                rows, columns, _ = expected.shape
                kind = rng.choice(["rotate", "flip", "crop"])
                if kind == "rotate":
                    degrees = int(rng.choice([90, 180, 270]))
                    frame.append(Rotate(degrees=degrees))
                    expected = np.rot90(expected, -degrees // 90)
                elif kind == "flip":
                    axis = str(rng.choice(["horizontal", "vertical", "both"]))
                    frame.append(Flip(axis=axis))
                    expected = np.flip(expected, {"horizontal": 1, "vertical": 0, "both": (0, 1)}[axis])
                else:
                    x, y = int(rng.integers(columns)), int(rng.integers(rows))
                    w, h = int(rng.integers(1, columns - x + 1)), int(rng.integers(1, rows - y + 1))
                    frame.append(Crop(x=x, y=y, width=w, height=h))
                    expected = expected[y : y + h, x : x + w]
            placement = Placement.of(frame, 53, 37)
            assert placement.size == expected.shape[1::-1]
            source = placement.source(Region(0, 0, *placement.size))
            cut = pixels[source.y : source.bottom, source.x : source.right]
            assert np.array_equal(placement.arranged(cut), expected)

    @pytest.mark.parametrize(
        "crop",
        [Crop(x=0, y=0, width=518, height=5), Crop(x=600, y=0, width=5, height=5), Crop(x=-9, y=0, width=9, height=9)],
    )
    def test_crop_of_another_slide_is_refused(self, tmp_path, crop):
        path, _, _ = make_picture(tmp_path)
        with pytest.raises(SlideError, match="does not fit into 517 x 301 px"):
            open_slide(path, mpp=0.5, frame=(crop,))

    def test_levels_that_the_corner_cuts_are_left_out(self, tmp_path):
        path = write_pyramid(
            tmp_path / "slide.tif", [noise(640, 640), noise(320, 320), noise(160, 160)], description=OME
        )
        for x, expected in ((4, (1, 2, 4)), (2, (1, 2)), (1, (1,))):
            with open_slide(path, mpp=0.5, frame=(Crop(x=x, y=8, width=100, height=100),)) as slide:
                assert slide.info.level_downsamples == expected
                assert slide.info.origin_px == (x, 8)


def test_ome_tiff_that_openslide_refuses(shared):
    with open_slide(shared("data/slides/OS-1-detail.ome.tif")) as slide:
        assert type(slide) is tifffile_reader.TiffReader
        assert (slide.info.width, slide.info.height) == (1101, 1101)
        assert slide.info.mpp == pytest.approx(0.2271, abs=1e-4)
        picture = slide.read_level(0, Region(0, 0, 1101, 1101))
    assert 140 < picture.mean() < 160
    assert np.array_equal(picture, tifffile.imread(shared("data/slides/OS-1-detail.ome.tif")))


@pytest.mark.parametrize(
    ("name", "said"),
    [("BRACS_1640_N_3_cropped.tiff", "1000 x 1000 um, which cannot be"), ("tcga-cr-7395-01a-01-ts1.svs", "")],
)
def test_real_slides_without_a_usable_pixel_size(shared, name, said):
    path = shared(f"data/slides/{name}")
    with pytest.raises(PixelSizeError, match=f"{said}.*--mpp"):
        open_slide(path)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.info.mpp == 0.25


def test_unreadable_files(tmp_path):
    with pytest.raises(SlideError, match="does not exist"):
        open_slide(tmp_path / "none.svs")
    (tmp_path / "text.svs").write_text("no slide")
    with pytest.raises(SlideError, match="neither by OpenSlide nor as a picture"):
        open_slide(tmp_path / "text.svs")
    (tmp_path / "cut.svs").write_bytes(CMU_1.read_bytes()[:5000])
    with pytest.raises(SlideError):
        open_slide(tmp_path / "cut.svs")


@pytest.mark.parametrize("side", [2**24, 2**30, 2**31 - 1])
@pytest.mark.parametrize("tag", [322, 323], ids=["width", "height"])
@pytest.mark.parametrize("form", ["direct-tiff", "tifffile"])
def test_tiles_of_absurd_size_are_refused_before_memory_is_taken(tmp_path, form, tag, side):
    """OpenSlide would end the process where there is no memory for a tile."""
    about = {"description": OME.format(w=512, h=512, more="")} if form == "tifffile" else {}
    path = write_pyramid(tmp_path / "s.tif", [noise(512, 512)], tile=(256, 256), compression="deflate", **about)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.tags[tag].offset
    data[offset : offset + 12] = struct.pack("<HHII", tag, 4, 1, side)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"too large|instead of|damaged"):
        open_slide(path, mpp=0.5).read_level(0, Region(0, 0, 10, 10))


@pytest.mark.parametrize("tag", [256, 257], ids=["width", "height"])
@pytest.mark.parametrize("form", ["direct-tiff", "tifffile"])
def test_sizes_that_the_tiles_do_not_fill_are_refused(tmp_path, form, tag):
    about = {"description": OME.format(w=512, h=512, more="")} if form == "tifffile" else {}
    path = write_pyramid(tmp_path / "s.tif", [noise(512, 512)], tile=(256, 256), compression="deflate", **about)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.tags[tag].offset
    data[offset : offset + 12] = struct.pack("<HHII", tag, 4, 1, 2**31 - 1)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"Invalid TIFF|4 tiles or strips instead of"):
        open_slide(path, mpp=0.5)


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


def test_a_view_opens_the_slide_that_was_annotated_alone(tmp_path):
    """Its size is that in the frame of the annotations: 4 x 2 px, turned by 90 degrees, are 2 x 4."""
    Image.fromarray(noise(2, 4)).save(tmp_path / "s.png")
    turned = SlideView(tmp_path / "s.png", frame=(Rotate(degrees=90),), mpp=StatedMpp(listed=0.5))
    with replace(turned, size_px=(2, 4)).open() as slide:
        assert (slide.info.width, slide.info.height) == (2, 4)
    with pytest.raises(SlideError, match=r"has 2 x 4 px, but the annotated one has 4 x 2; .* pass --slides-root"):
        replace(turned, size_px=(4, 2)).open()


def test_a_slide_is_closed_when_no_other_thread_reads_it(monkeypatch):
    """OpenSlide would end the process."""
    begun, goes_on, done = threading.Event(), threading.Event(), []
    read = OpenSlide.read_region

    def slow(*given):
        begun.set()
        goes_on.wait(10)
        return read(*given)

    monkeypatch.setattr(OpenSlide, "read_region", slow)
    reader = OpenSlideReader(CMU_1)
    is_open = weakref.ref(reader._open[0])
    reading = threading.Thread(target=lambda: done.append(reader.read_level(0, Region(0, 0, 64, 64)).shape))
    reading.start()
    assert begun.wait(10)
    reader.close()
    with pytest.raises(SlideError, match="closed"):
        reader.read_level(0, Region(0, 0, 64, 64))
    assert is_open() is not None and not done
    goes_on.set()
    reading.join(10)
    assert done == [(64, 64, 3)] and is_open() is None


def looked_at(path):
    with opened(path):
        pass


def read(path):
    open_slide(path).close()


@pytest.mark.parametrize(
    ("use", "kind"),
    [(use, kind) for use in (read, looked_at) for kind in ("aperio", "generic-tiff")] + [(scanner_of, "aperio")],
)
def test_no_signal_is_met_while_a_slide_is_closed(tmp_path, monkeypatch, use, kind):
    """Signals are met in the main thread; openslide would close the slide once more, or lose the signal."""
    closed_in, close = [], lowlevel.close

    def noted(slide):
        closed_in.append(threading.get_ident())
        close(slide)

    monkeypatch.setattr(lowlevel, "close", noted)
    use(CMU_1 if kind == "aperio" else write_tiff(tmp_path / "s.tif", two_tissues()))
    assert closed_in and threading.get_ident() not in closed_in


def test_a_slide_is_closed_when_the_process_ends_and_begins_no_thread(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    reader = OpenSlideReader(CMU_1)
    is_open = weakref.ref(reader._open[0])
    reader.close()
    assert is_open() is None
