"""What goes wrong under a training ends in one line with the way out, or does not end it; two never share a folder."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import pytest
import torch

from dmmn_qp.errors import ConfigError, InUseError, SlideError, TrainingError
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.model import is_whole, load_card
from dmmn_qp.training import reading
from dmmn_qp.training.checks import explained
from dmmn_qp.training.examples import EpochDraws
from dmmn_qp.training.holding import held, held_interrupted, held_new
from dmmn_qp.training.launch import Launched, launched, processes_of
from dmmn_qp.training.options import TrainOptions
from dmmn_qp.training.reading import Batches
from dmmn_qp.training.state import STATE, TrainingState, load_state, save_state
from tests.conftest import REPOSITORY, fails, invoke, rectangle, two_tissues, write_features, write_tiff
from tests.test_training import KILLED, history_of, python, same_weights, weights_of

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

TINY = ["--width", 2, "--epochs", 1, "--steps-per-epoch", 2, "--batch-size", 2, "--precision", "fp32"]


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


def test_a_killed_reading_process_is_said_with_the_way_out(tmp_path):
    (tmp_path / STATE).touch()
    read = batches(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TrainingError) as met, explained(tmp_path):
        numbers(read)
    read.close()
    for part in ("a reading process was killed", "--workers 0", "--cache", "train --resume --out"):
        assert part in str(met.value)


def test_a_farewell_to_all_processes_ends_the_training_between_two_steps(train, here):
    """As of a cluster, which sends it to reading processes too."""
    command = [
        sys.executable,
        "-m",
        "dmmn_qp",
        *map(str, [*train, "--steps-per-epoch", 500, "--workers", 2, "--out", "m"]),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (here / "m" / "events").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.startswith("stopped in epoch 1") and errors.count("\n") == 1, errors
    assert load_state(here / "m").epoch == 1


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ["no space left", '"m"', "free some"]),
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


# One training in a folder


def test_a_running_training_is_not_an_interrupted_one(train, here):
    assert invoke(*train, "--epochs", 2, "--out", "models/other").exit_code == 0
    shutil.copytree(here / "models" / "other", here / "models" / "run")
    (here / "models" / "run" / STATE).touch()
    with locked(here / "models" / "run", "a training", "wait"):
        for command in (
            (*train, "--out", "models/run"),
            ("train", "--resume"),
            ("train", "--resume", "--out", "models/run"),
        ):
            assert re.search(rf'a training is running in ".*run" \(process {os.getpid()}, since .*\)', fails(*command))
        (here / "models" / "other" / STATE).write_bytes(b"older")
        os.utime(here / "models" / "other" / STATE, (1, 1))
        with held_interrupted(Path("models")) as folder:
            assert folder == Path("models/other")  # and not the newest, which is running
    with held_interrupted(Path("models")) as folder:
        assert folder == Path("models/run")


def test_names_are_claimed_one_by_one(here):
    with ExitStack() as stack:
        names = [stack.enter_context(held_new(Path("models"), "unet")).name for _ in range(3)]
        assert names == ["unet-1", "unet-2", "unet-3"]
    assert not (here / "models").exists()  # nothing came of them


def test_two_that_start_at_once_have_two_folders(here):
    """Every time, however they meet."""
    taken, start = [], threading.Barrier(4)

    def claim():
        start.wait()
        for _ in range(5):
            with held_new(Path("models"), "unet") as folder:
                folder.mkdir()
                taken.append(folder.name)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"unet-{n}" for n in range(1, 21))


def test_processes_of_one_training_share_what_the_first_holds(here, monkeypatch):
    with held(Path("m")):
        with pytest.raises(InUseError):
            held(Path("m")).__enter__()
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
        with held(Path("m")) as folder:
            assert folder == Path("m")


def test_a_machine_that_has_stopped_is_taken_over(train, here):
    note = {"doing": "a training", "pid": 7, "host": "node7", "since": "2026-01-01T00:00:00+00:00", "key": "k"}
    (here / ".m.holder.json").write_text(json.dumps(note))
    assert "process 7 on node7" in fails(*train, "--out", "m")
    assert not (here / "m").exists()
    assert invoke(*train, "--out", "m", "--take-over").exit_code == 0


@pytest.mark.parametrize("command", [("models", "shrink", "m"), ("train",)])
def test_nothing_replaces_a_folder_that_is_trained(train, here, workspace, command):
    shutil.copytree(workspace / "models" / "dmmn-m3-1", here / "m")
    with locked(here / "m", "a training", "wait"):
        whole = train if command == ("train",) else command
        assert "a training is running" in fails(*whole, "--out", "m", "--overwrite")
    assert is_whole(here / "m")


def test_what_a_killed_training_was_writing_goes(here):
    for name in ("m/.01234567.part.resume.pt", ".m.01234567.part/run.json", "m/.mine", ".m2.01234567.part/run.json"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    with held(Path("m")):
        pass
    left = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file() and path.suffix != ".lock")
    assert left == [".m2.01234567.part/run.json", "m/.mine"]


# Replacing a model


@pytest.fixture
def old(workspace, here):
    shutil.copytree(workspace / "models" / "dmmn-m3-1", here / "m")
    return workspace / "models" / "dmmn-m3-1"


@pytest.mark.parametrize(("name", "call"), [("save_state", 1), ("validate", 1), ("save_model", 1)])
def test_an_old_model_stays_until_there_is_a_new_one(old, train, here, name, call):
    """Killed before the new training's state is there, before its epoch is validated, and before that is saved."""
    words = [word for word in train if word != "train"]
    killed = python("-c", KILLED, name, call, "train", *words, "--out", "m", "--overwrite", check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert is_whole(here / "m") and load_card(here / "m") == load_card(old)
    assert same_weights(weights_of(here / "m"), weights_of(old))
    for path in (path for path in old.rglob("*") if path.is_file()):
        assert (here / "m" / path.relative_to(old)).read_bytes() == path.read_bytes()
    if name != "save_state":
        result = invoke("train", "--resume", "--out", "m")
        assert result.exit_code == 0, result.output
        assert load_card(here / "m").network.width == 2 and is_whole(here / "m")


def test_a_new_model_has_nothing_of_the_old_one_but_what_is_not_ours(old, train, here):
    (here / "m" / "notes.txt").touch()
    before = {path.name for path in (here / "m" / "events").iterdir()}
    assert invoke(*train, "--out", "m", "--overwrite").exit_code == 0
    assert len(history_of(here / "m")) == 1 and (here / "m" / "notes.txt").exists()
    assert not before & {path.name for path in (here / "m" / "events").iterdir()}
    run_id = json.loads((here / "m" / "run.json").read_text())["run_id"]
    assert run_id == load_card(here / "m").provenance["run_id"] != load_card(old).provenance["run_id"]


def test_a_training_from_a_model_goes_on_without_it(old, train, here):
    words = [word for word in train if word != "train"]
    base, card = here / "m", load_card(old)
    killed = python("-c", KILLED, "validate", 2, "train", *words, "--from", base, "--out", "tuned", check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    base.rename(here / "elsewhere")
    result = invoke("train", "--resume", "--out", "tuned")
    assert result.exit_code == 0, result.output
    started_from = load_card(here / "tuned").provenance["started_from"]
    assert (started_from["model"], started_from["weights_sha256"]) == (card.name, card.weights_sha256)
    assert load_card(here / "tuned").network == card.network


# A full disk


class FullDisk:
    """Lets the n-th of the operations by which files come to be fail, and all after it."""

    def __init__(self, patch, last):
        self.last, self.done = last, 0
        for owner, name in (
            (Path, "mkdir"),
            (Path, "write_text"),
            (Path, "write_bytes"),
            (Path, "replace"),
            (torch, "save"),
        ):
            patch.setattr(owner, name, self.limited(getattr(owner, name)))

    def limited(self, real):
        def call(*args, **kwargs):
            self.done += 1
            if self.done > self.last:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call


def test_a_full_disk_ends_a_training_in_one_line_and_it_goes_on(train, here, monkeypatch):
    """Filled again and again, each time a little later."""
    command, last, reached = [*train, "--epochs", 2, "--out", "m"], 0, set()
    while True:
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, last)
            result = invoke(*command)
        if result.exit_code == 0:
            break
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
        assert len(lines) == 1 and "no space left on the disk" in lines[0] and "m" in lines[0], result.stderr
        resumable = (here / "m" / STATE).is_file()
        assert ("train --resume --out m" if resumable else "start it again") in lines[0]
        assert not [path for path in here.rglob("*") if ".part" in path.name]
        if resumable:
            command = ["train", "--resume", "--out", "m"]
        reached.add(resumable)
        last += 3
    assert reached == {False, True} and disk.done and is_whole(here / "m") and len(history_of(here / "m")) == 2


class Limited(BytesIO):
    """A file on a disk with room for so many bytes."""

    def write(self, data):
        if self.tell() + len(data) > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_state_that_does_not_fit_is_an_error_of_the_disk(tmp_path, monkeypatch):
    """And not one of torch's writer, which stumbles over what it could not write."""
    state = TrainingState({}, {}, "d", "0", tensors={"a": torch.zeros(30_000), "b": torch.zeros(60_000)})
    monkeypatch.setattr(Path, "open", lambda *_: Limited())
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, state)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("command", [("shrink", "--out", "n"), ("export", "--format", "torchscript", "--out", "n.pt")])
def test_a_full_disk_leaves_no_part_of_a_model(old, here, monkeypatch, command):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", raising_full)
        patch.setattr(Path, "write_bytes", raising_full)
        line = fails("models", command[0], "m", *command[1:])
    assert "no space left on the disk to write" in line and '"n' in line
    assert [path.name for path in here.iterdir()] == ["m"]


def raising_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


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
