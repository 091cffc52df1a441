"""Tiles that are decoded without OpenSlide have the pixels that OpenSlide gives, whatever the file is like."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide, tiff_tiles
from dmmn_qp.slides.direct_tiff import DirectTiffReader
from dmmn_qp.slides.openslide_reader import OpenSlideReader
from dmmn_qp.slides.transformed import Crop, Rotate
from tests.conftest import CMU_1, DEMO, write_tiff
from tests.slide_files import OME, write_pyramid

APERIO = "Aperio Image Library v1.0\n{w}x{h} [0,0 {w}x{h}] (240x240) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"

FORMS = {
    "jpeg, YCbCr": {"compression": "jpeg"},
    "jpeg, RGB, shared tables": {
        "compression": "jpeg",
        "photometric": "rgb",
        "compressionargs": {"outcolorspace": "rgb"},
    },
    "deflate": {"compression": "deflate"},
    "deflate, predictor": {"compression": "deflate", "predictor": True},
    "lzw": {"compression": "lzw"},
    "none": {"tile": (256, 256)},  # of 240 px they would be padded, which OpenSlide refuses
}


def tissue(rows: int, columns: int) -> np.ndarray:
    """Smooth colours with some noise, so that JPEG is near, and every tile another."""
    y, x = np.mgrid[:rows, :columns]
    waves = np.stack([np.sin(x / 19 + c) + np.cos(y / (11 + c)) for c in range(3)], axis=2)
    noise = np.random.default_rng(rows).normal(0, 9, waves.shape)
    return np.clip(150 + 40 * waves + noise, 0, 255).astype(np.uint8)


def levels_of(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels, pixels[::2, ::2].copy(), pixels[::8, ::8].copy()]


def written(
    path: Path, *, bigtiff: bool = False, aperio: bool = False, glass: Region | None = None, **options: object
) -> Path:
    """A pyramid of 992 x 728 px: levels 1, 1/2, 1/8, in tiles of 240 px as Aperio's; a part of it may be white."""
    pixels = tissue(728, 992)
    if glass is not None:
        pixels[glass.y : glass.bottom, glass.x : glass.right] = 255
    levels = levels_of(pixels)
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for number, pixels in enumerate(levels):
            rows, columns, _ = pixels.shape
            more = {"description": APERIO.format(w=columns, h=rows)} if aperio else {"subfiletype": int(number > 0)}
            given = {"photometric": "rgb", "tile": (240, 240), "metadata": None, **more, **options}
            tiff.write(pixels, **given)
    return path


def without_tile(path: Path, page: int, index: int) -> None:
    """Forgets a tile, as scanners do that write only what they scanned."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages[page].tags["TileByteCounts"]
        tag.overwrite([0 if i == index else size for i, size in enumerate(tag.value)])


def regions_of(width: int, height: int, count: int, seed: int) -> list[Region]:
    """Corners, what leaves the level, and random places."""
    rng = np.random.default_rng(seed)
    regions = [
        Region(0, 0, min(width, 700), min(height, 700)),
        Region(width - 1, height - 1, 1, 1),
        Region(-9, -7, 300, 20),
        Region(width - 50, height - 60, 120, 90),
        Region(width, 0, 5, 5),
    ]
    for _ in range(count):
        x, y = int(rng.integers(-60, width)), int(rng.integers(-60, height))
        regions.append(Region(x, y, int(rng.integers(1, 400)), int(rng.integers(1, 400))))
    return regions


def assert_same(path: Path, count: int = 12) -> DirectTiffReader:
    """All levels read through both readers; gives the direct one, closed."""
    with DirectTiffReader(path, mpp=0.5) as direct, OpenSlideReader(path, mpp=0.5) as plain:
        assert direct.info == plain.info
        for level, (width, height) in enumerate(plain.level_sizes):
            for region in regions_of(width, height, count, level):
                expected = plain.read_level(level, region)
                assert np.array_equal(direct.read_level(level, region), expected), (level, region)
    return direct


def read_directly(reader: DirectTiffReader) -> list[int]:
    return [level for level, page in reader._checked.items() if page is not None]


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("data/slides/BRACS_1640_N_3_cropped.tiff", [0]),
        ("data/slides/CMU-1-Small-Region.svs", [0]),
        ("data/slides/tcga-cr-7395-01a-01-ts1.svs", [0]),
        *((f"demo/slides/{name}.tif", [0, 1, 2]) for name in ("train-1", "train-2", "val-1", "test-1")),
    ],
)
def test_real_slides(shared, name, levels):
    """Levels whose sizes do not divide those of level 0 are left to OpenSlide."""
    assert read_directly(assert_same(shared(name))) == levels


@pytest.mark.parametrize("path", [CMU_1, DEMO / "slides" / "val-1.tif"], ids=lambda path: path.name)
def test_slides_of_the_repository(path):
    assert 0 in read_directly(assert_same(path))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bigtiff", [False, True], ids=["tiff", "bigtiff"])
def test_forms(tmp_path, form, bigtiff):
    assert read_directly(assert_same(written(tmp_path / "slide.tif", bigtiff=bigtiff, **FORMS[form]), 6)) == [0, 1, 2]


@pytest.mark.parametrize("sampling", [(1, 1), (2, 1), (2, 2)])
def test_chroma_of_other_sizes(tmp_path, sampling):
    path = written(tmp_path / "slide.tif", compression="jpeg", subsampling=sampling)
    assert read_directly(assert_same(path, 6)) == [0, 1, 2]


@pytest.mark.parametrize("form", ["jpeg, YCbCr", "jpeg, RGB, shared tables", "lzw"])
def test_aperio(tmp_path, form):
    path = written(tmp_path / "slide.svs", aperio=True, **FORMS[form])
    assert openslide.OpenSlide.detect_format(str(path)) == "aperio"
    assert read_directly(assert_same(path)) == [0, 1, 2]


@pytest.mark.parametrize("aperio", [False, True])
@pytest.mark.parametrize("index", [0, 4])
def test_tiles_that_were_never_written(tmp_path, aperio, index):
    """White; Aperio's are made from the finer level where there is one, and so is what they touch in coarser ones."""
    glass = Region(480, 480, 480, 248) if index == 4 else Region(0, 0, 480, 480)  # what the tile of level 1 shows
    path = written(tmp_path / "slide.svs", aperio=aperio, compression="jpeg", glass=None if aperio else glass)
    without_tile(path, 0, index)
    without_tile(path, 1, index)
    assert read_directly(assert_same(path, 30)) == ([0] if aperio else [0, 1, 2])
    with DirectTiffReader(path, mpp=0.5) as slide:
        x, y = (960, 0) if index == 4 else (0, 0)
        assert (slide.read_level(0, Region(x, y, 32, 200)) == 255).all()
        white = (slide.read_level(1, Region(x // 4, 244 if index == 4 else 0, 30, 30)) == 255).all()
        assert white == (not aperio or index == 0)


def test_all_tiles_missing(tmp_path):
    path = write_tiff(tmp_path / "slide.tif", tissue(200, 200))
    without_tile(path, 0, 0)
    assert_same(path, 2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    level=st.integers(0, 2),
    x=st.integers(-300, 1000),
    y=st.integers(-300, 800),
    width=st.integers(1, 500),
    height=st.integers(1, 500),
)
def test_any_region(both, level, x, y, width, height):
    direct, plain = both
    region = Region(x, y, width, height)
    assert np.array_equal(direct.read_level(level, region), plain.read_level(level, region))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = written(tmp_path_factory.mktemp("both") / "slide.tif", compression="jpeg")
    with DirectTiffReader(path, mpp=0.5) as direct, OpenSlideReader(path, mpp=0.5) as plain:
        yield direct, plain


class TestFallback:
    def test_levels_that_are_interpolated(self, tmp_path):
        pixels = tissue(301, 517)
        levels = [pixels, pixels[:300:2, :516:2].copy()]
        path = write_pyramid(tmp_path / "slide.tif", levels, subifds=False, tile=(128, 128))
        assert read_directly(assert_same(path)) == [0]

    def test_forms_of_which_nothing_is_expected(self, tmp_path):
        path = tmp_path / "slide.tif"
        pixels = np.dstack([tissue(300, 300), np.full((300, 300), 255, np.uint8)])
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", extrasamples=[2], metadata=None)
        assert read_directly(assert_same(path)) == []

    def test_a_picture_that_lies_otherwise(self, tmp_path):
        path = tmp_path / "slide.tif"
        orientation = (274, "H", 1, 3, True)  # turned by 180 degrees
        tifffile.imwrite(path, tissue(300, 300), tile=(128, 128), extratags=[orientation], metadata=None)
        assert read_directly(assert_same(path)) == []

    @pytest.mark.parametrize("which", ["first", "middle", "last", "most detailed"])
    def test_one_other_pixel_is_enough(self, tmp_path, monkeypatch, which):
        """Another decoder, which is wrong in one tile: OpenSlide reads the level, and the others stay direct."""
        path = written(tmp_path / "slide.tif", compression="jpeg")
        decode = tiff_tiles.strict_jpeg
        with tifffile.TiffFile(path) as tiff:
            sizes = tiff.pages[1].databytecounts
        index = {"first": 0, "middle": len(sizes) // 2, "last": -1, "most detailed": int(np.argmax(sizes))}[which]

        def wrong(data, level):
            pixels = decode(data, level)
            if level.width == 496 and len(data) == sizes[index]:
                pixels = pixels.copy()
                pixels[3, 3, 1] ^= 1
            return pixels

        monkeypatch.setattr(tiff_tiles, "strict_jpeg", wrong)
        assert read_directly(assert_same(path)) == [0, 2]

    def test_files_that_tifffile_does_not_understand(self, monkeypatch):
        def refuse(*_: object, **__: object) -> None:
            raise tifffile.TiffFileError("no")

        monkeypatch.setattr(tiff_tiles.tifffile, "TiffFile", refuse)
        assert read_directly(assert_same(CMU_1, 2)) == []


def damaged(data: bytes, offset: int, size: int, case: int, rng: np.random.Generator) -> bytes:
    """A file in one tile of which bytes are ended, exchanged or overwritten."""
    tile = bytearray(data[offset : offset + size])
    if case % 3 == 0:
        start = int(rng.integers(size))
        tile[start:] = (b"\xff\xd9" * size)[: size - start]  # a JPEG ends there
    elif case % 3 == 1:
        for _ in range(3):
            tile[int(rng.integers(size))] = int(rng.integers(256))
    else:
        start = int(rng.integers(size))
        tile[start : start + 60] = rng.integers(0, 256, len(tile[start : start + 60]), np.uint8).tobytes()
    return data[:offset] + bytes(tile) + data[offset + size :]


@pytest.mark.parametrize("form", ["jpeg, YCbCr", "jpeg, RGB, shared tables", "deflate", "lzw", "none"])
def test_damage_is_judged_as_openslide_does(tmp_path, form):
    """What OpenSlide refuses is refused at its place; what it reads has its pixels; the rest can be read."""
    whole = written(tmp_path / "whole.tif", **FORMS[form])
    with tifffile.TiffFile(whole) as tiff:
        page = tiff.pages[0]
        offset, size = page.dataoffsets[6], page.databytecounts[6]
    side = page.tilewidth
    place, beside = (Region(240, 240, 240, 240) if side == 240 else Region(512, 256, 256, 256)), Region(480, 0, 30, 200)
    data, rng, refused = whole.read_bytes(), np.random.default_rng(0), 0
    for case in range(45):
        path = tmp_path / "damaged.tif"
        path.write_bytes(damaged(data, offset, size, case, rng))
        with DirectTiffReader(path, mpp=0.5) as direct, OpenSlideReader(path, mpp=0.5) as plain:
            expected_beside = plain.read_level(0, beside)
            try:
                expected = plain.read_level(0, place)
            except SlideError:
                refused += 1
                with pytest.raises(SlideError, match="damaged at level 0, x 240, y 240"):
                    direct.read_level(0, place)
            else:
                assert np.array_equal(direct.read_level(0, place), expected), case
            for slide in (direct, plain):
                assert np.array_equal(slide.read_level(0, beside), expected_beside)
    assert refused >= 3 or form == "none"


def test_jpegs_of_another_size_are_left_to_openslide(tmp_path):
    path = written(tmp_path / "slide.tif", compression="jpeg")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[6], tiff.pages[0].databytecounts[6]
    frame = data.index(b"\xff\xc0", offset, offset + size)
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500 px would be 12 GB
    path.write_bytes(data)
    with DirectTiffReader(path, mpp=0.5) as slide:
        with pytest.raises(SlideError, match="damaged at level 0"):
            slide.read_level(0, Region(240, 240, 240, 240))
        slide.read_level(0, Region(0, 0, 240, 240))


def test_only_touched_tiles_are_decoded_and_none_twice(tmp_path, monkeypatch):
    path = written(tmp_path / "slide.tif", compression="jpeg")
    decoded = []
    decode = tiff_tiles.strict_jpeg
    monkeypatch.setattr(tiff_tiles, "strict_jpeg", lambda data, level: decoded.append(len(data)) or decode(data, level))
    with DirectTiffReader(path, mpp=0.5) as slide:
        slide.read_level(0, Region(0, 0, 1, 1))
        checked = len(decoded)
        assert checked <= 4
        slide.read_level(0, Region(250, 250, 200, 200))
        assert len(decoded) <= checked + 1
        now = len(decoded)
        for shift in range(0, 30, 10):
            slide.read_level(0, Region(250 + shift, 250, 200, 200))
        assert len(decoded) == now


def test_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_tiles, "CACHE_BYTES", 3 * 240 * 240 * 3)
    with DirectTiffReader(written(tmp_path / "slide.tif", compression="jpeg"), mpp=0.5) as slide:
        slide.read_level(0, Region(0, 0, 992, 728))
        assert slide._tiles is not None and len(slide._tiles._cache.tiles) == 3


def test_threads_read_the_same(tmp_path):
    path = written(tmp_path / "slide.tif", compression="jpeg")
    with OpenSlideReader(path, mpp=0.5) as plain, DirectTiffReader(path, mpp=0.5) as direct:
        jobs = [(level, r) for level, (w, h) in enumerate(plain.level_sizes) for r in regions_of(w, h, 30, level)]
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda job: direct.read_level(*job), jobs))
        for job, pixels in zip(jobs, read, strict=True):
            assert np.array_equal(pixels, plain.read_level(*job)), job


def test_sizes_of_tiles_are_said(tmp_path):
    path = written(tmp_path / "slide.tif", compression="jpeg")
    ome = write_pyramid(tmp_path / "ome.tif", [tissue(300, 300)], tile=(64, 96), description=OME)
    strips = write_pyramid(tmp_path / "strips.tif", [tissue(300, 300)], rowsperstrip=8, description=OME)
    for file, size in ((path, (240, 240)), (ome, (96, 64)), (strips, None), (CMU_1, (240, 240))):
        with open_slide(file, mpp=0.5) as slide:
            assert slide.info.tile_px == size
    crop = Crop(x=17, y=8, width=500, height=400)
    with open_slide(path, mpp=0.5, frame=(crop,)) as slide:
        assert (slide.info.tile_px, slide.info.origin_px) == ((240, 240), (17, 8))
    with open_slide(path, mpp=0.5, frame=(crop, Rotate(degrees=90))) as slide:
        assert slide.info.tile_px is None


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_pages_of_one_size_are_channels_and_no_slide(tmp_path, photometric):
    """OpenSlide would show the first alone, in grey; a single grey page is a picture without colours."""
    pages = np.random.default_rng(0).integers(0, 255, (3, 300, 400), np.uint8)
    for n in (1, 2, 3):
        with tifffile.TiffWriter(tmp_path / f"{n}.tif") as file:
            for page in pages[:n]:
                file.write(page, photometric=photometric, tile=(256, 256), metadata=None)
    with open_slide(tmp_path / "1.tif", mpp=0.5) as slide:
        assert slide.read_level(0, Region(0, 0, 400, 300)).shape == (300, 400, 3)
    for n in (2, 3):
        with pytest.raises(SlideError, match="instead of RGB"):
            open_slide(tmp_path / f"{n}.tif", mpp=0.5)
