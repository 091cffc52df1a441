"""A model's folder belongs to one training, which keeps what was there until it has better, on a full disk too."""

import errno
import json
import os
import re
import shutil
import signal
import threading
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dmmn_qp.errors import InUseError
from dmmn_qp.files.locks import locked
from dmmn_qp.folders.model import is_whole, load_card
from dmmn_qp.training.holding import held, held_interrupted, held_new
from dmmn_qp.training.output import replace_files
from dmmn_qp.training.state import STATE, TrainingState, save_state
from tests.conftest import fails, invoke, tiny_training
from tests.test_training import KILLED, history_of, python, same_weights, weights_of

TINY = tiny_training(epochs=1, steps=2)


@pytest.fixture
def train(workspace, here):
    return ["train", "--dataset", workspace / "dataset", *TINY]


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
            assert re.search(
                rf'a training is running in ".*run" \(process {os.getpid()} on .*, since .*\)', fails(*command)
            )
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
        for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "9")):
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


@pytest.mark.engine
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
    ours = {here / "m" / "notes.txt", here / "m" / "events" / "notes.txt"}
    for path in ours:
        path.touch()
    before = {*(here / "m" / "events").iterdir()} - ours
    assert invoke(*train, "--tensorboard", "--out", "m", "--overwrite").exit_code == 0
    assert len(history_of(here / "m")) == 1 and all(path.exists() for path in ours)
    now = {*(here / "m" / "events").iterdir()} - ours
    assert len(before) == len(now) == 1 and before != now
    run_id = json.loads((here / "m" / "run.json").read_text())["run_id"]
    assert run_id == load_card(here / "m").provenance["run_id"] != load_card(old).provenance["run_id"]


def test_a_new_model_without_events_has_no_folder_for_them(old, train, here):
    assert invoke(*train, "--out", "m", "--overwrite").exit_code == 0
    assert not (here / "m" / "events").exists()


@pytest.mark.parametrize(
    "name", ["../x", "events/../../x", "events/events.out.tfevents./../../../x", "x", "model.json", 1]
)
def test_a_state_from_elsewhere_has_no_other_file_removed(here, name):
    """Whoever sends an interrupted training may write what they like in it."""
    (here / "m" / "events").mkdir(parents=True)
    there = {here / "x", here / "m" / "x", here / "m" / "model.json", here / "m" / "events" / "x"}
    for path in there:
        path.touch()
    state = SimpleNamespace(replaced=[str(here / "x"), name, "history.csv"], run={})
    replace_files(here / "m", state)
    assert all(path.exists() for path in there) and state.replaced == []


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


@pytest.mark.engine
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
        assert len(lines) == 1 and "no space is left on the disk" in lines[0] and "m" in lines[0], result.stderr
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
    assert "no space is left on the disk to write" in line and '"n' in line
    assert [path.name for path in here.iterdir()] == ["m"]


def raising_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
