"""Predicting by Ray, as far as it needs none: what may be asked for, what workers take, what is told of a call."""

import json
import os
import time
from contextlib import nullcontext

import pytest

from dmmn_qp.engines import ray_cluster
from dmmn_qp.engines.here import run_here
from dmmn_qp.engines.ray_cluster import Node
from dmmn_qp.engines.ray_engine import Needs, RayEngine
from dmmn_qp.errors import ConfigError
from dmmn_qp.files.locks import Holder, is_deserted, locked
from dmmn_qp.outputs.writers import WRITERS
from dmmn_qp.predicting import on_cluster
from dmmn_qp.predicting.on_cluster import needs_of
from dmmn_qp.predicting.options import PredictOptions
from dmmn_qp.predicting.publishing import with_those_of_others
from tests.conftest import fails, invoke, write_tiff
from tests.predicting import no_picture, writing
from tests.test_prediction_resume import make_model, texture

GB = 1e9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--engine rey", "--engine should be 'local' or 'ray', not 'rey'"),
        ("--address auto", "--address is of Ray alone; pass --engine ray as well"),
        ("--ray-workers 3", "--ray-workers is of Ray alone"),
        ("--engine local --ray-cpus 3", "--ray-cpus is of Ray alone"),
        ("--ray-memory-gb 3", "--ray-memory-gb is of Ray alone"),
        ("--engine ray --shard 1/2", "leave out one of them"),
        ("--engine ray --ray-workers 0", "--ray-workers should be greater than or equal to 1"),
        ("--engine ray --ray-memory-gb inf", "--ray-memory-gb should be a finite number"),
        *(
            (f"--engine ray --address {address}", "is no address of a Ray cluster; pass auto")
            for address in ("node", "ray://node:10001", "node:0", "node:65536", "node:", "http://n:1", ":1", "a b:1")
        ),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(here, options, said):
    before, _, address = options.partition("--address ")
    words = [*before.split(), *(["--address", address] if address else [])]
    assert said in fails("predict", "slides", "--model", "m", *words)


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.5:6379", "node-3.cluster.local:6379", "[::1]:6379"])
def test_addresses(address):
    PredictOptions(engine="ray", address=address).check_cluster(has_shard=False)


def test_without_the_extra_it_is_one_line(here, monkeypatch):
    monkeypatch.setattr(on_cluster, "is_installed", lambda: False)
    line = fails("predict", "slides", "--model", "m", "--engine", "ray")
    assert line.startswith("error: Ray is not installed; pip install") and "[ray]" in line


def test_where_slides_are_predicted_is_not_recorded():
    """So a folder can be gone on with by another engine; and an evaluation has nothing to do with Ray."""
    here, there = PredictOptions(), PredictOptions(engine="ray", address="auto", ray_workers=3, ray_cpus=2)
    assert here.model_dump() == there.model_dump() and not {"engine", "address"} & set(here.model_dump())
    assert there.on_this_machine() == here


CPU_NODE = Node("a", "a", cpus=16, gpus=0, memory=64 * GB)
GPU_NODE = Node("b", "b", cpus=32, gpus=4, memory=100 * GB)


@pytest.mark.parametrize(
    ("options", "there", "needs", "places"),
    [
        ({}, [CPU_NODE], Needs(4, 0, 4 * 10**9), [4]),
        ({"ray_cpus": 2}, [CPU_NODE], Needs(2, 0, 4 * 10**9), [8]),
        ({"ray_cpus": 1, "ray_memory_gb": 20}, [CPU_NODE], Needs(1, 0, 20 * 10**9), [3]),
        ({}, [CPU_NODE, GPU_NODE], Needs(8, 1, 4 * 10**9), [0, 4]),
        ({"devices": 2}, [CPU_NODE, GPU_NODE], Needs(16, 2, 4 * 10**9), [0, 2]),
        ({"device": "cpu"}, [CPU_NODE, GPU_NODE], Needs(4, 0, 4 * 10**9), [4, 8]),
        ({"device": "cuda"}, [CPU_NODE], Needs(4, 1, 4 * 10**9), [0]),
        ({"ray_memory_gb": 0}, [Node("c", "c", 2, 0, 0), Node("d", "d", 0, 0, 0)], Needs(2, 0, 0), [1, 0]),
        ({}, [], Needs(1, 0, 4 * 10**9), []),
    ],
)
def test_what_a_worker_takes(options, there, needs, places):
    found = needs_of(PredictOptions(engine="ray", **options), there)
    assert found == needs and [found.places(node) for node in there] == places


class OneWorker(RayEngine):
    """The engine with a worker that is this process."""

    def __call__(self, function, tasks, workers, progressed):
        self.began("here", function.prepare())
        self.said("given to a worker: " + " ".join(task.slide.slide_id for task in tasks))
        yield from run_here(function, tasks, workers, progressed)


def test_what_finished_slides_lack_is_made_by_workers_without_predicting(here, monkeypatch):
    pytest.importorskip("zarr")
    monkeypatch.setitem(WRITERS, "overview.png", writing("overview.png", no_picture))
    monkeypatch.setattr(on_cluster, "is_installed", lambda: True)
    monkeypatch.setattr(on_cluster, "connected", lambda _: nullcontext())
    monkeypatch.setattr(on_cluster, "nodes", lambda: [CPU_NODE])
    monkeypatch.setattr(on_cluster, "RayEngine", OneWorker)
    make_model(here / "m")
    (here / "slides").mkdir()
    for name in "ab":
        write_tiff(here / f"slides/{name}.tif", texture(150, 200))

    def said(*options):
        result = invoke("predict", "slides", "--model", "m", "--device", "cpu", "--out", "p", *options)
        assert result.exit_code == 0, result.output
        return result.output

    said()
    before = json.loads((here / "p/run.json").read_text())["predictions"]
    words = ("--engine", "ray", "--labels", "zarr")
    found = said(*words)
    assert "given to a worker: " in found and "Predicting" not in found
    for name in "ab":
        assert f"  {name}: made of its rasters, without predicting: {name}.labels.ome.zarr\n" in found
        assert (here / f"p/{name}.labels.ome.zarr/zarr.json").is_file()
    assert json.loads((here / "p/run.json").read_text())["predictions"] == before
    assert not [path.name for path in (here / "p").iterdir() if path.name.startswith(".")]
    assert "left as they are" in said(*words)
    assert said(*words, "--simplify-um", "2").count("made anew from its labels") == 2
    assert "Predicting 2 slides with m by Ray on cpu" in said(*words, "--overwrite")


def test_a_cluster_of_our_own_stays_on_this_machine():
    """What is asked of Ray; that it listens nowhere else is tested with a real one."""
    with ray_cluster._environment(ray_cluster._own()):
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert "RAY_AUTH_TOKEN" not in os.environ and ray_cluster._QUIET["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_call_that_is_told_by_many_keeps_all():
    def told(run_id="r", **lists):
        return {"run_id": run_id, "slides": [], "skipped": [], **lists}

    first = with_those_of_others(told(slides=["b"]), {})
    assert with_those_of_others(told(slides=["a"]), first)["slides"] == ["b", "a"]
    assert with_those_of_others(told(slides=["b"], skipped=["c"]), first) == told(slides=["b"], skipped=["c"])
    assert with_those_of_others(told("s", slides=["a"]), first)["slides"] == ["a"]
    assert with_those_of_others(told(slides=["a"]), told(slides=3, skipped=None))["slides"] == ["a"]


def test_progress_counts_slides_whatever_is_lost():
    told = []

    class Bar:
        def advance(self, amount=1, note=""):
            told.append((amount, note))

    progress = on_cluster._Progress(["a", "b"], Bar())
    progress(0, 40)
    progress(1, 99)
    progress(0, -40)  # its worker is lost
    progress(1, 1)
    progress(1, -100)  # after its end
    progress.end(1)
    progress.end(0)
    assert told == [(0, "a 40 %"), (0, "a 40 %  b 99 %"), (0, "b 99 %"), (1, ""), (1, "")]


def noted(folder, host, age_s):
    note = folder / ".s.holder.json"
    holder = Holder("a prediction", 1, host, "now", "key")
    note.write_text(json.dumps({name: getattr(holder, name) for name in Holder.__slots__}))
    os.utime(note, (time.time() - age_s,) * 2)
    return note


def test_a_slide_is_deserted_when_nobody_shows_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr("dmmn_qp.files.locks._LOOK_S", 0.05)
    here = Holder.here("").host
    assert is_deserted(tmp_path / "s")
    noted(tmp_path, here, 1)
    assert is_deserted(tmp_path / "s")  # of this machine: the operating system knows
    note = noted(tmp_path, "elsewhere", 1)
    times = iter([None, None])

    def touch(_):
        next(times, os.utime(note))

    monkeypatch.setattr("dmmn_qp.files.locks.time.sleep", touch)
    assert not is_deserted(tmp_path / "s")  # touched meanwhile
    noted(tmp_path, "elsewhere", 91)
    assert is_deserted(tmp_path / "s") and not list(tmp_path.glob(".s.lock"))


def test_a_slide_that_is_worked_on_here_is_not(tmp_path, monkeypatch):
    note = tmp_path / ".s.holder.json"
    monkeypatch.setattr("dmmn_qp.files.locks.time.sleep", lambda _: os.utime(note))
    with locked(tmp_path / "s", "a prediction", "wait"):
        assert not is_deserted(tmp_path / "s")


def test_what_ray_has_no_room_for_is_said():
    assert str(Needs(1)) == "1 CPU" and str(Needs(4, 2, 4 * 10**9)) == "4 CPUs, 2 GPUs, 4 GB of memory"
    with pytest.raises(ConfigError):
        PredictOptions(address="auto").check_cluster(has_shard=False)
