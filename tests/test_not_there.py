"""Files that are not there, or never end, are said to be what they are: in every place where a user names one."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from dmmn_qp.errors import ModelError, SlideError
from dmmn_qp.files.paths import why_not_there
from dmmn_qp.folders.encoder_weights import read_weights
from dmmn_qp.folders.weights_file import check_digest, check_header_length
from dmmn_qp.slides.readers import open_slide
from dmmn_qp.slides.whole import check_end
from tests.conftest import fails, invoke, rectangle, slides_with, two_tissues, write_tiff


def test_why_a_path_is_none(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "good").symlink_to("file")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    assert why_not_there(tmp_path) is why_not_there(tmp_path / "file") is why_not_there(tmp_path / "good") is None
    assert why_not_there(tmp_path / "none") == why_not_there(tmp_path / "file" / "in it") == "does not exist"
    assert why_not_there(tmp_path / "link") == 'is a link to "nowhere", which is not there'
    assert why_not_there(tmp_path / "pipe") == "is a pipe, not a file"
    assert "symbolic links" in why_not_there(tmp_path / "a")


def test_what_a_shell_passes_can_be_read():
    reading, writing = os.pipe()
    try:
        assert why_not_there(Path(f"/dev/fd/{reading}")) is None
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("option", "table"),
    [
        ("--split-file", b"slide,split\ns0,train\n"),
        ("--mpp-csv", b"slide,mpp\ns0,0.5\n"),
    ],
)
def test_a_table_that_a_shell_passes_is_read_once(here, option, table):
    command = slides_with(here, [rectangle(0, 0, 99, 99, "a"), rectangle(120, 0, 99, 99, "b")])
    reading, writing = os.pipe()
    os.write(writing, table)
    os.close(writing)
    result = invoke(*command, option, f"/dev/fd/{reading}")
    os.close(reading)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "command",
    [
        ("predict", "pipe.svs", "--model", "m"),
        ("train", "--config", "pipe.svs"),
        ("import", "pipe.svs"),
        ("compare", "pipe.svs", "slides"),
        ("compare", "geojson", "pipe.svs"),
        ("compare", "geojson", "geojson", "--slides", "pipe.svs"),
        ("import", "slides", "--annotations", "pipe.svs"),
        ("import", "slides", "--annotations", "geojson", "--mpp-csv", "pipe.svs"),
        ("import", "slides", "--annotations", "geojson", "--split-file", "pipe.svs"),
        ("models", "import-official", "pipe.svs", "--preset", "msk-breast"),
    ],
)
def test_a_pipe_is_told_from_what_is_missing(here, command):
    """Opened, it would wait for somebody who writes into it."""
    slides_with(here, [rectangle(0, 0, 99, 99, "a"), rectangle(120, 0, 99, 99, "b")])
    os.mkfifo(here / "pipe.svs")
    assert '"pipe.svs" is a pipe, not a file' in fails(*command)


@pytest.mark.parametrize(
    ("read", "error"),
    [(read_weights, ModelError), (check_header_length, OSError), (lambda path: check_digest(path, "0"), OSError)],
)
def test_weights_that_never_end(tmp_path, read, error):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(error, match="is a pipe, not a file"):
        read(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_numbers_without_end_are_no_options(here, value):
    assert "--learning-rate should be" in fails("train", "--learning-rate", value)
    (here / "c.toml").write_text(f"[train]\nlearning_rate = {value}\n")
    assert "train.learning_rate should be" in fails("train", "--config", "c.toml")


# ---- slides that were cut


@pytest.mark.parametrize("big", [False, True])
def test_a_cut_slide_is_said_to_be_cut(tmp_path, big):
    """Whatever is missing of it: all pages, one of them, or pixels; nobody is told to pass its pixel size."""
    path = tmp_path / "s.svs"
    pixels = two_tissues(256, 256)
    with tifffile.TiffWriter(path, bigtiff=big) as writer:
        for _ in range(2):
            writer.write(pixels, tile=(128, 128), photometric="rgb")
    whole = path.read_bytes()
    check_end(path)
    with pytest.raises(SlideError, match="no usable pixel size"):
        open_slide(path)
    for kept in (20, len(whole) // 3, len(whole) - 300):
        path.write_bytes(whole[:kept])
        with pytest.raises(SlideError, match=r"was cut: .* copy the file again"):
            open_slide(path)


def test_a_directory_that_leads_to_itself_ends(tmp_path):
    path = tmp_path / "s.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8))
    check_end(path)


def test_channels_in_pages_of_their_own_are_counted(tmp_path):
    path = tmp_path / "s.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 64, 64), np.uint8), photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(SlideError, match="has 4 channels instead of RGB"):
        open_slide(path, mpp=0.5)


def test_a_whole_slide_is_opened(tmp_path):
    write_tiff(tmp_path / "s.tif", two_tissues(256, 256), 0.5)
    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.info.width == 256
