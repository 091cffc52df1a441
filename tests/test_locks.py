"""One at a time, whoever is killed meanwhile, and on whichever machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dmmn_qp.errors import InUseError
from dmmn_qp.files import locks
from dmmn_qp.files.locks import briefly_locked, locked

HOLD = """
import sys, time
from pathlib import Path
from dmmn_qp.files.locks import locked
with locked(Path(sys.argv[1]), "a training", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""

COUNT = """
import sys
from pathlib import Path
from dmmn_qp.files.locks import briefly_locked
path = Path(sys.argv[1])
for _ in range(25):
    with briefly_locked(path):
        path.write_text(str(int(path.read_text()) + 1))
"""


def held_by_another(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def note_of(path):
    return path.with_name(f".{path.name}.holder.json")


def written_elsewhere(path, age_s):
    """What a machine called node7 would have noted, whose last sign of life is some seconds old."""
    holder = {"doing": "a training", "pid": 7, "host": "node7", "since": "2026-01-01T00:00:00+00:00", "key": "k"}
    note_of(path).write_text(json.dumps(holder))
    os.utime(note_of(path), (time.time() - age_s,) * 2)


def test_the_second_is_told_who_works_there_and_a_killed_one_holds_nothing(tmp_path):
    path = tmp_path / "run"
    process = held_by_another(path)
    with pytest.raises(
        InUseError, match=rf'a training is running in ".*run" \(process {process.pid} on .*, since .*; wait'
    ):
        locked(path, "a training", "wait").__enter__()
    process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    process.wait()
    assert note_of(path).is_file()  # as nobody could remove it
    with locked(path, "a training", "wait"):
        assert json.loads(note_of(path).read_text())["pid"] == os.getpid()
    assert not note_of(path).exists()
    with locked(path, "a training", "wait"):
        pass


@pytest.mark.parametrize(("age_s", "take_over", "is_free"), [(5, False, False), (700, False, True), (5, True, True)])
def test_a_holder_on_another_machine_counts_while_it_shows_signs_of_life(tmp_path, age_s, take_over, is_free):
    path = tmp_path / "run"
    written_elsewhere(path, age_s)
    if is_free:
        with locked(path, "a training", "wait", take_over=take_over):
            assert json.loads(note_of(path).read_text())["pid"] == os.getpid()
        return
    with pytest.raises(
        InUseError, match=r"process 7 on node7, since .*, last seen 5 s ago\); wait, or pass --take-over"
    ):
        locked(path, "a training", "wait", take_over=take_over).__enter__()
    assert json.loads(note_of(path).read_text())["host"] == "node7"


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_S", 0.05)
    path = tmp_path / "run"
    with locked(path, "a training", "wait"):
        os.utime(note_of(path), (1, 1))
        for _ in range(100):
            if note_of(path).stat().st_mtime > 1:
                break
            time.sleep(0.05)
        assert note_of(path).stat().st_mtime > 1


def test_a_disk_without_locks_goes_by_the_note(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError("not supported")

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    path = tmp_path / "run"
    with locked(path, "a training", "wait"), pytest.raises(InUseError, match="is running"):
        locked(path, "a training", "wait").__enter__()
    with briefly_locked(path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff" * 9000])
def test_a_damaged_note_is_nobodys_once_it_is_old(tmp_path, content):
    path = tmp_path / "run"
    note_of(path).write_bytes(content)
    with pytest.raises(InUseError, match="another process works on"):
        locked(path, "a training", "wait").__enter__()
    os.utime(note_of(path), (1, 1))
    with locked(path, "a training", "wait"):
        pass


def test_nothing_is_lost_where_four_count_at_once(tmp_path):
    path = tmp_path / "table"
    path.write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, path]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert path.read_text() == "100"


def test_a_command_without_take_over_names_no_such_option(tmp_path):
    path = tmp_path / "dataset"
    written_elsewhere(path, 5)
    with pytest.raises(InUseError) as caught:
        locked(path, "an import", "wait").__enter__()
    assert "--take-over" not in str(caught.value) and "ten minutes counts as stopped" in str(caught.value)
