"""What goes wrong under a training ends in one line with the way out, or does not end it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dmmn_qp.errors import ConfigError, SlideError, TrainingError
from dmmn_qp.folders.model import is_whole
from dmmn_qp.training import reading
from dmmn_qp.training.checks import explained
from dmmn_qp.training.examples import EpochDraws
from dmmn_qp.training.launch import Launched, launched, processes_of
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.reading import Batches
from dmmn_qp.training.state import STATE, load_state
from tests.conftest import REPOSITORY, fails, invoke, rectangle, tiny_training, two_tissues, write_features, write_tiff

LAUNCHER = (
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)

TINY = tiny_training(epochs=1, steps=2, workers=None)


@pytest.fixture(autouse=True)
def nobody_launched(monkeypatch):
    for name in (*LAUNCHER, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def train(workspace, here):
    return ["train", "--dataset", workspace / "dataset", *TINY, "--workers", 0]


# Reading processes


class Reads:
    """Stands for the patches: the number of its draw, or an accident."""

    def __init__(self, accident=lambda: None):
        self.accident = accident

    def __getitem__(self, draw):
        if draw == 5:
            self.accident()
        return reading.Example(torch.full((2,), draw), torch.full((1,), draw))


def batches(accident=lambda: None, workers=2, said=None):
    said = [] if said is None else said
    return Batches(Reads(accident), EpochDraws(lambda epoch: range(8)), 2, workers, said.append)


def numbers(read):
    return [batch.images[:, 0].tolist() for batch in read]


def raising(error):
    def accident():
        raise error

    return accident


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "error", [SlideError('slide "a" is damaged'), OSError(5, "Input/output error", "a.svs"), MemoryError()]
)
def test_an_error_of_a_reading_process_is_that_of_the_reading(error, workers):
    read = batches(raising(error), workers)
    with pytest.raises(type(error)) as met:
        numbers(read)
    read.close()
    assert str(met.value) == str(error) and "Traceback" not in str(met.value)


def test_patches_go_through_pipes_where_shared_memory_is_too_small(monkeypatch):
    def refuse(*_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    said = []
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)  # before the reading processes are forked
    read = batches(said=said)
    assert numbers(read) == numbers(batches(workers=0)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert numbers(read) == [[0, 1], [2, 3], [4, 5], [6, 7]] and len(said) == 1
    assert "--shm-size" in said[0] and "--workers 0" in said[0]
    read.close()


def test_patches_are_read_here_where_no_process_can_be_started(monkeypatch):
    said = []
    monkeypatch.setattr(reading, "_check_queues", refuse_queues)
    read = batches(said=said)
    assert numbers(read) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(said) == 1 and "--shm-size" in said[0]


def refuse_queues(workers):
    raise OSError(errno.ENOSPC, "No space left on device")


KILLED_READER = """
import os, signal, sys
from pathlib import Path
import torch
from dmmn_qp.errors import TrainingError
from dmmn_qp.training import reading
from dmmn_qp.training.checks import explained
from dmmn_qp.training.examples import EpochDraws

class Reads:
    def __getitem__(self, draw):
        if draw == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return reading.Example(torch.full((2,), draw), torch.full((1,), draw))

try:
    with explained(Path(sys.argv[1])):
        for _ in reading.Batches(Reads(), EpochDraws(lambda epoch: range(8)), 2, 2):
            pass
except TrainingError as error:
    os.write(1, str(error).encode())
os._exit(0)
"""
"""In a process of its own: torch tells of the death of a reader wherever the main thread is just then."""


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_reading_process_killed_while_it_hands_over_a_batch(tmp_path, error):
    with pytest.raises(TrainingError, match="a reading process was killed"), explained(tmp_path):
        raise error


def test_a_killed_reading_process_is_said_with_the_way_out(tmp_path):
    (tmp_path / STATE).touch()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", KILLED_READER, tmp_path]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    for part in ("a reading process was killed", "--workers 0", "--cache", "train --resume --out"):
        assert part in said.stdout, said


@pytest.mark.engine
def test_a_farewell_to_all_processes_ends_the_training_between_two_steps(train, here):
    """As of a cluster, which sends it to reading processes too."""
    command = [
        sys.executable,
        "-m",
        "dmmn_qp",
        *map(str, [*train, "--steps-per-epoch", 500, "--workers", 2, "--tensorboard", "--out", "m"]),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (here / "m" / "events").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    *warnings, last = errors.splitlines()
    assert process.returncode == 130 and last.startswith("stopped in epoch 1"), errors
    assert all(line.startswith("warning: ") for line in warnings), errors
    assert load_state(here / "m").epoch == 1


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["no space is left", '"m"', "free some"]),
        (MemoryError(), ["memory of this machine", "--workers 0"]),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9"),
            ["memory of this machine"],
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), ["memory of the GPU", "--batch-size"]),
        (RuntimeError("Too many open files. Communication with the workers"), ["ulimit -n", "--workers 0"]),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"), ["lost each other"]),
        (RuntimeError("CUDA error: an illegal memory access"), ["nvidia-smi"]),
    ],
)
def test_errors_from_below_are_one_line_with_the_way_out(here, error, parts):
    with pytest.raises(TrainingError) as met, explained(Path("m")):
        raise error
    assert "\n" not in str(met.value) and "start it again" in str(met.value)
    assert all(part in str(met.value) for part in parts), met.value


def test_what_nobody_knows_stays_as_it_is(here):
    for error in (RuntimeError("shape mismatch"), FileNotFoundError(2, "No such file", "x")):
        with pytest.raises(type(error)) as met, explained(Path("m")):
            raise error
        assert met.value is error


# Processes that were launched

TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "9",
}


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (TORCHRUN, (4, 3, 2, 1, "a", 9)),
        (
            {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "9"},
            (2, 1, 2, 1, "a", 9),
        ),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}, None),  # an allocation, and no srun
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
            | {"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "12345"},
            (4, 3, 2, 1, "gpu07", 15345),
        ),
    ],
)
def test_who_was_launched(monkeypatch, variables, found):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.MonkeyPatch.context() as kept:  # what is added to the environment goes again
        for name in LAUNCHER:
            kept.setenv(name, os.environ.get(name, "")) if name in os.environ else kept.delenv(name, raising=False)
        process = launched()
        for name in LAUNCHER:
            if name not in variables:
                os.environ.pop(name, None)
    assert process == (None if found is None else Launched(*found))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"WORLD_SIZE": "abc"}, 'WORLD_SIZE is "abc"'),
        ({"WORLD_SIZE": "0"}, 'WORLD_SIZE is "0"'),
        ({"WORLD_SIZE": "-4"}, "WORLD_SIZE"),
        ({"RANK": "7"}, "RANK is 7"),
        ({"RANK": "x"}, 'RANK is "x"'),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK is 2"),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE is 3"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is 70000"),
        ({"RANK": None, "LOCAL_RANK": None}, "RANK is not set"),
        ({"WORLD_SIZE": None}, "RANK is 3"),
    ],
)
def test_variables_of_a_launcher_that_cannot_be_meant(changed, named):
    variables = {name: value for name, value in (TORCHRUN | changed).items() if value is not None}
    with pytest.raises(ConfigError) as met:
        Launched.of(variables)
    assert named in str(met.value) and "unset WORLD_SIZE" in str(met.value)


def test_such_variables_end_the_command_in_one_line(train, here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "abc")
    assert 'WORLD_SIZE is "abc"' in fails(*train)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "--devices 2" in fails(*train, "--devices", 2)
    assert not list(here.iterdir())


def test_an_allocation_is_no_launch(train, here, monkeypatch):
    """`--devices 2` would start its two processes in an allocation of one task as well."""
    for name, value in (
        ("NTASKS", "4"),
        ("JOB_NAME", "t"),
        ("JOB_ID", "1"),
        ("PROCID", "0"),
        ("LOCALID", "0"),
        ("NNODES", "1"),
    ):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert processes_of(TrainOptions(devices=2)) == 2
    result = invoke(*train, "--out", "m")
    assert result.exit_code == 0, result.output
    assert is_whole(here / "m")


# One class, and nine


def test_nine_classes_all_the_way(here):
    (here / "slides").mkdir()
    for name in "ab":
        write_tiff(here / "slides" / f"{name}.tif", two_tissues(512, 512, seed=ord(name)))
        squares = [rectangle(i % 3 * 160 + 10, i // 3 * 160 + 10, 150, 150, f"class {i}") for i in range(9)]
        write_features(here / "geojson" / f"{name}.geojson", squares)
    (here / "split.csv").write_text("slide,split\na,train\nb,val\n")
    for command in (
        ["import", "slides", "--annotations", "geojson", "--split-file", "split.csv"],
        ["train", *TINY, "--steps-per-epoch", 1, "--workers", 2],
        ["predict", "b"],
        ["evaluate", "--split", "val"],
    ):
        result = invoke(*command)
        assert result.exit_code == 0, (command, result.output)
    assert "class 8" in (here / "models" / "dmmn-m3-1" / "report.html").read_text("utf-8")
