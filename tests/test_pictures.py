"""Pictures become RGB as they are meant, or are refused."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from dmmn_qp.errors import SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide

LEVELS = [0, 100, 200, 255]
GREY = np.array([LEVELS], np.uint8).repeat(8, 0).repeat(8, 1)
"""Four stripes of 8 px."""

RGB = np.dstack([GREY] * 3)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(bits, color, rows):
    """A PNG of any depth; a row is its bytes."""
    head = struct.pack(">IIBBBBB", 32, 8, bits, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(pixels, form, **options):
    file = io.BytesIO()
    pixels.save(file, form, **options)
    return file.getvalue()


def wide(pixels):
    """16 bits, big endian."""
    return [(row.astype(">u2") * 257).tobytes() for row in pixels]


def pnm(kind, pixels, largest):
    scaled = (pixels.astype(int) * largest + 127) // 255
    return b"%s\n32 8\n%d\n" % (kind, largest) + scaled.astype(">u2" if largest > 255 else "u1").tobytes()


def jpeg_2000(pixels, bits):
    scaled = ((pixels.astype(np.uint32) * (2**bits - 1) + 127) // 255).astype(np.uint16 if bits > 8 else np.uint8)
    return imagecodecs.jpeg2k_encode(scaled, level=0, bitspersample=bits, reversible=True, codecformat="jp2")


IMAGE = Image.fromarray(RGB)

READ = {
    "grey 8 bits.png": lambda: saved(Image.fromarray(GREY), "PNG"),
    "RGB 16 bits.png": lambda: png(16, 2, wide(RGB)),
    "grey 16 bits with opacity.png": lambda: png(16, 4, wide(np.dstack([GREY, np.full_like(GREY, 255)]))),
    "palette.png": lambda: saved(IMAGE.quantize(16), "PNG"),
    "opaque.png": lambda: saved(IMAGE.convert("RGBA"), "PNG"),
    "grey.pgm": lambda: pnm(b"P5", GREY, 255),
    "RGB of 10 bits.ppm": lambda: pnm(b"P6", RGB, 1023),
    "RGB of 16 bits.ppm": lambda: pnm(b"P6", RGB, 65535),
    "grey.jp2": lambda: jpeg_2000(GREY, 8),
    "RGB.jp2": lambda: jpeg_2000(RGB, 8),
    "RGB.bmp": lambda: saved(IMAGE, "BMP"),
}
"""What is read, to one grey level."""

REFUSED = {
    "grey 16 bits.png": (lambda: png(16, 0, wide(GREY)), "16 bits per sample"),
    "grey of 10 bits.pgm": (lambda: pnm(b"P5", GREY, 1023), "16 or 32 bits per sample"),
    "grey of 16 bits.pgm": (lambda: pnm(b"P5", GREY, 65535), "16 or 32 bits per sample"),
    "grey of 12 bits.jp2": (lambda: jpeg_2000(GREY, 12), "1[26] bits per sample"),
    "grey of 16 bits.jp2": (lambda: jpeg_2000(GREY, 16), "16 bits per sample"),
    "RGB of 12 bits.jp2": (lambda: jpeg_2000(RGB, 12), "12 bits per sample"),
    "RGB of 16 bits.jp2": (lambda: jpeg_2000(RGB, 16), "16 bits per sample"),
    "RGB of 4 bits.jp2": (lambda: jpeg_2000(RGB, 4), "4 bits per sample"),
    "inks.jpg": (lambda: saved(IMAGE.convert("CMYK"), "JPEG"), "colours of kind CMYK"),
    "numbers.pfm": (lambda: saved(Image.fromarray(GREY.astype(np.float32)), "PPM"), "32 bits per sample"),
}
"""What is refused, and what is said of it."""


def stripes(path):
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.info.width, slide.info.height) == (32, 8)
        pixels = slide.read_level(0, Region(0, 0, 32, 8)).astype(int)
    assert np.ptp(pixels, axis=2).max() == 0
    return pixels[..., 0]


@pytest.mark.parametrize("name", READ)
def test_pictures_that_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(READ[name]())
    assert np.abs(stripes(tmp_path / name) - GREY).max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_pictures_that_are_refused(tmp_path, name):
    make, what = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(SlideError, match=f"has {what}.*8"):
        open_slide(tmp_path / name, mpp=0.5)


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(GREY > 150).save(tmp_path / "a.png")
    assert np.array_equal(stripes(tmp_path / "a.png"), np.where(GREY > 150, 255, 0))


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.dstack([RGB, np.where(GREY == 100, 0, 255).astype(np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(stripes(tmp_path / "a.png"), np.where(GREY == 100, 255, GREY))


TILED = {
    "grey": (GREY, {"photometric": "minisblack"}, GREY),
    "grey, white is 0": (255 - GREY, {"photometric": "miniswhite"}, GREY),
    "grey of 16 bits": (GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}, GREY),
    "RGB of 16 bits": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, GREY),
    "grey of 16 bits in tiles that are cut": (GREY[:, :31].astype(np.uint16), {"photometric": "minisblack"}, "16 bits"),
    "grey with opacity in tiles that are cut": (
        np.dstack([GREY[:, :31], np.full_like(GREY[:, :31], 255)]),
        {"photometric": "minisblack", "extrasamples": [2]},
        "2 channels",
    ),
    "white is 0, with opacity": (
        np.stack([255 - GREY, np.full_like(GREY, 255)]),
        {"photometric": "miniswhite", "extrasamples": [2], "planarconfig": "separate"},
        "2 channels",
    ),
    "opaque": (np.dstack([RGB, np.full_like(GREY, 255)]), {"photometric": "rgb", "extrasamples": [2]}, GREY),
    "palette": (GREY, {"photometric": "palette", "colormap": np.tile(np.arange(256) * 257, (3, 1))}, GREY),
    "a channel more": (np.dstack([RGB, GREY]), {"photometric": "rgb", "extrasamples": [0]}, "4 channels"),
    "two channels": (np.dstack([GREY, GREY]), {"photometric": "minisblack", "planarconfig": "contig"}, "2 channels"),
    "five channels": (np.stack([GREY] * 5), {"photometric": "minisblack", "planarconfig": "separate"}, "5 channels"),
    "inks": (np.dstack([255 - RGB, np.zeros_like(GREY)]), {"photometric": "separated"}, "4 channels"),
    "signed": ((GREY // 2).astype(np.int8), {"photometric": "minisblack"}, "int8"),
    "Lab": (RGB, {"photometric": "cielab"}, "colours of kind CIELAB"),
}
"""Tiled TIFF, which OpenSlide reads: what is right is read, and nothing else."""


@pytest.mark.parametrize("name", TILED)
def test_tiled_tiff(tmp_path, name):
    pixels, how, expected = TILED[name]
    path = tmp_path / "a.tif"
    if "colormap" in how:
        how = {**how, "colormap": how["colormap"].astype(np.uint16)}
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="deflate", metadata=None, **how)
    if isinstance(expected, str):
        with pytest.raises(SlideError, match=expected):
            open_slide(path, mpp=0.5)
    else:
        assert np.abs(stripes(path) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_tiles_are_read_as_they_lie_in_the_file(tmp_path, orientation):
    """As by QuPath's other readers; libtiff would turn each tile for itself."""
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", RGB, tile=(16, 16), photometric="rgb", compression="deflate", metadata=None, extratags=tags
    )
    assert np.array_equal(stripes(tmp_path / "a.tif"), GREY)
