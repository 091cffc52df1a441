"""What a colleague is given names no training slide, path, person or machine, unless that is asked for."""

import getpass
import json
import platform
import shutil
import zipfile

import pytest

from dmmn_qp.folders.model import CARD, load_card, load_model
from dmmn_qp.folders.provenance import nameless_provenance
from tests.conftest import REPOSITORY, invoke

SECRET = "mrs-smith"


@pytest.fixture
def models(workspace, here):
    """A model as an earlier version wrote it, and one of today, in folders of a person."""
    folder = here / SECRET
    for name in ("old", "new"):
        shutil.copytree(workspace / "models" / "dmmn-m3-1", folder / name)
    told = json.loads((folder / "old" / CARD).read_text("utf-8"))
    told["provenance"] = {"run_id": "r", "slides": [f"{SECRET} 1", f"{SECRET} 2"], "dataset": f"/home/{SECRET}/dataset"}
    (folder / "old" / CARD).write_text(json.dumps(told), "utf-8")
    return folder


def texts_of(folder):
    """All that is in some files, the parts of archives unpacked."""
    for path in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
        yield path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(name) for name in archive.namelist())


def named_in(folder):
    """Which words that lead to a person are in some files; shorter ones are in any weights by chance."""
    words = {word for word in (SECRET, str(REPOSITORY), platform.node(), getpass.getuser()) if len(word) > 5}
    return {word for word in words for text in texts_of(folder) if word.encode() in text}


@pytest.mark.parametrize("name", ["old", "new"])
def test_shrunk_model(models, here, name):
    assert invoke("models", "shrink", models / name, "--out", "small").exit_code == 0
    assert named_in(here / "small") == set()
    told, before = load_card(here / "small").provenance, load_card(models / name).provenance
    assert told["run_id"] == before["run_id"] and told["training_slides"] == (2 if name == "old" else 1)
    assert told.get("training_fingerprints") == before.get("training_fingerprints")
    assert load_model(here / "small")[0].class_map == load_card(models / name).class_map


def test_shrunk_model_with_its_provenance(models, here):
    assert invoke("models", "shrink", models / "old", "--out", "small", "--keep-provenance").exit_code == 0
    assert load_card(here / "small").provenance == load_card(models / "old").provenance
    run = json.loads((here / "small" / "run.json").read_text("utf-8"))
    assert run["made_from"] == json.loads((models / "old" / "run.json").read_text("utf-8"))
    assert run["made_from"]["slides"]["train"] and run["configuration"]["model"] == str(models / "old")


@pytest.mark.parametrize(
    ("file_format", "suffix"), [("torchscript", "pt"), pytest.param("onnx", "onnx", marks=pytest.mark.engine)]
)
def test_exported_model(models, here, file_format, suffix):
    """Its networks' source files lie in somebody's folder, too."""
    if file_format == "onnx":
        pytest.importorskip("onnxscript")
    command = ("models", "export", models / "old", "--format", file_format, "--out", f"m.{suffix}", "--overwrite")
    assert invoke(*command).exit_code == 0
    assert named_in(here / f"m.{suffix}") == set()
    if file_format == "torchscript":
        assert invoke(*command, "--keep-provenance").exit_code == 0
        assert named_in(here / f"m.{suffix}") == {SECRET}


def test_card_of_a_training_and_prediction_name_no_training_slide(workspace, here):
    """a, b and c were imported; which of them is trained on is told by run.json of the model alone."""
    card = load_card(workspace / "models" / "dmmn-m3-1")
    told = json.loads((workspace / "models" / "dmmn-m3-1" / "run.json").read_text("utf-8"))
    assert card.provenance.keys() == {"run_id", "version", "training_slides", "training_fingerprints"}
    assert card.provenance["training_slides"] == len(told["slides"]["train"])
    (trained,) = card.provenance["training_fingerprints"]
    slides = json.loads((workspace / "dataset" / "dataset.json").read_text("utf-8"))["slides"]
    assert [slide["slide_id"] for slide in slides if slide["fingerprint"] == trained] == told["slides"]["train"]
    (other,) = (slide["path"] for slide in slides if slide["split"] == "test")
    result = invoke("predict", other, "--model", workspace / "models" / "dmmn-m3-1", "--out", "p")
    assert result.exit_code == 0, result.output
    for text in texts_of(here / "p"):
        assert trained.encode() not in text and f"{told['slides']['train'][0]}.tif".encode() not in text


def test_only_what_is_known_to_be_harmless_is_passed_on():
    told = {"run_id": "r", "iteration": 3, "user": SECRET, "slides": [SECRET], "new key": 1}
    assert nameless_provenance(told) == {"run_id": "r", "iteration": 3, "training_slides": 1}
