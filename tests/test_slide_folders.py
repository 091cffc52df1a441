"""Which files of a folder are slides, and what they are called."""

import hashlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from dmmn_qp.errors import SlideError
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.predicting.inputs import slides_to_predict
from dmmn_qp.slides import SLIDE_READERS
from dmmn_qp.slides.files import users_path
from dmmn_qp.slides.finding import parse_slides_root
from dmmn_qp.slides.folders import list_slides, without_pictures_of_slides
from dmmn_qp.slides.names import legible_name
from dmmn_qp.slides.readers import slide_suffixes
from tests.conftest import DEMO, fails, invoke, rectangle, two_tissues, write_features, write_tiff

NOWHERE = DEMO / "no-dataset"
LARGE = np.full((400, 600, 3), 200, np.uint8)
SMALL = LARGE[::4, ::4]


def write(folder, *names):
    """Slides of 600 x 400 px and pictures of 150 x 100 px."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".tif", ".tiff", ".btf"):
            write_tiff(path, LARGE)
        else:
            Image.fromarray(np.ascontiguousarray(SMALL)).save(path)


def test_every_reader_says_its_endings():
    assert all(reader.suffixes for reader in SLIDE_READERS.values())
    assert {".svs", ".btf", ".ndpi", ".tif", ".png"} <= slide_suffixes()


def test_endings_of_big_tiff_are_found(tmp_path):
    write(tmp_path, "a.btf", "b.TIF".lower(), "notes.txt.png")
    assert [path.name for path in list_slides(tmp_path)] == ["a.btf", "b.tif", "notes.txt.png"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["case1.tif", "case1.png"], ["case1.tif"]),
        (["case1.tif", "CASE1.jpg"], ["case1.tif"]),
        (["case1.ome.tif", "case1.png"], ["case1.ome.tif"]),
        (["case1.tif", "case1_thumbnail.png", "case1-label.jpg", "case1 macro.png"], ["case1.tif"]),
        (["case1.tif", "case2.png"], ["case1.tif", "case2.png"]),
        (["case1.tif", "case1_b.png"], ["case1.tif", "case1_b.png"]),
        (["case1.png", "case1_thumbnail.png"], ["case1.png", "case1_thumbnail.png"]),
        (["a/case1.tif", "b/case1.png"], ["a/case1.tif", "b/case1.png"]),
    ],
)
def test_pictures_of_slides_are_no_slides(tmp_path, names, kept):
    write(tmp_path, *names)
    slides, left_out = without_pictures_of_slides(sorted(tmp_path / name for name in names))
    assert slides == sorted(tmp_path / name for name in kept)
    assert {one.picture for one in left_out} == {tmp_path / name for name in names} - set(slides)


def test_a_picture_of_the_slides_size_is_a_question(tmp_path):
    write(tmp_path, "case1.tif")
    Image.fromarray(LARGE).save(tmp_path / "case1.png")
    with pytest.raises(SlideError, match=r'case1\.tif" and ".*case1\.png" may both be slide "case1"'):
        without_pictures_of_slides(list_slides(tmp_path))
    assert str(tmp_path / "case1.png") in fails("predict", tmp_path, "--model", DEMO.parents[1] / "models" / "demo")


@pytest.mark.parametrize("name", ["scans", "scans/*"])
def test_predict_says_what_it_leaves_out(here, name):
    write(here / "scans", "case1.tif", "case1.png")
    said = []
    (slide,) = slides_to_predict([name], NOWHERE, say=said.append)
    assert slide.path.name == "case1.tif"
    assert len(said) == 1 and "case1.png" in said[0] and "case1.tif" in said[0]
    (slide,) = slides_to_predict(["scans/case1.png"], NOWHERE)  # what is named is meant
    assert slide.path.name == "case1.png"


def slides_with_annotations(folder, *names):
    for seed, name in enumerate(names):
        path = folder / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tiff(path, two_tissues(256, 512, seed=seed))
        features = [rectangle(10, 10, 236, 236, "dark"), rectangle(266, 10, 236, 236, "light")]
        write_features(folder / "geojson" / f"{path.stem}.geojson", features)
    return ("import", "slides", "--annotations", "geojson")


def test_import_leaves_thumbnails_out_and_says_it(here):
    command = slides_with_annotations(here, "case1.tif", "case2.tif")
    write(here / "slides", "case1.png")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert [record.slide_id for record in Dataset(here / "dataset").slides()] == ["case1", "case2"]
    report = json.loads((here / "dataset" / "report.json").read_text("utf-8"))
    assert any("case1.png" in finding["message"] for finding in report["findings"])


def test_import_searches_folders_in_folders(here):
    command = slides_with_annotations(here, "a/case1.tif", "b/case2.tif")
    assert "pass --recursive" in fails(*command)
    result = invoke(*command, "--recursive")
    assert result.exit_code == 0, result.output
    assert [record.slide_id for record in Dataset(here / "dataset").slides()] == ["case1", "case2"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
class TestLinksIntoAStore:
    """Slides that are links to files whose names are digests, as git-annex, DVC and caches of hubs keep them."""

    def stored(self, here):
        command = slides_with_annotations(here, "s0.tif", "s1.tif")
        (here / "blobs").mkdir()
        for slide in sorted((here / "slides").iterdir()):
            blob = here / "blobs" / hashlib.sha256(slide.read_bytes()).hexdigest()
            slide.rename(blob)
            slide.symlink_to(os.path.join("..", "blobs", blob.name))  # noqa: PTH118
        return command

    def test_the_users_name_is_kept_and_found_again(self, here):
        assert invoke(*self.stored(here)).exit_code == 0
        records = Dataset(here / "dataset").slides()
        assert [record.path for record in records] == [str(here / "slides" / f"s{i}.tif") for i in range(2)]
        (named,) = slides_to_predict(["slides/s0.tif"], here / "dataset")
        (blob,) = slides_to_predict([str((here / "slides" / "s1.tif").resolve())], here / "dataset")
        assert (named.slide_id, blob.slide_id) == ("s0", "s1")  # the dataset knows them by any name
        shutil.copytree(here / "slides", here / "moved")
        shutil.rmtree(here / "slides")
        shutil.rmtree(here / "blobs")
        found = Dataset(here / "dataset").locate(records[0], [parse_slides_root(str(here / "moved"))])
        assert found == here / "moved" / "s0.tif"

    def test_full_paths(self, here):
        self.stored(here)
        (here / "other").mkdir()
        (here / "other" / "here").symlink_to(here / "slides")
        assert users_path(here / "slides" / ".." / "slides" / "s0.tif") == here / "slides" / "s0.tif"
        assert users_path(here / "other" / "here" / "s0.tif") == here / "other" / "here" / "s0.tif"
        odd = here / "other" / "here" / ".." / "slides" / "s0.tif"  # where dropping ".." would lead elsewhere
        assert odd.samefile(users_path(odd))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="file names are Unicode there")
class TestNamesThatAreNoUtf8:
    """Names as old systems wrote them, in Latin-1."""

    def test_such_a_slide_is_predicted_under_a_name_that_all_can_write(self, here):
        (here / "scans").mkdir()
        write_tiff(here / "s.tif", two_tissues(64, 64))
        (here / "s.tif").rename(here / "scans" / os.fsdecode(b"k\xe4se.tif"))
        result = invoke("predict", "scans", "--model", DEMO.parents[1] / "models" / "demo")
        assert result.exit_code == 0, result.output
        assert (here / "predictions" / "käse.geojson").is_file()

    @pytest.mark.parametrize(("name", "legible"), [("k\udce4se", "käse"), ("käse", "käse"), ("癌 1", "癌 1")])
    def test_legible(self, name, legible):
        assert legible_name(name) == legible
