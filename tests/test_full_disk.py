"""Disks that are full: one line that says what could not be written, nothing half-written, and then it goes on.

The disks are of memory, some kB large, in a namespace of their own where the system lets everybody make one.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from dmmn_qp.files import write_json
from dmmn_qp.folders.predictions import PredictedInput
from dmmn_qp.slides import open_slide
from dmmn_qp.slides.files import fingerprint
from tests.conftest import DEMO, REPOSITORY, write_tiff
from tests.qupath.conftest import project  # noqa: F401 (a fixture)
from tests.qupath.test_pushing import predicted, write_predictions
from tests.test_prediction_resume import make_model, texture

pytestmark = pytest.mark.engine

FULL = 0
"""Of the sizes, a disk without any room."""

ON_SMALL_DISKS = """
import hashlib, json, shutil, subprocess, sys
from pathlib import Path
import pytest
from tests.conftest import invoke
from tests.predicting import no_picture, writing
from tests.qupath import paquo_stand_in
from dmmn_qp.outputs.writers import WRITERS

WRITERS["overview.png"] = writing("overview.png", no_picture)
disk, sizes, command, output, there_before = Path(sys.argv[1]), *map(json.loads, sys.argv[2:6])
paquo_stand_in.install(pytest.MonkeyPatch())

def mount(*options):
    subprocess.run(["mount", "-t", "tmpfs", *options, "none", disk], check=True)

for kb in sizes:
    mount("-o", f"size={kb or 4}k")
    for folder in there_before:
        shutil.copytree(folder, disk / Path(folder).name)
    if not kb:
        (disk / "full").write_bytes(bytes(4096))
    result = invoke(*command)
    told = {"size": kb, "code": result.exit_code, "error": result.stderr, "exception": repr(result.exception)}
    there = [p for p in disk.rglob("*") if p.is_file() and p.name != "full"]
    told["files"] = {str(p.relative_to(disk)): p.stat().st_size for p in there}
    told["before"] = {name: hashlib.sha256((disk / name).read_bytes()).hexdigest() for name in told["files"]}
    mount("-o", "remount,size=64m")
    again = invoke(*command)
    told |= {"again": again.exit_code, "output": again.output}
    files = {p.relative_to(disk).as_posix(): p.read_bytes() for p in disk.rglob("*") if p.is_file()}
    told["left"] = [name for name in files if "/." in f"/{name}"]
    told["digests"] = {name: hashlib.sha256(files[name]).hexdigest() for name in output if name in files}
    print("told", json.dumps(told), flush=True)
    subprocess.run(["umount", disk], check=True)
"""


def namespace():
    return ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder on which disks can be mounted, by who runs in a namespace of its own."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("unshare") is None:
        pytest.skip("this system has no namespaces")
    trial = [*namespace(), "mount", "-t", "tmpfs", "-o", "size=4k", "none", folder]
    if subprocess.run(trial, check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk in a namespace")
    return folder


def on_small_disks(disk, sizes, command, output, there_before=()):
    """Runs a command that writes to disks of some kB, and again when there is room; what it said and left."""
    words = [json.dumps([str(word) for word in part]) for part in (command, output, there_before)]
    script = [sys.executable, "-c", ON_SMALL_DISKS, disk, json.dumps(sizes), *words]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*namespace(), *script], check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return [json.loads(line[5:]) for line in result.stdout.splitlines() if line.startswith("told ")]


def assert_good(disk, told, needed):
    """Small disks end in one line about a file on them, and hold no half-written file; then all is as it should be."""
    stopped = [case for case in told if case["code"]]
    assert stopped and [case["code"] for case in told[-1:]] == [0], [(case["size"], case["error"]) for case in told]
    for case in stopped:
        lines = [line for line in case["error"].splitlines() if not line.startswith("warning")]
        assert case["exception"].startswith("SystemExit") and len(lines) == 1, case
        assert lines[0].startswith(f'error: "{disk}/') and "no space is left on the disk; free some" in lines[0], case
        assert ".part" not in lines[0], case
    whole = told[-1]["digests"]
    assert set(whole) == set(needed)
    for case in told:
        assert case["again"] == 0 and case["left"] == [] and case["digests"] == whole, case


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    make_model(folder / "m")
    write_tiff(folder / "s.tif", texture(500, 300))
    return folder


def test_predict(disk, material):
    command = ("predict", material / "s.tif", "--model", material / "m", "--device", "cpu", "--out", disk / "p")
    needed = ["p/s.labels.ome.tif", "p/areas.csv"]
    told = on_small_disks(disk, (FULL, 8, 24, 64, 160, 320, 640, 1280, 8192), command, needed)
    assert_good(disk, told, needed)
    assert len({case["error"] for case in told}) >= 2  # full at first, and not at last
    for case in told:
        assert ("p/s.geojson" in case["files"]) == (case["code"] == 0)


def test_import(disk, two_tissue_slides):
    slides, geojson = two_tissue_slides / "slides", two_tissue_slides / "geojson"
    command = ("import", slides, "--annotations", geojson, "--out", disk / "d", "--overwrite")
    told = on_small_disks(disk, (FULL, 4, 32, 128, 4096), command, ["d/manifest.json"])
    assert told[0]["code"] == 1
    for case in told:
        if case["code"]:
            assert "Traceback" not in case["error"] and "space" in case["error"].splitlines()[-1], case
            assert ".part" not in case["error"], case
            assert not case["files"], case  # no half of a dataset
        assert case["again"] == 0 and not case["left"], case


def test_evaluate(disk, workspace):
    folders = ("--predictions", workspace / "predictions", "--dataset", workspace / "dataset")
    command = ("evaluate", *folders, "--split", "train", "--out", disk / "e", "--overwrite", "--json", disk / "f.json")
    assert_good(disk, on_small_disks(disk, (FULL, 16, 256), command, ["f.json"]), ["f.json"])  # the other tells times


def test_shrinking_and_exporting_a_model(disk, workspace):
    model = next((workspace / "models").iterdir())
    for command in (
        ("models", "export", model, "--out", disk / "m.pt", "--format", "torchscript", "--overwrite"),
        ("models", "shrink", model, "--out", disk / "small", "--overwrite"),
    ):
        told = on_small_disks(disk, (16,), command, [])
        assert [case["code"] for case in told] == [1]
        for case in told:
            assert len(case["error"].splitlines()) == 1 and f'"{disk}/' in case["error"], case
            assert "no space is left" in case["error"] and not case["files"], case
            assert case["again"] == 0 and not case["left"], case


@pytest.fixture
def predicted_demo(project, tmp_path):  # noqa: F811
    """A project, and a prediction of an image of it with so many objects that they take about 200 kB."""
    predictions = tmp_path / "p"
    objects = [predicted("fat", 3.5 * i) for i in range(400)]
    slide = DEMO / "slides" / "test-1.tif"
    write_predictions(predictions, test_1=objects)
    with open_slide(slide) as opened:
        size = {"width": opened.info.width, "height": opened.info.height}
    known = PredictedInput(path=str(slide), fingerprint=fingerprint(slide), **size)
    write_json(predictions / "run.json", {"inputs": {"test-1": known.model_dump(mode="json")}})
    return project.parent, predictions


def test_push(disk, predicted_demo):
    """An image is as it was before, to the byte, or it is as it should be; no half of a backup stays."""
    folder, predictions = predicted_demo
    before = {
        path.relative_to(folder.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    size = sum(path.stat().st_size for path in folder.rglob("*")) // 1024
    sizes = [size + more for more in (60, 200, 300, 2000)]
    command = ("push", predictions, "--into", disk / "project")
    told = on_small_disks(disk, sizes, command, [], [folder])
    assert told[-1]["code"] == 0 and told[0]["code"] == 1, told
    stopped = [case for case in told if case["code"]]
    words = set()
    for case in stopped:
        (line,) = [line for line in case["error"].splitlines() if not line.startswith("warning")]
        assert (
            f"{disk}/project" in line
            and ".part" not in line
            and "no space is left on the disk" in line
            and "free some" in line
        ), line
        words.add("as it was before" in line)
        found = {name: digest for name, digest in case["before"].items() if "dmmn_qp_backup" not in name}
        assert {name: found.get(name) for name in before} == before, line
        assert not [name for name in found if ".part" in name or name.endswith((".bkp", ".lock", ".holder.json"))]
    assert words == {True, False}  # while it is written, and before
    assert all(case["again"] == 0 for case in told)


def test_new_project(disk, predicted_demo):
    _, predictions = predicted_demo
    command = ("new-project", predictions, "--out", disk / "new")
    told = on_small_disks(disk, (FULL, 8, 100, 4000), command, [])
    assert [case["code"] for case in told] == [1, 1, 1, 0], told
    for case in told[:-1]:
        (line,) = [line for line in case["error"].splitlines() if not line.startswith("warning")]
        assert f'"{disk}/new"' in line and "no space is left on the disk" in line and "free some" in line, line
        assert not case["files"] and case["again"] == 0, case
