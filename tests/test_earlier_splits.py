"""What was held back is not trained on by and by: splits are remembered across imports, and a change is said."""

import json

import pytest
from rich.console import Console

from dmmn_qp.console import Reporter
from dmmn_qp.folders.dataset import Dataset
from dmmn_qp.folders.provenance import FINGERPRINTS, trained_slides, training_provenance
from dmmn_qp.training.announcing import warn_of_known
from dmmn_qp.training.fine_tuning import Start
from tests.conftest import invoke, rectangle, two_tissues, write_features, write_tiff

BOTH = [rectangle(40, 40, 300, 430, "dark"), rectangle(420, 40, 300, 430, "light")]


@pytest.fixture
def project(here):
    """Imports slides a, b, c again and again; gives their splits and what was said."""
    (here / "slides").mkdir()
    for name in "abc":
        write_tiff(here / "slides" / f"{name}.tif", two_tissues(seed=ord(name)))
        write_features(here / "geojson" / f"{name}.geojson", BOTH)

    def run(table="", *options):
        command = ["import", "slides", "--annotations", "geojson", "--overwrite", *options]
        if table:
            (here / "splits.csv").write_text("slide,split\n" + table)
            command += ["--split-file", "splits.csv"]
        result = invoke(*command)
        assert result.exit_code == 0, result.output
        run.said = " ".join(result.output.split())
        return splits(here / "dataset")

    run.folder = here
    return run


def splits(folder):
    return {record.slide_id: record.split for record in Dataset(folder).slides()}


def test_what_a_person_says_wins_but_is_said(project):
    first = project("a,train\nb,val\nc,test\n")
    assert "since the earlier dataset" not in project.said
    assert project("a,train\nb,val\nc,test\n") == first and "since the earlier" not in project.said
    assert project("a,val\nb,train\nc,train\n") == {"a": "val", "b": "train", "c": "train"}
    assert "val -> train since the earlier dataset: b; the next model is trained on it" in project.said
    assert "test -> train since the earlier dataset: c;" in project.said
    assert "train -> val since the earlier dataset: a; models that are trained already know it" in project.said
    findings = json.loads((project.folder / "dataset" / "report.json").read_text())["findings"]
    assert sum(f["severity"] == "warning" and "earlier dataset" in f["message"] for f in findings) == 3


def test_slides_of_which_nobody_says_anything_any_more_keep_theirs(project):
    project("a,train\nb,val\nc,test\n")
    assert project("a,train\n") == {"a": "train", "b": "val", "c": "test"}
    assert "2 slides without a split among slides that have one, with the split of the earlier dataset: b, c" in (
        project.said
    )
    assert project() == {"a": "train", "b": "val", "c": "test"}


def test_a_slide_keeps_its_split_under_another_name_and_after_it_was_gone(project):
    project("a,train\nb,val\nc,test\n")
    for folder, ending in (("slides", "tif"), ("geojson", "geojson")):
        (project.folder / folder / f"b.{ending}").rename(project.folder / folder / f"z.{ending}")
    assert project() == {"a": "train", "z": "val", "c": "test"}
    away = project.folder / "geojson" / "c.geojson"
    away.rename(project.folder / "c.away")
    assert project() == {"a": "train", "z": "val"}
    (project.folder / "c.away").rename(away)
    assert project("a,train\nz,val\nc,train\n")["c"] == "train"
    assert "test -> train since the earlier dataset: c" in project.said


def test_two_slides_that_change_their_names_keep_their_splits(project):
    project("a,train\nb,val\nc,test\n")
    for folder, ending in (("slides", "tif"), ("geojson", "geojson")):
        one, other, aside = (project.folder / folder / f"{name}.{ending}" for name in ("a", "b", "aside"))
        one.rename(aside), other.rename(one), aside.rename(other)
    assert project() == {"a": "val", "b": "train", "c": "test"}
    project("a,train\nb,val\nc,test\n")
    assert "val -> train since the earlier dataset: a;" in project.said


def test_areas_that_change_their_split_are_said_in_mm2(project):
    """A slide 4,096 px wide, whose left half was for validation."""
    pixels = two_tissues(1024, 4096)
    write_tiff(project.folder / "slides" / "a.tif", pixels)

    def divided(validation, training):
        features = [rectangle(0, 0, 4096, 500, "dark"), rectangle(0, 500, 4096, 500, "light")]
        areas = [(validation, "Validation"), (training, "Training")]
        features += [rectangle(x, -1000, 2048, 3024, name) for x, name in areas if x is not None]
        write_features(project.folder / "geojson" / "a.geojson", features)

    divided(0, 2048)
    table, one = "b,train\nc,test\n", ("--split-areas", "--mpps", "0.5")
    project(table, *one)
    assert "since the earlier dataset" not in project.said
    divided(0, 2048)
    project(table, *one)
    assert "since the earlier dataset" not in project.said
    divided(2048, 0)
    project(table, *one)
    moved = 2048 * 1024 * 0.25e-6  # what lies on the slide
    assert f"a: {moved:.3f} mm2: val or test -> train since the earlier dataset" in project.said
    assert f"a: {moved:.3f} mm2: train -> val or test since the earlier dataset" in project.said
    divided(None, None)
    project("a,train\nb,train\nc,val\n", "--mpps", "0.5")
    assert f"a: {moved:.3f} mm2: val or test -> train since the earlier dataset" in project.said


def test_slides_held_back_that_a_model_knows_are_said(project, capsys):
    project("a,train\nb,val\nc,test\n")
    dataset = Dataset(project.folder / "dataset")
    prints = {record.slide_id: record.fingerprint for record in dataset.slides()}

    def warned(known):
        warn_of_known(dataset, Start("m", None, None, (), (), tuple(known)), Reporter(Console()))
        return " ".join(capsys.readouterr().err.split())

    assert warned([prints["a"]]) == ""
    assert 'was trained on slides that are held back now: "b" (val), "c" (test)' in warned(prints.values())
    assert '"b" (val); figures' in warned(["b"])  # an older card names its slides


def test_trained_slides_of_a_card():
    provenance = training_provenance({"run_id": "r", "version": "1"}, ["y", "x"])
    assert provenance[FINGERPRINTS] == ["x", "y"] == trained_slides(provenance)
    assert trained_slides({"slides": ["a", 3]}) == ["a"] and trained_slides({}) == []
