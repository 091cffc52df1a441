"""OME-Zarr as slides: what is read, and what is refused before memory is taken or anything outside is opened."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
import tracemalloc
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs

from dmmn_qp.errors import PixelSizeError, SlideError
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.files import fingerprint, slide_stem
from dmmn_qp.slides.finding import SlideFinder, Wanted
from dmmn_qp.slides.folders import list_slides
from dmmn_qp.slides.whole import check_whole
from dmmn_qp.slides.zarr_folders import read_pyramid
from dmmn_qp.slides.zarr_store import decompressed
from tests.conftest import fails, two_tissues, write_tiff
from tests.zarr_files import write_ome_zarr

PIXELS = two_tissues(128, 192)
LEVELS = [PIXELS, PIXELS[::2, ::2], PIXELS[::4, ::4]]


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_ome_zarr(tmp_path / "s.ome.zarr", LEVELS, chunk=(1, 1, 1, 64, 64))


def changed(path: Path, change) -> None:
    """Changes metadata of a file of JSON."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class TestWhatIsRead:
    @pytest.mark.parametrize(("unit", "factor"), [("micrometer", 1), ("nanometer", 1e-3), ("millimeter", 1e3)])
    def test_pixel_size(self, tmp_path, unit, factor):
        path = write_ome_zarr(tmp_path / "s.zarr", [PIXELS], unit=unit, mpp=0.25 / factor, chunk=(1, 1, 1, 64, 64))
        assert open_slide(path).info.mpp == pytest.approx(0.25)

    def test_scale_of_all_levels_and_no_unit(self, slide):
        def both(content):
            content["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"] = [
                {"type": "scale", "scale": [1, 1, 1, 0.5, 0.5]}
            ]

        changed(slide / "zarr.json", both)
        assert open_slide(slide).info.mpp == 0.25
        changed(slide / "zarr.json", lambda c: c["attributes"]["ome"]["multiscales"][0]["axes"][4].pop("unit"))
        with pytest.raises(PixelSizeError, match="pass --mpp"):
            open_slide(slide)
        assert open_slide(slide, mpp=0.5).info.mpp == 0.5

    def test_a_level_that_lies_elsewhere_is_none(self, slide):
        assert open_slide(slide).info.level_downsamples == (1, 2, 4)

        def move(content):
            dataset = content["attributes"]["ome"]["multiscales"][0]["datasets"][1]
            dataset["coordinateTransformations"][1]["translation"][4] = 20.0

        changed(slide / "zarr.json", move)
        assert open_slide(slide).info.level_downsamples == (1, 4)

    def test_bioformats2raw_takes_the_first_series(self, tmp_path):
        top = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
        top.attrs["bioformats2raw.layout"] = 3
        write_ome_zarr(tmp_path / "s.zarr" / "0", LEVELS, version="0.4", chunk=(1, 1, 1, 64, 64))
        write_ome_zarr(tmp_path / "s.zarr" / "1", LEVELS[:1], version="0.4", chunk=(1, 1, 1, 64, 64))
        with open_slide(tmp_path / "s.zarr") as opened:
            assert np.array_equal(opened.read_level(1, Region(0, 0, 96, 64)), LEVELS[1])
            assert check_whole(tmp_path / "s.zarr", opened) == ()

    def test_chunks_that_were_never_written_are_the_fill_value(self, slide):
        shutil.rmtree(slide / "0" / "c" / "0" / "0")
        assert not open_slide(slide).read_level(0, Region(0, 0, 192, 128))[..., 0].any()

    def test_fingerprints(self, slide, tmp_path):
        shutil.copytree(slide, tmp_path / "moved.zarr")
        assert fingerprint(slide) == fingerprint(tmp_path / "moved.zarr")
        (chunk,) = (slide / "0" / "c" / "0" / "0" / "0" / "0").glob("0")
        chunk.write_bytes(chunk.read_bytes()[:-1])
        assert fingerprint(slide) != fingerprint(tmp_path / "moved.zarr")

    def test_in_folders_by_name_and_below_roots(self, slide, tmp_path):
        write_tiff(tmp_path / "t.tif", PIXELS)
        assert list_slides(tmp_path) == [slide, tmp_path / "t.tif"]
        assert list_slides(tmp_path, recursive=True) == [slide, tmp_path / "t.tif"]
        assert slide_stem(slide) == "s.ome"
        assert SlideFinder([tmp_path]).find({"s": Wanted("s.ome.zarr")}) == {"s": slide}
        with pytest.raises(SlideError, match="not found"):  # nor is a million chunks looked through
            SlideFinder([tmp_path]).find({"s": Wanted("c")})


def set_in(*place):
    """Changes one value of metadata."""

    def at(value):
        def change(content):
            for key in place[:-1]:
                content = content[key]
            content[place[-1]] = value

        return change

    return at


IMAGE = ("attributes", "ome", "multiscales", 0)
HUGE = [1, 1, 1, 2**20, 2**20]
SHARDS = [{"name": "sharding_indexed", "configuration": {
    "chunk_shape": [1, 1, 1, 1, 1], "codecs": [{"name": "bytes"}], "index_codecs": [{"name": "bytes"}]}}]  # fmt: skip

REFUSED = {
    "16 bits": ("0/zarr.json", set_in("data_type")("uint16"), "type uint16 instead of 8 bits"),
    "objects": ("0/zarr.json", set_in("data_type")("variable_length_bytes"), "instead of 8 bits"),
    "grey": ("0/zarr.json", set_in("shape")([1, 1, 1, 128, 192]), r"1 channel\(s\) instead of RGB"),
    "planes": ("0/zarr.json", set_in("shape")([1, 3, 9, 128, 192]), "9 planes instead of one"),
    "times": ("0/zarr.json", set_in("shape")([7, 3, 1, 128, 192]), "7 times instead of one"),
    "negative": ("0/zarr.json", set_in("shape")([1, 3, 1, -128, 192]), "have sides"),
    "no number": ("0/zarr.json", set_in("shape")([1, 3, 1, True, "192"]), "have sides"),
    "huge chunks": ("0/zarr.json", set_in("chunk_grid", "configuration", "chunk_shape")(HUGE), "too large to be read"),
    "many chunks in a shard": ("0/zarr.json", lambda c: c.update(
        codecs=SHARDS, chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1, 1, 1, 4096, 4096]}}
    ), "shards hold too many"),
    "unknown codec": ("0/zarr.json", set_in("codecs")([{"name": "bytes"}, {"name": "numcodecs.pickle"}]),
                      "coded by .*pickle"),
    "shards in shards": ("0/zarr.json", set_in("codecs")([{**SHARDS[0], "configuration": {
        **SHARDS[0]["configuration"], "codecs": SHARDS}}]), "coded by .*sharding"),
    "path outside": ("zarr.json", set_in(*IMAGE, "datasets", 0, "path")("../../0"), "outside of the slide"),
    "path absolute": ("zarr.json", set_in(*IMAGE, "datasets", 0, "path")("/etc"), "outside of the slide"),
    "axes": ("zarr.json", lambda c: c["attributes"]["ome"]["multiscales"][0]["axes"].reverse(), "its axes are 'xyzct'"),
    "version": ("zarr.json", set_in("attributes", "ome", "version")("0.3"), "of version 0.3"),
    "no levels": ("zarr.json", set_in(*IMAGE, "datasets")([]), "a list in its metadata is empty"),
    "a level that is missing": ("zarr.json", set_in(*IMAGE, "datasets", 0, "path")("9"), "level '9' is not there"),
    "no picture": ("zarr.json", set_in("attributes")({}), "its metadata lack 'multiscales'"),
    "scale": ("zarr.json", set_in(*IMAGE, "datasets", 0, "coordinateTransformations", 0, "scale")([1, 1, 1, 0, 1]),
              "no number"),
    "plate": ("zarr.json", set_in("attributes", "ome")({"version": "0.5", "plate": {}}), "a plate of wells"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_before_a_pixel_is_read(slide, name):
    file, change, word = REFUSED[name]
    changed(slide / file, change)
    with pytest.raises(SlideError, match=word) as told:
        open_slide(slide)
    assert "\n" not in str(told.value) and len(str(told.value)) < 500


def test_metadata_are_bounded(slide):
    (slide / "0" / "zarr.json").write_text(" " * (4 * 2**20 + 1))
    with pytest.raises(SlideError, match=r"zarr\.json is larger than"):
        open_slide(slide)
    (slide / "0" / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(SlideError, match="cannot be read as OME-Zarr"):
        open_slide(slide)


def test_filters_of_04(tmp_path):
    path = write_ome_zarr(tmp_path / "s.zarr", [PIXELS], version="0.4", filters=numcodecs.Delta(dtype="u1"),
                          chunk=(1, 1, 1, 64, 64))  # fmt: skip
    with pytest.raises(SlideError, match="filters, which are not read"):
        open_slide(path)


def bomb(name: str, size: int) -> bytes:
    zeros = bytes(size)
    if name == "gzip":
        return gzip.compress(zeros)
    codec = {"zlib": numcodecs.Zlib(), "zstd": numcodecs.Zstd(), "blosc": numcodecs.Blosc(), "lz4": numcodecs.LZ4()}[
        name
    ]
    return bytes(codec.encode(zeros))


@pytest.mark.parametrize("name", ["gzip", "zlib", "zstd", "blosc", "lz4"])
def test_chunks_that_would_become_longer(name):
    assert decompressed(name, bomb(name, 4096), 4096) == bytes(4096)
    data = bomb(name, 64 * 2**20)
    tracemalloc.start()
    with pytest.raises(Exception):  # noqa: B017 (each decoder has its own)
        decompressed(name, data, 4096)
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()
    if name == "lz4":
        with pytest.raises(ValueError, match="longer than its array says"):
            decompressed(name, struct.pack("<I", 2**31 - 1) + data[4:], 4096)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_damaged_chunks(tmp_path, version):
    compressor = numcodecs.Zlib() if version == "0.4" else zarr.codecs.GzipCodec()
    path = write_ome_zarr(
        tmp_path / "s.zarr", [PIXELS], version=version, compressors=compressor, chunk=(1, 3, 1, 64, 64)
    )
    chunk = path / "0" / ("c/0/0/0/1/1" if version == "0.5" else "0.0.0.1.1")
    for data in (b"none", bomb("gzip", 10 * 2**20), bytes(10**6)):
        chunk.write_bytes(data)
        with open_slide(path) as slide:
            assert np.array_equal(slide.read_level(0, Region(0, 0, 64, 64)), PIXELS[:64, :64])
            with pytest.raises(SlideError, match="is damaged at level 0, x 64, y 64"):
                slide.read_level(0, Region(64, 64, 64, 64))
    with pytest.raises(SlideError, match="is damaged"), open_slide(path) as slide:
        slide.read_level(0, Region(0, 0, 192, 128))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_for_a_chunk_holds_nobody_up(slide):
    chunk = slide / "0" / "c" / "0" / "0" / "0" / "0" / "0"
    chunk.unlink()
    os.mkfifo(chunk)
    assert not open_slide(slide).read_level(0, Region(0, 0, 64, 64))[..., 0].any()
    assert read_pyramid(slide).levels[0].size == (192, 128)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "s.zarr").mkdir()
    assert "holds no slide" in fails("predict", tmp_path / "s.zarr", "--model", "m")
