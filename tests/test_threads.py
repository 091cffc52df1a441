"""How many threads compute, who says so, and how they wait."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import cv2
import pytest
import torch

from benchmarks import threads as benchmark
from dmmn_qp import machine
from dmmn_qp.engines import cores
from dmmn_qp.networks.devices import computing
from tests.conftest import REPOSITORY, fails, invoke, tiny_training, write_tiff
from tests.test_prediction_resume import command, interrupt, make_model, texture, written_strips


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Another system: files by name, and the cores that the process is bound to."""

    def make(bound=8, **files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix("")
            path = path.with_name(path.name.replace("_dot_", "."))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(machine, "ROOT", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)

    return make


CPU_MAX, OWN = "sys__fs__cgroup__cpu_dot_max", "sys__fs__cgroup__box__cpu_dot_max"
INNER = "sys__fs__cgroup__box__inner__cpu_dot_max"
QUOTA, PERIOD = "sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us", "sys__fs__cgroup__cpu__cpu_dot_cfs_period_us"
MINE = "proc__self__cgroup"


@pytest.mark.parametrize(
    ("bound", "files", "expected"),
    [
        (8, {}, 8),
        (8, {CPU_MAX: "max 100000\n"}, 8),
        (8, {CPU_MAX: "150000 100000\n"}, 2),
        (8, {CPU_MAX: "50000 100000\n"}, 1),
        (2, {CPU_MAX: "400000 100000\n"}, 2),
        (8, {CPU_MAX: "nonsense\n"}, 8),
        (8, {CPU_MAX: "max 100000\n", OWN: "300000 100000\n", MINE: "0::/box\n"}, 3),
        (8, {OWN: "300000 100000\n", INNER: "max 100000\n", MINE: "0::/box/inner\n"}, 3),
        (8, {OWN: "300000 100000\n", INNER: "200000 100000\n", MINE: "0::/box/inner\n"}, 2),
        (8, {CPU_MAX: "300000 100000\n", MINE: "0::/../../elsewhere\n"}, 3),
        (8, {QUOTA: "200000\n", PERIOD: "100000\n"}, 2),
        (8, {QUOTA: "-1\n", PERIOD: "100000\n"}, 8),
    ],
)
def test_cores_are_those_of_the_container(system, bound, files, expected):
    system(bound, **files)
    assert machine.cores_of_machine() == expected


@pytest.mark.parametrize(
    ("bound", "processes", "readers", "said", "expected"),
    [
        (1, 1, True, "", 1),
        (2, 1, False, "", 2),
        (2, 1, True, "", 1),
        (8, 1, False, "", 8),
        (8, 1, True, "", 7),
        (8, 2, False, "", 4),
        (9, 2, True, "", 4),
        (2, 4, False, "", 1),
        (8, 2, True, "3", 3),
        (8, 1, False, "5,2", 5),
        (8, 1, False, "0", 8),
        (8, 1, False, "many", 8),
        (8, 1, False, "9" * 30, 8),
    ],
)
def test_a_core_is_left_to_readers_unless_somebody_says_otherwise(
    system, monkeypatch, bound, processes, readers, said, expected
):
    system(bound)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores.default_threads(processes, beside_readers=readers) == expected


def test_memory_is_that_of_the_container(system):
    kib = "MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable: 3000 kB\n"
    system(proc__meminfo=kib)
    assert machine.memory_bytes() == (4_096_000, 3_072_000)
    system(sys__fs__cgroup__memory_dot_max="1000000\n", sys__fs__cgroup__memory_dot_current="400000\n")
    assert machine.memory_bytes() == (1_000_000, 600_000)
    of_box = {"memory_dot_max": "2000000\n", "memory_dot_current": "1700000\n"}
    system(**{MINE: "0::/box\n"}, **{f"sys__fs__cgroup__box__{name}": text for name, text in of_box.items()})
    assert machine.memory_bytes() == (1_000_000, 300_000)  # which of them is short does not matter
    system(sys__fs__cgroup__memory_dot_max="max\n", **{MINE: "0::/\n"})
    assert machine.memory_bytes() == (4_096_000, 3_072_000)


def test_all_threads_are_set_in_one_place_and_given_back(monkeypatch):
    monkeypatch.setattr(cores, "cores_of_machine", lambda: 8)
    before = torch.get_num_threads(), cv2.getNumThreads(), cores.available_cores()
    with computing(3) as threads:
        assert (threads, torch.get_num_threads(), cores.available_cores()) == (3, 3, 3)
        assert cv2.getNumThreads() <= 3
        with pytest.raises(ValueError, match="x"), computing(2):
            assert (torch.get_num_threads(), cores.available_cores()) == (2, 2)
            raise ValueError("x")
        assert (torch.get_num_threads(), cores.available_cores()) == (3, 3)
    assert (torch.get_num_threads(), cv2.getNumThreads(), cores.available_cores()) == before


@pytest.mark.parametrize("ends_first", ["first", "second"])
def test_blocks_of_two_threads_leave_nothing_behind(monkeypatch, ends_first):
    """Two predictions at a time, as in a notebook: whichever ends last, all is as before the first."""
    monkeypatch.setattr(cores, "cores_of_machine", lambda: 8)

    def numbers():
        """Those of this thread, and of one that comes later."""
        with ThreadPoolExecutor(1) as later:
            of_later = later.submit(torch.get_num_threads).result()
        return torch.get_num_threads(), of_later, cv2.getNumThreads(), cores.available_cores()

    before, began, may_end, seen = numbers(), threading.Event(), threading.Event(), []

    def second():
        with computing(2):
            began.set()
            assert may_end.wait(60)
        seen.append(numbers())

    with ThreadPoolExecutor(1) as pool, ExitStack() as always:
        always.callback(may_end.set)
        with ExitStack() as first:
            first.enter_context(computing(3))
            running = pool.submit(second)
            assert began.wait(60)
            assert numbers()[:2] == (3, 2) and cores.available_cores() == 2, "what began last"
            if ends_first == "second":
                may_end.set()
                running.result()
                assert numbers()[:2] == (3, 3) and cores.available_cores() == 3
        if ends_first == "first":
            assert numbers()[:2] == (before[0], 2) and cores.available_cores() == 2
            may_end.set()
            running.result()
    assert numbers() == before
    assert seen[0][0] == before[0], "the other thread too"


WATCHED = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("numpy", "torch"):
            print(name, os.environ.get("OMP_WAIT_POLICY"), os.environ.get("OPENBLAS_NUM_THREADS"), flush=True)
        if name == "torch":
            os._exit(0)  # which would take seconds to load
sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import dmmn_qp.cli, dmmn_qp.networks.devices", ["numpy PASSIVE 1", "torch PASSIVE 1"]),
        ("import dmmn_qp; dmmn_qp.partial_cross_entropy; import torch", ["numpy PASSIVE None", "torch PASSIVE None"]),
    ],
)
def test_libraries_are_told_how_to_wait_before_they_are_loaded(code, expected):
    """In a notebook, NumPy computes as the user wants it."""
    names = ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-c", f"{WATCHED}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == expected


def test_what_the_user_says_of_libraries_stays():
    environment = {"OMP_WAIT_POLICY": "ACTIVE"}
    cores.settle_libraries(environment)
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE" and environment["OPENBLAS_NUM_THREADS"] == "1"


def test_a_training_keeps_its_number_of_threads(workspace, here, monkeypatch):
    """It is resolved once, stands in run.json, and is what the steps are computed with."""
    from dmmn_qp.training.learner import Learner

    step, seen = Learner.step, []
    monkeypatch.setattr(Learner, "step", lambda *a, **k: seen.append(torch.get_num_threads()) or step(*a, **k))
    before = torch.get_num_threads()
    options = ("--dataset", workspace / "dataset", *tiny_training(epochs=1, steps=1))
    done = invoke("train", *options, "--out", "two", "--threads", 2)
    assert done.exit_code == 0, done.output
    assert "cpu, 2 threads, fp32" in done.stdout and seen == [2] and torch.get_num_threads() == before
    assert json.loads((here / "two" / "run.json").read_text())["configuration"]["threads"] == 2
    assert "threads" in fails("train", *options, "--threads", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr(cores, "cores_of_machine", lambda: 3)
    assert "\nthreads = 2\n" in invoke("train", *options, "--dry-run").stdout


def test_a_prediction_computes_in_as_many_threads_as_asked(workspace, here, monkeypatch):
    from dmmn_qp.predicting import run

    predict_strips, seen = run.predict_strips, []

    def watched(*arguments):
        seen.append((torch.get_num_threads(), cores.available_cores()))
        predict_strips(*arguments)

    monkeypatch.setattr(cores, "cores_of_machine", lambda: 8)
    monkeypatch.setattr(run, "predict_strips", watched)
    slide = next(path for path in sorted(workspace.parent.rglob("two-tissues*/slides/a.tif")))
    (model,) = (workspace / "models").iterdir()
    done = invoke("predict", slide, "--model", model, "--out", "p", "--threads", "2")
    assert done.exit_code == 0, done.output
    assert seen == [(2, 2)]
    (told,) = json.loads((here / "p/run.json").read_text())["predictions"].values()
    assert (told["device"], told["threads"]) == ("cpu", 2)


def test_any_number_of_threads_goes_on_with_a_slide(here, monkeypatch):
    """A machine of other cores does not begin a slide again: what it makes differs by rounding alone."""
    make_model(here / "m")
    write_tiff(here / "s.tif", texture(columns=100))
    interrupt(monkeypatch, here, 2, "--threads", 1)
    with written_strips(monkeypatch) as numbers:
        done = invoke(*command(here), "--threads", 2, "--resume")
    assert done.exit_code == 0 and numbers == [2, 3], done.output
    assert json.loads((here / "predictions/run.json").read_text())["predictions"]["s"]["threads"] == 2
    assert "left as they are" in invoke(*command(here), "--threads", 1).output


def test_the_benchmark_compares_within_a_round():
    """Rates of 10 and 5, then of 4 and 4: their ratios are .5 and 1, whatever the machine did between the rounds."""
    rounds = [
        [figures(threads=1, patches=20), figures(threads=7, patches=10)],
        [figures(threads=1, patches=8), figures(threads=7, patches=8)],
    ]
    _, _, first, second = benchmark.table("train", 1, ["1", "default"], rounds)
    assert first.split() == ["1", "7.0", "1.00", "1.00", "1.00", "87.5"]
    assert second.split() == ["default", "(7)", "4.5", "0.75", "0.50", "1.00", "112.5"]


def figures(threads, patches):
    return {"threads": threads, "patches": patches, "seconds": 2.0, "cpu_seconds": 1.0}


def test_the_benchmark_leaves_no_neighbour():
    with benchmark.neighbours(1) as (other,):
        assert other.poll() is None
    assert other.poll() is not None
