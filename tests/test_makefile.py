"""The Makefile does what `make help` and CONTRIBUTING.md say; above all, `make clean` removes nobody's own work."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import make as make_py
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
    assert f"dmmn-qp train --out {model} --overwrite" in make_py.DEMO


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


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A virtual environment in which nothing is installed but said to be."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def make_one(torch="auto", found="", system="Linux", has_gpu=False, fails=False):
        made = make_py.Venv(tmp_path / "venv", torch)
        made.bin.mkdir(parents=True, exist_ok=True)
        made.asked = []
        monkeypatch.setattr(make_py.platform, "system", lambda: system)
        monkeypatch.setattr(make_py.shutil, "which", lambda name: "/bin/it" if has_gpu else None)
        monkeypatch.setattr(made, "_torch_version", lambda: found)

        def pip(*args, check):
            made.asked.append(" ".join(args))
            return not (fails and "--index-url" in args)

        monkeypatch.setattr(made, "_pip", pip)
        return made

    return make_one


def test_demo_installs_the_package_alone_and_test_completes_it(venv):
    made = venv(found="2.13.0+cpu")
    made.provide(".", made.ready_for_demo)
    made.provide(".", made.ready_for_demo)
    assert made.asked == ["-e ."], "once"
    made.provide(".[dev]", made.ready)
    made.provide(".", made.ready_for_demo)
    assert made.asked == ["-e .", "-e .[dev]"], "and what has all has the demo's"
    os.utime("pyproject.toml", (2**31, 2**31))
    made.provide(".[dev]", made.ready)
    assert made.asked[2:] == ["-e .[dev]"], "other dependencies are installed anew"


CPU = f"--no-deps --index-url {make_py.CPU_INDEX} --retries 1 --timeout 20 torch"


@pytest.mark.parametrize(
    ("known", "pip"),
    [
        ({}, [CPU, "-e ."]),
        ({"has_gpu": True}, ["-e ."]),
        ({"found": "2.13.0"}, ["-e ."]),
        ({"system": "Windows"}, ["-e ."]),
        ({"torch": "cpu", "system": "Darwin"}, ["-e ."]),
        ({"torch": "cpu", "has_gpu": True}, [CPU, "-e ."]),
        ({"torch": "cpu", "found": "2.13.0+cpu"}, ["-e ."]),
        ({"torch": "cpu", "found": "2.13.0"}, [CPU.replace(" torch", " --force-reinstall torch"), "-e ."]),
        ({"torch": "default", "found": "2.13.0+cpu"}, ["--no-deps --force-reinstall torch", "-e ."]),
        ({"torch": "https://x.org/cu126/", "found": "2.13.0+cu126"}, ["-e ."]),
        ({"torch": "https://x.org/cu126"}, [CPU.replace(make_py.CPU_INDEX, "https://x.org/cu126"), "-e ."]),
        ({"fails": True}, [CPU, "-e ."]),
    ],
    ids=str,
)
def test_which_torch(venv, known, pip, capsys):
    made = venv(**known)
    made.provide(".", made.ready_for_demo)
    assert made.asked == pip
    assert ("cannot be fetched" in capsys.readouterr().out) == known.get("fails", False)


def test_a_python_without_venv_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        make_py.make_venv(tmp_path / "venv")


def test_an_unknown_torch_names_the_choices():
    ran = subprocess.run(
        [sys.executable, REPOSITORY / "make.py", "demo", "--torch", "gpu"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2 and "one of auto, cpu, default, or the address" in ran.stderr
