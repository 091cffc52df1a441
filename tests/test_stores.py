"""Slides in a store of objects: a real server of S3's protocol, in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dmmn_qp.errors import SlideChangedError, SlideError, SlideUnreachableError
from dmmn_qp.files import patience, remote, servers
from dmmn_qp.files.paths import typed_place, why_not_there
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.regions import Region
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.files import fingerprint
from dmmn_qp.slides.finding import SlideFinder, Wanted, parse_slides_root
from tests.conftest import fails, two_tissues, write_tiff
from tests.zarr_files import write_ome_zarr

pytestmark = pytest.mark.engine
NOWHERE = Path("no-dataset")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The address of the server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=1)
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(store, monkeypatch, tmp_path):
    """Puts files into a bucket; credentials are those of the environment."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": store,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(servers, "_SERVERS", {})
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(remote, "FACTS_LAST_S", 0.0)
    client = boto3.client("s3")
    client.create_bucket(Bucket="slides")

    def put(path: Path, key: str) -> None:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                below = "" if file == path else f"/{file.relative_to(path).as_posix()}"
                client.put_object(Bucket="slides", Key=key + below, Body=file.read_bytes())

    yield put
    for item in client.list_objects_v2(Bucket="slides").get("Contents", []):
        client.delete_object(Bucket="slides", Key=item["Key"])


def test_tiff_and_zarr(bucket, tmp_path):
    pixels = two_tissues()
    bucket(write_tiff(tmp_path / "a.tif", pixels), "scans/a b?.tif")
    path = write_ome_zarr(tmp_path / "z.ome.zarr", [pixels], chunk=(1, 1, 1, 256, 256), shards=(1, 3, 1, 512, 768))
    bucket(path, "scans/z.ome.zarr")
    for name, file in (("a b?.tif", tmp_path / "a.tif"), ("z.ome.zarr", path)):
        place = typed_place(f"s3://slides/scans/{name}")
        with open_slide(place) as slide:
            assert np.array_equal(slide.read_level(0, Region(0, 0, 768, 512)), pixels)
            assert slide.info.mpp == 0.5
        assert fingerprint(place) == fingerprint(file)
    # the name of a prediction is one that a file may have on every system
    slides = slides_to_predict(["s3://slides/scans"], NOWHERE)
    assert [(slide.slide_id, slide.problem) for slide in slides] == [("a b_", None), ("z.ome", None)]


def test_folders(bucket, tmp_path):
    tiff = write_tiff(tmp_path / "a.tif", two_tissues(64, 64))
    for key in ("a.tif", "x/b.tif", "x/y/c.tif", "x/notes.txt", "ours/d.tif", "ours/run.json"):
        bucket(tiff, key)
    bucket(write_ome_zarr(tmp_path / "z.zarr", [two_tissues(64, 64)], chunk=(1, 1, 1, 64, 64)), "x/y/z.zarr")

    def ids(*names: str, **how: bool) -> list[str]:
        return [slide.slide_id for slide in slides_to_predict(names, NOWHERE, **how)]

    assert ids("s3://slides") == ["a"] and ids("s3://slides/x/") == ["b"]
    assert ids("s3://slides", recursive=True) == ["a", "b", "c", "z"]
    root = parse_slides_root("s3://slides/x")
    assert SlideFinder([root]).find({"b": Wanted("b.tif")}) == {"b": root / "b.tif"}
    assert why_not_there(typed_place("s3://slides/none.tif")) == "does not exist"
    assert "does not exist" in fails("predict", "s3://slides/none.tif", "--model", "m")


def test_a_file_that_changes(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(servers, "LOOK_AGAIN_S", 0.0)
    bucket(write_tiff(tmp_path / "a.tif", two_tissues(1024, 1024)), "a.tif")
    with open_slide(typed_place("s3://slides/a.tif")) as slide:
        bucket(write_tiff(tmp_path / "b.tif", two_tissues(1024, 1024, seed=3)), "a.tif")
        with pytest.raises(SlideChangedError, match="changed on its server"):
            slide.read_level(0, Region(0, 0, 1024, 1024))


def test_who_may_not(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(servers, "_SERVERS", {})
    with pytest.raises(SlideUnreachableError) as told:
        open_slide(typed_place("s3://slides/other.tif"))
    assert "s3cret" not in str(told.value) and "\n" not in str(told.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr(servers, "_SERVERS", {})
    with pytest.raises(SlideError, match=r"(?i)credentials"):
        open_slide(typed_place("s3://slides/third.tif"))
