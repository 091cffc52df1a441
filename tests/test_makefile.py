"""The Makefile does what `make help` and CONTRIBUTING.md say; above all, `make clean` removes nobody's own work."""

import re
import shutil
import subprocess

import pytest

from dmmn_qp.files import RUN_FILE, write_json
from dmmn_qp.folders.predictions import INPUTS, PredictedInput
from tests.conftest import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
TARGETS = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()) - {"help"}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")

DEMO = "/somewhere/dmmn-qp/examples/demo/slides/test-1.tif"
OWN = "/data/slides/S12.svs"


@pytest.fixture
def place(tmp_path):
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    return tmp_path


def make(place, target):
    ran = subprocess.run(["make", target], cwd=place, capture_output=True, text=True, check=True, timeout=60)
    return ran.stdout


def dataset_of(place, source):
    (place / "dataset").mkdir()
    write_json(place / "dataset" / RUN_FILE, {"configuration": {"mpp": None, "source": source}})


def predictions_of(place, *slides):
    (place / "predictions").mkdir()
    inputs = {f"s{i}": PredictedInput(path=path, fingerprint="0").model_dump() for i, path in enumerate(slides)}
    write_json(place / "predictions" / RUN_FILE, {INPUTS: inputs})


def test_help_and_contributing_name_every_target(place):
    set_up = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8").split("## ")[1]
    for text in (make(place, "help"), set_up):
        assert set(re.findall(r"^make ([\w-]+) ", text, re.MULTILINE)) == TARGETS


def test_clean_removes_what_the_demo_made(place):
    dataset_of(place, "examples/demo/project.qpproj")
    predictions_of(place, DEMO, DEMO.replace("test", "val"))
    model = re.search(r"^DEMO_MODEL := (.*)$", MAKEFILE, re.MULTILINE)[1]
    (place / "loop").mkdir()
    write_json(place / "loop" / "ledger.json", {"rounds": [{"kind": "start"}]})
    for name in (model, "models/demo", "models/dmmn-m3-1", "build", ".ruff_cache"):
        (place / name).mkdir(parents=True)
    make(place, "clean")
    assert {path.name for path in place.iterdir()} == {"Makefile", "models"}
    assert {path.name for path in (place / "models").iterdir()} == {"demo", "dmmn-m3-1"}
    recipe = MAKEFILE.split("\ndemo: $(READY)\n")[1].split("\n\n")[0]
    assert "dmmn-qp train --out $(DEMO_MODEL) " in recipe


@pytest.mark.parametrize(
    ("source", "slides"), [("/data/project.qpproj", (OWN,)), ("slides", (DEMO, OWN)), ("slides", (OWN, DEMO))]
)
def test_clean_leaves_what_is_yours(place, source, slides):
    dataset_of(place, source)
    predictions_of(place, *slides)
    (place / "loop").mkdir()
    write_json(place / "loop" / "ledger.json", {"rounds": [{"kind": "start"}]})
    make(place, "clean")
    assert (place / "dataset" / RUN_FILE).is_file() and (place / "loop" / "ledger.json").is_file()
    assert (place / "predictions" / RUN_FILE).is_file()


def test_clean_leaves_what_was_checked(place):
    dataset_of(place, "examples/demo/project.qpproj")
    (place / "loop").mkdir()
    write_json(place / "loop" / "ledger.json", {"rounds": [{"kind": "start"}, {"kind": "model"}]})
    make(place, "clean")
    assert {path.name for path in place.iterdir()} == {"Makefile", "loop"}


def test_clean_leaves_folders_that_tell_nothing(place):
    for name in ("dataset", "predictions"):
        (place / name).mkdir()
    make(place, "clean")
    assert (place / "dataset").is_dir()
    assert (place / "predictions").is_dir()
