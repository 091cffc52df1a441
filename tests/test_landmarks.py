"""A landmark stays in its place at every magnification, whatever the pyramid, whichever the reader."""

import cv2
import numpy as np
import pytest
import tifffile

from dmmn_qp.regions import Region
from dmmn_qp.slides import SLIDE_READERS, open_slide, read_field
from dmmn_qp.slides.once import FieldReader
from dmmn_qp.specs import PatchSpec
from tests.slide_files import OME

WIDTH, HEIGHT = 3600, 2700
CENTRES = [(211.0, 305.5), (1800.25, 1349.5), (3402.75, 2497.0), (3391.5, 190.0), (250.0, 2511.25)]
"""Of dark blobs, in level-0 px from the slide's corner."""

RADIUS = 24.0
FACTORS = [2.02, 2.5, 3, 4, 4.03]


@pytest.fixture(scope="module")
def drawn():
    """A pale slide with smooth blobs, and a wavy ground, so that levels are seen to be copies."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + 0.5
    darkness = 6 * np.sin(x / 90) * np.sin(y / 70) + 12
    for cx, cy in CENTRES:
        left, top = int(cx) - 150, int(cy) - 150
        place = np.s_[max(0, top) : top + 300, max(0, left) : left + 300]
        distance = ((x[place] - cx) ** 2 + (y[place] - cy) ** 2) / (2 * RADIUS**2)
        darkness[place] += 180 * np.exp(-distance)
    return np.repeat((235 - darkness).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def level(pixels, factor):
    """The whole picture, reduced to the whole number of pixels that is next: a level's pixel is W / w pixels wide."""
    size = round(WIDTH / factor), round(HEIGHT / factor)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def blob(field):
    """Centre of the dark blob in a field, in its pixels from its corner."""
    darkness = (235.0 - field[..., 1] - 30).clip(0)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]] + 0.5
    return (darkness * x).sum() / darkness.sum(), (darkness * y).sum() / darkness.sum()


def means(pixels, region, scale):
    """The ideal field: means of level 0."""
    part = pixels[region.y * scale : region.bottom * scale, region.x * scale : region.right * scale]
    return part.reshape(region.height, scale, region.width, scale, 3).mean(axis=(1, 3))


def write(path, pixels, factor, reader):
    """A pyramid of two or three levels for one of the readers."""
    levels = [level(pixels, f) for f in (factor, factor**2)]
    how = {"photometric": "rgb", "compression": "deflate", "metadata": None}
    if reader == "tifffile strips":
        how |= {"rowsperstrip": 64}
    else:
        how |= {"tile": (256, 256)}
    about = {"description": OME.format(w=WIDTH, h=HEIGHT, more="")} if reader == "tifffile" else {}
    with tifffile.TiffWriter(path) as tiff:
        below = {"subifds": len(levels)} if reader == "tifffile" else {}
        tiff.write(pixels, **how, **about, **below)
        for reduced in levels:
            tiff.write(reduced, subfiletype=1, **how)
    return path


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("reader", ["direct-tiff", "tifffile", "tifffile strips"])
def test_blobs_stay_where_they_are(tmp_path, drawn, factor, reader):
    path = write(tmp_path / "s.tif", drawn, factor, reader)
    spec = PatchSpec(size_px=64, stride_px=64, mpps=(0.5, 1.0, 2.0))
    with open_slide(path, mpp=0.5) as slide:
        assert type(slide) is SLIDE_READERS[reader.split()[0]].open
        assert len(slide.info.level_downsamples) == 3
        grid = spec.grid_of(slide.info.mpp)
        for m in range(3):
            scale = 2**m
            for cx, cy in CENTRES:
                side = 256 // scale
                corner = round(cx / scale) - side // 2, round(cy / scale) - side // 2
                region = Region(*corner, side, side)
                found, ideal = blob(read_field(slide, grid, m, region)), blob(means(drawn, region, scale))
                off = [(a - b) * scale for a, b in zip(found, ideal, strict=True)]
                assert max(map(abs, off)) <= 0.5, (m, off)


@pytest.mark.parametrize("factor", FACTORS)
def test_prediction_reads_the_same_fields(tmp_path, drawn, factor):
    """`FieldReader` decodes tiles of its own."""
    path = write(tmp_path / "s.tif", drawn, factor, "tifffile")
    spec = PatchSpec(size_px=64, stride_px=64, mpps=(0.5, 1.0, 2.0))
    with open_slide(path, mpp=0.5) as slide:
        grid = spec.grid_of(slide.info.mpp)
        blocks = [[grid.field(Region(x, y, 256, 256), m) for m in range(3)] for x, y in ((1664, 1216), (3264, 2368))]
        with FieldReader(lambda: open_slide(path, mpp=0.5), grid, blocks) as fields:
            for wanted, found in zip(blocks, fields, strict=True):
                for m, (region, pixels) in enumerate(zip(wanted, found, strict=True)):
                    expected = read_field(slide, grid, m, region).astype(int)
                    assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize(
    ("width", "level_width", "scale"),
    [
        (36_000, 9_000, 4.0),
        (36_003, 9_000, 4.0),  # cut to whole pixels
        (36_001, 9_001, 4.0),  # filled up to whole pixels
        (36_000, 8_933, 36_000 / 8_933),  # 4.03, not 4: the far end would be 270 px off
        (36_000, 17_822, 36_000 / 17_822),  # 2.02
        (2_967, 185, 16.0),
    ],
)
def test_a_downsample_is_whole_where_only_pixels_are_cut(width, level_width, scale):
    from dmmn_qp.slides.base import whole_downsample

    assert whole_downsample(width / level_width, width) == scale
