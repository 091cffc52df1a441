"""Words that nearly match are read as meant, or said: names, keys, classes and files as people and tools write them."""

import json
import re
import shutil
import unicodedata
import zipfile

import numpy as np
import pytest

from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.labels.class_rules import takes_labels_away
from dmmn_qp.labels.random_splits import choose_splits
from dmmn_qp.slides.folders import list_slides
from tests.conftest import DEMO, fails, invoke, rectangle, slides_with, two_tissues, write_features, write_tiff

A_AND_B = [rectangle(0, 0, 120, 250, "a"), rectangle(130, 0, 120, 250, "b")]


def named(name):
    """An annotation that has a name and no class."""
    feature = rectangle(0, 0, 250, 250, None)
    feature["properties"]["name"] = name
    return feature


def splits_of(folder):
    return {record.slide_id: record.split for record in Dataset(folder).slides()}


# ---- keys of image metadata


@pytest.fixture
def project(here):
    """A copy of the demo's project, whose images have other metadata on each call."""
    shutil.copytree(DEMO, here / "demo")
    content = json.loads((here / "demo" / "project.qpproj").read_text())

    def with_metadata(*metadata):
        images = content["images"]
        for image, own in zip(images, metadata or [{}] * len(images), strict=True):
            image["metadata"] = own
        (here / "demo" / "project.qpproj").write_text(json.dumps(content))
        return here / "demo" / "project.qpproj"

    with_metadata.names = [image["imageName"] for image in content["images"]]
    return with_metadata


@pytest.mark.parametrize("key", ["Split", "SPLIT", " sPlit "])
def test_key_of_the_split_in_another_case(here, project, key):
    words = ["Train", "val", "TEST", "training"]
    path = project(*({key: word} for word in words))
    result = invoke("import", path)
    assert result.exit_code == 0, result.output
    meant = dict(zip(project.names, ["train", "val", "test", "train"], strict=True))
    assert splits_of(here / "dataset") == {re.sub(r"\.\w+$", "", n): split for n, split in meant.items()}
    assert [record.metadata for record in Dataset(here / "dataset").slides()] == [{key: word} for word in words]
    said = f'image metadata "{key.strip()}" of 4 slides are read as "split"'
    assert said in result.output and said in (here / "dataset" / "report.json").read_text().replace('\\"', '"')
    assert "at random" not in result.output


def test_keys_that_differ_in_case_and_contradict_each_other(project):
    same = {"split": "train", "Split": "training"}
    assert "Split = val" in fails("import", project(same, {"split": "test", "Split": "val"}, same, same))
    assert invoke("import", project(same, same, same, {"split": "val"})).exit_code == 0


# ---- splits at random


def test_lot_is_announced(here):
    command = slides_with(here, [A_AND_B] * 3, n=3)
    result = invoke(*command)
    report = (here / "dataset" / "report.json").read_text()
    for text in (result.output, report):
        assert "nobody says which slides are for what, so it was chosen at random" in text and "(seed 0)" in text
    for slide_id, split in splits_of(here / "dataset").items():
        assert f"{split}: {slide_id}" in result.output
    again = invoke(*command, "--overwrite")
    assert "3 slides of the earlier dataset keep their split" in again.output and "at random" not in again.output


def test_slides_without_a_split_among_others_are_said(here):
    (here / "s.csv").write_text("slide,split\ns0,train\ns1,val\n")
    result = invoke(*slides_with(here, [A_AND_B] * 3, n=3), "--split-file", "s.csv")
    assert "1 slide without a split among slides that have one, for training: s2" in result.output
    assert "at random" not in result.output


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("areas", "where", "least"),
    [
        ({"x": [50, 3], "y": [50, 37], "z": [50, 0]}, "train", 37),  # the class of little area stays for training
        ({"x": [50, 3], "y": [0, 37], "z": [20, 0]}, "train", 3),
        ({"x": [50, 3], "y": [50, 37]}, "train", 37),
        ({f"{i:02}": [10, 0 if i % 4 else 10] for i in range(20)}, "train", 30),
        ({f"{i:02}": [10, 0 if i % 4 else 10] for i in range(20)}, "val", 10),
        ({f"{i:02}": [10, 0 if i % 4 else 10] for i in range(20)}, "test", 10),
    ],
)
def test_lot_weighs_area(seed, areas, where, least):
    splits = choose_splits({name: np.array(pixels) for name, pixels in areas.items()}, seed)
    assert sum(areas[name][1] for name, split in splits.items() if split == where) >= least
    assert list(splits.values()).count("val") >= 1


def test_seed_decides_among_equals():
    pixels = {name: np.array([5, 5]) for name in "abcde"}
    draws = {tuple(choose_splits(pixels, seed).values()) for seed in range(20)}
    assert len(draws) > 5
    assert choose_splits(pixels, 3) == choose_splits(dict(reversed(pixels.items())), 3)


# ---- classes


@pytest.mark.parametrize(
    ("name", "removes"),
    [("Ignore*", True), ("ignore*", True), ("Ignore *", True), ("IGNORE*", True), ("Ignore", False),
     ("Ignored*", False), ("Region*", False), (None, False)],
)  # fmt: skip
def test_spellings_of_ignore(name, removes):
    assert takes_labels_away(name) is removes


@pytest.mark.parametrize("name", ["ignore*", "Ignore *"])
def test_ignore_in_another_spelling_takes_labels_away(here, name):
    areas = {}
    command = slides_with(here, A_AND_B)
    for spelling in ("Ignore*", name):
        write_features(here / "geojson" / "s0.geojson", [*A_AND_B, rectangle(0, 0, 100, 250, spelling)])
        assert invoke(*command, "--overwrite").exit_code == 0
        report = json.loads((here / "dataset" / "report.json").read_text())
        areas[spelling] = [c["area_mm2"]["train"] for c in report["classes"]]
        assert [c["name"] for c in report["classes"]] == ["a", "b"]
    assert areas[name] == areas["Ignore*"] and areas[name][0] < areas[name][1]


def test_composed_and_decomposed_names_are_one(here):
    composed, decomposed = unicodedata.normalize("NFC", "Tumör"), unicodedata.normalize("NFD", "Tumör")
    (here / "slides").mkdir()
    write_tiff(here / "slides" / f"{decomposed}.tif", two_tissues())
    drawn = [rectangle(0, 0, 120, 120, composed), rectangle(0, 130, 120, 120, decomposed), *A_AND_B[1:]]
    write_features(here / "geojson" / f"{composed}.geojson", drawn)
    result = invoke("import", "slides", "--annotations", "geojson", "--drop", decomposed)
    assert result.exit_code == 0, result.output
    manifest = json.loads((here / "dataset" / "dataset.json").read_text())
    assert [c["name"] for c in manifest["class_map"]["classes"]] == ["b"]
    assert [s["slide_id"] for s in manifest["slides"]] == [composed]
    assert "differ only in case" not in result.output


# ---- files


def test_files_of_macos_are_passed_over(here):
    command = slides_with(here, A_AND_B)
    for path in (here / "slides" / "._s0.tif", here / "geojson" / "._s0.geojson", here / "geojson" / ".DS_Store"):
        path.write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert [*splits_of(here / "dataset")] == ["s0"]
    assert [path.name for path in list_slides(here / "slides")] == ["s0.tif"]
    with zipfile.ZipFile(here / "geojson" / "s0.zip", "w") as archive:
        archive.write(here / "geojson" / "s0.geojson", "s0.geojson")
        archive.writestr("__MACOSX/._s0.geojson", b"\x00")
        archive.writestr("a/._s0.geojson", b"\x00")
    (here / "geojson" / "s0.geojson").unlink()
    result = invoke(*command, "--overwrite")
    assert result.exit_code == 0 and "archive" not in result.output


@pytest.mark.parametrize(
    "table",
    [
        "slide;split\ns0;train\ns1;val\ns 10% #2;test\n",
        "Slide,SPLIT\ns0,Train\ns1,val\ns 10% #2.tif,test\n",
        "slide,split\nD:\\scans\\s0.tif,train\nD:\\scans\\s1.tif,val\nD:\\scans\\s 10% #2.tif,test\n",
        "slide,split\n/x/s0.tif,train\ns1 , val\n s 10% #2,test\n\n , \n",
        '\ufeffsep=;\r\n"slide";"split"\r\ns0;train\r\nS1;val\r\n"s 10% #2";test\r\n',
        "n\tslide\tsplit\n1\ts0\ttrain\n2\ts1\tval\n3\ts 10% #2\ttest\n",
    ],
)
def test_spellings_of_a_split_table(here, table):
    command = slides_with(here, [A_AND_B] * 3, n=3)
    for suffix in ("slides/{}.tif", "geojson/{}.geojson"):
        (here / suffix.format("s2")).rename(here / suffix.format("s 10% #2"))
    (here / "t.csv").write_text(table, newline="")
    result = invoke(*command, "--split-file", "t.csv")
    assert result.exit_code == 0, result.output
    assert splits_of(here / "dataset") == {"s0": "train", "s1": "val", "s 10_ _2": "test"}


def test_split_table_that_contradicts_itself(here):
    command = slides_with(here, [A_AND_B] * 3, n=3)
    (here / "t.csv").write_text("slide;split\ns0;train\ns1;val\ns2;test\ns0;Training\nS2.TIF;train\n")
    line = fails(*command, "--split-file", "t.csv")
    assert 'row 6: slide "S2.TIF" is train, but test further up; keep one of them' in line


# ---- nothing left


def cell(feature):
    feature["properties"]["objectType"] = "cell"
    return feature


NOTHING = {
    "cells": (
        [rectangle(0, 0, 250, 250, None), *(cell(rectangle(i, 9, 5, 5, "ab"[i % 2])) for i in range(144))],
        ["1 annotation without a class: set it in QuPath",
         "144 objects of kind cell with a class (a, b): --kinds annotation,cell"],
    ),
    "cells alone": (
        [cell(rectangle(9, 9, 5, 5, "a")), cell(rectangle(9, 9, 5, 5, None))],
        ["1 object of kind cell with a class (a): --kinds annotation,cell", "1 object of other kinds without a class"],
    ),
    "names": (
        [named("Tumor"), named("Stroma\x1b[31m")],
        ["2 annotations without a class (named Tumor, Stroma\\x1b[31m, but a name is no class): set it in QuPath"],
    ),
    "ignored": (
        [rectangle(0, 0, 9, 9, "Ignore*")],
        ["1 annotation of classes that QuPath ignores (Ignore*): give them"],
    ),
    "points": (
        [{**rectangle(0, 0, 9, 9, "a"), "geometry": {"type": "Point", "coordinates": [5, 5]}}],
        ["1 annotation without an area (a): draw areas"],
    ),
    "unreadable": (
        [{**rectangle(0, 0, 9, 9, "a"), "geometry": None}],
        ["feature without a geometry, left out: feature 1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NOTHING)
def test_all_that_was_found_is_said(here, what):
    features, said = NOTHING[what]
    line = fails(*slides_with(here, features))
    assert line.startswith("error: no annotated area with a class to train on; found: ")
    assert all(words in line for words in said), line
    assert "draw areas in QuPath, give them classes" not in line


def test_dropped_classes_are_said(here):
    line = fails(*slides_with(here, [rectangle(0, 0, 250, 250, "a")]), "--drop", "a")
    assert "1 annotation of classes left out on your word (a): leave out fewer with --drop" in line


def test_nothing_at_all(here):
    assert "draw areas in QuPath, give them classes, and save" in fails(*slides_with(here, []))


def test_outlines_of_imagej(here):
    command = slides_with(here, A_AND_B)
    with zipfile.ZipFile(here / "geojson" / "RoiSet.zip", "w") as archive:
        archive.writestr("0001-0002.roi", b"Iout")
    result = invoke(*command)
    assert result.exit_code == 0 and "outlines of ImageJ are not read" in result.output
    (here / "geojson" / "s0.geojson").unlink()
    (here / "geojson" / "s0.xml").write_text("<x/>")
    line = fails(*command, "--overwrite")
    assert "RoiSet.zip" in line and "drop them onto their images in QuPath" in line
    assert "files that end in .xml" in line


def test_cells_of_a_project_without_annotations(here, project):
    """Images that have no annotation are not read, but their summary counts their objects."""
    path = project()
    for summary in (here / "demo" / "data").glob("*/summary.json"):
        content = json.loads(summary.read_text())
        content["hierarchy"] |= {"nObjects": 12, "annotationClassificationCounts": {}}
        summary.write_text(json.dumps(content))
    line = fails("import", path)
    assert "objects of other kinds on images without annotations: name their kinds with --kinds" in line
