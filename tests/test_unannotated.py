"""Slides for test of which only the full truth is known: nothing need be drawn on them."""

import json
from pathlib import Path

import pytest

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.label_raster import LabelRaster
from dmmn_qp.regions import Region
from tests.conftest import fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.projects import DARK_AND_LIGHT, make_project, make_slide


@pytest.fixture
def slides(here):
    """Slides a and b with annotations, c without."""
    for seed, name in enumerate("abc"):
        (here / "slides").mkdir(exist_ok=True)
        write_tiff(here / "slides" / f"{name}.tif", two_tissues(256, 256, seed))
    for name in "ab":
        write_features(here / "geojson" / f"{name}.geojson", [rectangle(10, 10, 200, 90, "dark"),
                                                              rectangle(10, 120, 200, 90, "light")])  # fmt: skip
    return ("import", "slides", "--annotations", "geojson", "--split-file", "splits.csv")


def splits_of(text, command):
    if text is not None:
        Path("splits.csv").write_text(text)
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    return {r.slide_id: r.split for r in Dataset("dataset").slides()}, result


def test_the_table_of_splits_names_it(slides, here):
    found, result = splits_of("slide,split\na,train\nb,val\nc.tif,test\n", slides)
    assert found == {"a": "train", "b": "val", "c": "test"}
    assert "1 slide for test without annotations: c" in result.stdout and "left out" not in result.stdout
    dataset = Dataset(here / "dataset")
    assert {patch.slide_id for patch in dataset.patches()} == {"a", "b"}
    with LabelRaster(dataset.mask_path("c")) as mask:
        assert not mask.read(Region(0, 0, 256, 256)).any()
    findings = json.loads((here / "dataset" / "report.json").read_text())["findings"]
    assert not [f for f in findings if f["slide"] == "c"]


def test_what_is_said_of_it_leaves_the_lot_to_the_others(slides):
    found, result = splits_of("slide,split\nc,test\n", slides)
    assert found["c"] == "test" and set(found.values()) >= {"train", "val"}
    assert "chosen at random" in result.stdout


@pytest.mark.parametrize("split", ["train", "val"])
def test_it_is_for_nothing_else(slides, here, split):
    (here / "splits.csv").write_text(f"slide,split\na,train\nb,val\nc,{split}\n")
    line = fails(*slides)
    assert f'gives slide "c" to {split}' in line and "or give it to test" in line
    (here / "splits.csv").write_text("slide,split\nd,test\n")
    assert 'names slide "d", which is not annotated' in fails(*slides)


def test_metadata_of_a_project_name_it(here):
    drawn, bare, none = (make_slide(here / "slides" / f"{name}.tif", seed) for seed, name in enumerate("abc"))
    images = {bare: (), none: (), drawn: DARK_AND_LIGHT}
    project = make_project(here / "p", images, {"b.tif": {"Split": "test"}, "c.tif": {"split": "train"}})
    found, result = splits_of(None, ("import", project))
    assert found == {"a": "train", "b": "test"}
    assert "1 slide without annotations is left out" in result.stdout
    bare.unlink()
    found, result = splits_of(None, ("import", project, "--overwrite"))
    assert [*found] == ["a"] and "b.tif" in result.stderr
