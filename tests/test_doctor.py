"""`doctor` says what is missing and goes on; `clean` removes what it showed, and nothing else."""

import builtins
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch

from dmmn_qp import doctor, machine
from dmmn_qp.doctor import devices, places, qupath, readers, self_test, software, system
from dmmn_qp.doctor.findings import Finding, isolated
from dmmn_qp.features.cache import FeatureCache
from dmmn_qp.files.failures import install_command
from dmmn_qp.files.locks import locked
from dmmn_qp.qupath.notes import QUPATH_DIR_VARIABLE
from dmmn_qp.slides.readers import SLIDE_READERS
from tests.conftest import REPOSITORY, fails, invoke


def found(check, subject=None):
    """(level, everything that is said) of each finding of a check."""
    return [
        (finding.level, f"{finding.text} -> {finding.way_out}")
        for finding in isolated("it", check)
        if subject in (None, finding.subject)
    ]


def one(check, subject=None):
    (finding,) = found(check, subject)
    return finding


@pytest.fixture
def without(monkeypatch):
    """Has modules fail when they are loaded."""

    def fail(*names):
        error = OSError("libthere.so.1: cannot open shared object file")
        load = builtins.__import__
        import_module = software.import_module

        def refuse(name):
            if name.partition(".")[0] in names:
                raise error

        def loading(name, *arguments, **how):
            refuse(name)
            return load(name, *arguments, **how)

        def importing(name):
            refuse(name)
            return import_module(name)

        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", loading)
        monkeypatch.setattr(software, "import_module", importing)

    return fail


def test_all_is_well_and_nothing_is_reached(here, monkeypatch, no_network):
    """On this machine; whatever it warns of."""
    monkeypatch.setattr(doctor, "CHECKS", {**doctor.CHECKS, "extras": lambda: []})  # ray alone takes seconds to load
    result = invoke("doctor", "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 0 and said["fail"] == 0, result.stdout
    subjects = {finding["subject"] for finding in said["findings"]}
    assert subjects >= {"versions", "libraries", "slide readers", "device", "threads", "memory", "folders"} - {
        "folders"
    }
    assert subjects >= {"working folder", "cache", "temporary files", "QuPath", "network", "disk use"}
    assert no_network == [] and list(here.iterdir()) == []


def test_each_reader_has_a_file_or_says_that_it_was_not_tried():
    ((level, text),) = found(readers.check_readers)
    assert level == "ok"
    assert f"{', '.join(SLIDE_READERS)} can read" in text and "not tried" not in text


def test_a_reader_of_an_extra_that_is_not_there_or_broken(monkeypatch):
    (good,) = readers.check_readers()
    monkeypatch.setitem(sys.modules, "zarr", None)
    monkeypatch.delitem(sys.modules, "dmmn_qp.slides.zarr_store", raising=False)
    monkeypatch.setattr(readers, "find_spec", lambda name: object())
    (broken, others) = readers.check_readers()
    assert broken.level == "warn" and broken.way_out == f"mend it: {install_command('zarr')}"
    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    (missing,) = readers.check_readers()
    assert missing.level == others.level == "ok" and "not tried: ome-zarr" in missing.text
    assert missing.way_out == f"for ome-zarr: {install_command('zarr')}" and good.way_out == ""


def test_openslide_that_cannot_be_loaded(without):
    without("openslide")
    said = found(software.check_libraries)
    (broken,) = [text for level, text in said if level == "fail"]
    assert "OpenSlide" in broken and "libthere.so.1" in broken and "pip install --force-reinstall" in broken


def test_a_reader_that_cannot_read_does_not_hide_the_others(monkeypatch):
    def broken(*_, **__):
        raise OSError("codec not there")

    monkeypatch.setitem(SLIDE_READERS, "tifffile", SLIDE_READERS["tifffile"]._replace(open=broken))
    (bad, good) = found(readers.check_readers)
    assert bad[0] == "fail" and "tifffile" in bad[1] and "codec not there" in bad[1]
    assert good[0] == "ok" and "picture" in good[1]


def test_no_torch(without):
    without("torch")
    level, text = one(devices.check_devices)
    assert level == "fail" and "libthere.so.1" in text
    assert "fail" in [level for level, _ in found(software.check_libraries)]


def test_a_gpu_that_fails(monkeypatch):
    monkeypatch.setattr(devices, "_gpus", lambda torch: iter([("cuda:0 Broken", torch.device("cuda", 0))]))

    def ones(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore lines")

    monkeypatch.setattr(torch, "ones", ones)
    (gpu, cpu) = found(devices.check_devices)
    assert gpu[0] == "fail" and "no kernel image" in gpu[1] and "--device cpu" in gpu[1] and "\n" not in gpu[1]
    assert cpu[0] == "ok"


def test_a_driver_without_a_gpu_for_torch(monkeypatch):
    monkeypatch.setattr(devices, "_gpus", lambda torch: iter(()))
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert [level for level, _ in found(devices.check_devices)] == ["warn", "ok"]


@pytest.mark.parametrize(
    ("cores", "threads", "busy", "level", "says"),
    [
        (8, 7, 0.3, "ok", "8 cores"),
        (8, 7, 1.4, "ok", "7 compute"),
        (8, 7, 3.0, "warn", "--threads 5"),
        (2, 1, 4.0, "warn", "wait"),
        (2, 1, None, "ok", "and 1 read"),
    ],
)
def test_cores_that_others_keep_busy(monkeypatch, cores, threads, busy, level, says):
    known = {"cores_of_machine": cores, "default_threads": threads, "default_readers": cores // 2, "busy_cores": busy}
    for name, value in known.items():
        monkeypatch.setattr(devices, name, lambda value=value, **how: value)
    found_level, text = one(devices.check_computing)
    assert found_level == level and says in text


GIB = 2**30


@pytest.mark.parametrize(
    ("check", "name", "value", "level", "says"),
    [
        (system.check_memory, "memory_bytes", (16 * GIB, 8 * GIB), "ok", "8.0 GiB free of 16.0 GiB"),
        (system.check_memory, "memory_bytes", (4 * GIB, 3 * GIB), "warn", "--workers 0"),
        (system.check_memory, "memory_bytes", None, "ok", "does not say"),
        (system.check_shared_memory, "shared_memory_bytes", (64 * 2**20, 63 * 2**20), "warn", "--shm-size 2g"),
        (system.check_shared_memory, "shared_memory_bytes", (2 * GIB, 2 * GIB), "ok", "/dev/shm"),
        (system.check_shared_memory, "shared_memory_bytes", None, "ok", "keeps it"),
        (system.check_open_files, "open_files_limit", 256, "warn", "ulimit -n 4096"),
        (system.check_open_files, "open_files_limit", 1024, "ok", "1,024"),
        (system.check_open_files, "open_files_limit", None, "ok", "no limit"),
    ],
)
def test_memory_and_files(monkeypatch, check, name, value, level, says):
    monkeypatch.setattr(system, name, lambda: value)
    monkeypatch.setattr(system, "default_readers", lambda: 2)
    found_level, text = one(check)
    assert found_level == level and says in text


def test_limits_are_those_of_the_process():
    limit = machine.open_files_limit()
    assert limit is None or limit >= 16
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    code += "from dmmn_qp.machine import open_files_limit; print(open_files_limit())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "64"


def test_a_folder_that_cannot_be_written(here, monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(places, "_try_to_write", refused)
    said = {finding.subject: finding for finding in places.check_places()}
    assert said["working folder"].level == said["temporary files"].level == "fail"
    assert said["cache"].level == "warn" and "DMMN_QP_CACHE" in said["cache"].way_out
    assert "Permission denied" in said["working folder"].text
    monkeypatch.setattr(doctor, "CHECKS", {"folders": places.check_places})
    assert invoke("doctor").exit_code == 1


def test_no_home_and_little_room(here, monkeypatch):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "DMMN_QP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(places.Path, "expanduser", homeless)
    monkeypatch.setattr(places.Path, "home", classmethod(homeless))
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    said = {finding.subject: finding for finding in places.check_places()}
    assert said["cache"].level == "warn" and "set HOME" in said["cache"].way_out
    assert said["working folder"].level == "warn" and "1 MiB" in said["working folder"].text
    assert all(level == "ok" for level, _ in found(qupath.check_qupath))


def test_no_folder_for_temporary_files(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert one(places.check_places, "temporary files")[0] == "fail"


def test_qupath_is_found_or_told_how_to_get(monkeypatch, tmp_path):
    assert qupath.VARIABLE == QUPATH_DIR_VARIABLE
    monkeypatch.delenv(qupath.VARIABLE, raising=False)
    monkeypatch.setattr(qupath.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(qupath, "usual_places", lambda: iter([tmp_path / "QuPath-0.6", tmp_path / "QuPath-0.5"]))
    assert "not found" in one(qupath.check_qupath, "QuPath")[1]
    level, text = one(qupath.check_qupath, "paquo")
    assert level == "ok" and "not installed" in text and "pip install" in text
    (tmp_path / "QuPath-0.5" / "lib" / "app").mkdir(parents=True)
    assert f"PAQUO_QUPATH_DIR={tmp_path / 'QuPath-0.5'}" in one(qupath.check_qupath, "QuPath")[1]
    monkeypatch.setenv(qupath.VARIABLE, str(tmp_path))
    level, text = one(qupath.check_qupath)
    assert level == "warn" and "no QuPath is" in text


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, "Applications/QuPath-0.6.0"),
        ("linux", {}, "QuPath-v0.5.1-Linux/QuPath"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/QuPath-0.6.0"),
        ("win32", {"ProgramFiles": "programs"}, "programs/QuPath-0.5.1"),
        ("darwin", {}, "Applications/QuPath-0.6.0-arm64.app"),
    ],
)
def test_usual_places_of_the_three_systems(monkeypatch, tmp_path, platform, variables, place):
    monkeypatch.setattr(qupath.sys, "platform", platform)
    monkeypatch.setattr(qupath.Path, "home", classmethod(lambda cls: tmp_path))
    for name in ("LOCALAPPDATA", "ProgramFiles", "ProgramW6432"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    (tmp_path / place).mkdir(parents=True)
    assert tmp_path / place in list(qupath.usual_places())


REQUIRED = ["numpy>=1", 'good-one>=2; extra == "good"', 'bad_one; extra == "bad"', 'dmmn-qp[good]; extra == "both"']
REQUIRED += ['gone; extra == "lost"', 'pytest; extra == "dev"']


def test_extras_that_are_there_broken_or_missing(monkeypatch):
    named = SimpleNamespace(get_all=lambda _: ["good", "bad", "both", "lost", "dev"])
    versions = {"good-one": "2", "bad-one": "1"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    def load(name):
        if name == "bad_one":
            raise OSError("libarrow.so: undefined symbol")

    monkeypatch.setattr(software, "metadata", lambda _: named)
    monkeypatch.setattr(software, "requires", lambda _: REQUIRED)
    monkeypatch.setattr(software, "version", version)
    monkeypatch.setattr(software, "import_module", load)
    monkeypatch.setattr(software, "packages_distributions", lambda: {"good": ["good-one"], "bad_one": ["Bad_One"]})
    (broken, there, missing) = found(software.check_extras)
    assert broken[0] == "warn" and "bad-one" in broken[1] and "undefined symbol" in broken[1] and "[bad]" in broken[1]
    assert there == ("ok", "there: good, both -> ")
    assert missing[0] == "ok" and "not there: bad; lost ->" in missing[1]


def test_it_runs_where_nothing_is_installed(monkeypatch):
    def lost(_):
        raise importlib.metadata.PackageNotFoundError("dmmn-qp")

    monkeypatch.setattr(software, "metadata", lost)
    assert one(software.check_extras)[0] == "warn"


def test_a_check_that_stumbles_is_a_finding_and_the_rest_goes_on(monkeypatch):
    def stumbles():
        yield Finding("a", "ok", "so far")
        raise LookupError("x")

    monkeypatch.setattr(doctor, "CHECKS", {"a": stumbles, "b": lambda: [Finding("b", "warn", "well", "do")]})
    result = invoke("doctor")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "ok    a: so far",
        "fail  a: cannot be looked at (LookupError: x)  -> see the lines about libraries",
        "warn  b: well  -> do",
        "1 ok, 1 warn, 1 fail: broken",
    ]
    monkeypatch.setattr(doctor, "CHECKS", {"b": lambda: [Finding("b", "warn", "well", "do")]})
    assert invoke("doctor").exit_code == 0


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_a_terminal_and_a_log(width):
    finding = Finding("subject", "warn", "some words " * 20 + "\x1b[31m\nred", "the way out " * 8)
    lines = finding.lines(width)
    assert len(lines) > 3 and all(len(line) + 6 <= width for line in lines) and "\x1b" not in "".join(lines)
    (line,) = finding.lines(None)
    assert line.startswith("subject: some words") and "  -> the way out" in line


@pytest.fixture
def with_broken(tmp_path):
    """Runs the program with a library that raises something when it is loaded."""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}"}

    def run(module, error, *words):
        (tmp_path / f"{module}.py").write_text(f"raise {error}")
        command = [sys.executable, "-m", "dmmn_qp", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    return run


NO_OPENSLIDE = ("openslide", "OSError('libopenslide.so.1: cannot open shared object file')")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (NO_OPENSLIDE, ("import", "x")),
        (("shapely", "ValueError('numpy.dtype size changed, may indicate binary incompatibility')"), ("status",)),
        (("jinja2", "ImportError('no jinja2')"), ("status",)),  # which only some commands load
    ],
)
def test_a_program_without_a_library_says_so_in_a_line(with_broken, broken, words):
    done = with_broken(*broken, *words)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: a library cannot be loaded (") and "dmmn-qp doctor" in done.stderr
    assert broken[1].split("'")[1][:30] in done.stderr and "report" not in done.stderr


@pytest.mark.engine
def test_a_program_without_a_library_has_its_doctor(with_broken):
    done = with_broken(*NO_OPENSLIDE, "doctor", "--json", "--self-test")
    assert done.returncode == 1 and done.stderr == "", done.stderr
    said = json.loads(done.stdout)["findings"]
    broken = {finding["subject"] for finding in said if finding["level"] == "fail"}
    assert broken - {"disk use"} == {"libraries", "slide readers", "self-test"}
    assert {finding["subject"] for finding in said} >= {"device", "memory", "working folder", "QuPath", "network"}


@pytest.mark.engine
def test_the_whole_chain(no_network, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    level, text = one(self_test.check_whole_chain)
    assert level == "ok" and re.match("imported, trained dmmn-m3, predicted, (1 polygon|.+ polygons) for", text), text
    assert list(tmp_path.glob("dmmn-qp-*")) == []


def test_a_chain_that_breaks_says_where(monkeypatch):
    def steps(folder):
        yield "imported"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(self_test, "_steps", steps)
    level, text = one(self_test.check_whole_chain)
    assert level == "fail" and "after imported" in text and "no space is left" in text


RUN = {"run_id": "r", "stage": "predict", "version": "0.1.0"}
PLAN = {"weights": "w", "slide": "s", "grid": [1], "kinds": {}}
EARLIER = "2b0ac6a9-51c8-4f29-9d5b-7f7f3a6f3c11"


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def used(here, monkeypatch):
    """A working folder after some accidents, with much beside it that only looks like ours."""
    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "c"))
    write(here / "c" / "features" / "features-ab" / "0_0.safetensors")
    write(here / "c" / "features" / "mine" / "x")
    write(here / ".dataset.0a1b2c3d.part" / "masks" / "a.tif")
    write(here / ".notes.0a1b2c3d.part" / "diary.txt")
    write(here / ".dataset.1a1b2c3d.old" / "run.json", RUN)  # there is no dataset: it gets its name again
    write(here / "predictions" / "run.json", RUN)
    write(here / "predictions" / ".a.part" / "plan.json", PLAN)
    write(here / "predictions" / ".b.part" / "plan.json", {"mine": 1})
    write(here / "predictions" / "earlier" / EARLIER / "a.geojson.gz")
    write(here / "predictions" / "earlier" / "kept by me" / "a.geojson.gz")
    write(here / "predictions" / "earlier" / EARLIER.replace("1", "2") / "notes.txt")
    os.utime(write(here / "predictions" / ".0a1b2c3d.part.areas.csv"), (1, 1))
    write(here / "predictions" / ".1a1b2c3d.part.areas.csv")  # written just now
    write(here / "models" / "m" / "run.json", RUN)
    write(here / "mine" / "run.json", {"my": "run"})
    os.utime(write(here / "mine" / ".0a1b2c3d.part.x"), (1, 1))
    (here / ".link.0a1b2c3d.part").symlink_to(here / "mine")
    return here


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


USUAL = {
    "c/features/features-ab/0_0.safetensors",
    ".dataset.0a1b2c3d.part/masks/a.tif",
    "predictions/.0a1b2c3d.part.areas.csv",
}
STRIPS, REPLACED = {"predictions/.a.part/plan.json"}, {f"predictions/earlier/{EARLIER}/a.geojson.gz"}


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ((), USUAL),
        (("--unfinished",), USUAL | STRIPS),
        (("--earlier",), USUAL | REPLACED),
        (("--earlier", "--unfinished"), USUAL | STRIPS | REPLACED),
    ],
)
def test_clean_removes_what_it_showed_and_nothing_else(used, options, gone):
    before = files(used)
    told = json.loads(invoke("clean", *options, "--json").stdout)
    assert files(used) == before and told["freed_bytes"] == 0 and len(told["items"]) == len(gone)
    line = fails("clean", *options)  # nobody is there to be asked
    assert "--yes" in line and files(used) == before
    result = invoke("clean", *options, "--yes")
    assert result.exit_code == 0 and before - files(used) == gone, result.output
    assert all(item["path"] in result.stdout for item in told["items"])
    assert invoke("clean", *options).stdout.strip() == "Nothing to remove"


def test_clean_asks(used, monkeypatch):
    from dmmn_qp.cli import cleaning

    monkeypatch.setattr(cleaning, "_can_ask", lambda: True)
    before = files(used)
    for answer in (False, True):
        monkeypatch.setattr(cleaning.typer, "confirm", lambda text, answer=answer: answer)
        invoke("clean")
        assert (files(used) == before) is not answer


def test_clean_leaves_what_is_held(used):
    with (
        locked(used / ".dataset.0a1b2c3d.part", "an import", "wait"),
        locked(used / "predictions" / "a", "a prediction", "wait"),
    ):
        told = json.loads(invoke("clean", "--unfinished", "--json", "--yes").stdout)
    assert [item["kind"] for item in told["items"]] == ["features", "leftover"]
    assert files(used) >= STRIPS | {".dataset.0a1b2c3d.part/masks/a.tif"}


def test_clean_passes_over_what_is_held_only_since_it_was_shown(used, monkeypatch):
    from dmmn_qp.workflows import cleaning

    found_first = cleaning.find_removable(used, strips=True)
    with locked(used / "predictions" / "a", "a prediction", "wait"):
        assert [item.kind for item in found_first if not cleaning.remove(item)] == ["strips"]
    assert files(used) >= STRIPS


@pytest.mark.parametrize(
    "file", ["dataset.json", "model.json", "comparison.json", "folds.json", ".zgroup", "zarr.json"]
)
def test_clean_knows_all_folders_that_are_made_under_another_name(here, file, monkeypatch):
    from dmmn_qp.workflows.cleaning import find_removable

    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "c"))
    write(here / "predictions" / ".a.0a1b2c3d.part" / file)
    write(here / "predictions" / "a" / "x")
    write(here / "predictions" / ".a.1a1b2c3d.old" / file)
    assert [item.path.name for item in find_removable(here)] == [".a.0a1b2c3d.part", ".a.1a1b2c3d.old"]


def test_clean_knows_a_folder_by_the_note_of_the_command_that_was_killed(here, monkeypatch):
    from dmmn_qp.workflows.cleaning import find_removable

    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "c"))
    folder = write(here / ".comparison.0a1b2c3d.part" / "a.geojson").parent
    assert not find_removable(here)
    os.utime(write(here / f".{folder.name}.holder.json"), (1, 1))
    (found,) = find_removable(here)
    assert found.path == folder
    invoke("clean", "--yes")
    assert files(here) == set()


@pytest.mark.parametrize(("closed", "kinds"), [("predictions", []), (EARLIER, ["leftover"])])
def test_clean_passes_over_what_it_may_not_read(used, monkeypatch, closed, kinds):
    """Such as ``lost+found``; an administrator, who may run this test, can read all."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != closed and real(path, mode))
    told = json.loads(invoke("clean", "--earlier", "--json").stdout)["items"]
    assert [item["kind"] for item in told if item["path"].startswith("predictions")] == kinds


def test_disk_use_adds_up(used):
    write(used / "models" / "n" / "resume.pt", "1234")
    said = {finding.subject: finding for finding in isolated("it", doctor.CHECKS["disk use"])}
    assert "2 folders of predictions" in said["disk use"].text and "dmmn-qp clean" in said["can go"].way_out
    assert "--resume --out models/n" in said["unfinished"].way_out
    assert dict(said["can go"].figures)["earlier"] == 1


def test_features_of_a_real_cache_are_found(here, monkeypatch):
    from dmmn_qp.workflows.cleaning import find_removable

    monkeypatch.setenv("DMMN_QP_CACHE", str(here / "c"))
    cache = FeatureCache(here / "c" / "features", 10**6, SimpleNamespace(warn=print))
    cache.keep(here / "c" / "features" / "features-ab" / "x", b"123")
    assert [(item.kind, item.size_bytes) for item in find_removable(here)] == [("features", 3)]
