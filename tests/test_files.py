"""Files and folders appear when they are complete, whatever kills or fills meanwhile, and nothing is left lying."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmmn_qp import files
from dmmn_qp.errors import OutputExistsError
from dmmn_qp.files import check_free, move, new_file, new_folder, remove_new_files, write_json
from tests.conftest import invoke

MAKE = """
import sys, time
from pathlib import Path
from dmmn_qp.files import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True, marker="marker") as folder:
    (folder / "marker").write_text("new")
    print("making", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def making(tmp_path):
    """A process that makes a folder and does not come to an end."""
    process = subprocess.Popen([sys.executable, "-c", MAKE, tmp_path / "made"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "making\n"
    yield process
    process.kill()
    process.wait()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_command_left_is_removed_and_what_a_running_one_makes_stays(tmp_path, making):
    check_free(tmp_path / "made", overwrite=False, marker="marker")
    (part,) = [name for name in names(tmp_path) if name.endswith(".part")]
    assert (tmp_path / part / "marker").is_file()
    making.send_signal(signal.SIGKILL)
    making.wait()
    (tmp_path / ".made.part").mkdir()  # none of ours
    check_free(tmp_path / "made", overwrite=False, marker="marker")
    assert [name for name in names(tmp_path) if name.endswith(".part")] == [".made.part"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_folder_that_was_to_be_replaced_comes_back(tmp_path, is_there):
    """Killed between the two renames, or before the old one was removed."""
    old, made = tmp_path / ".made.0123abcd.old", tmp_path / "made"
    old.mkdir()
    (old / "marker").write_text("old")
    if is_there:
        made.mkdir()
        (made / "marker").write_text("new")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_free(made, overwrite=False, marker="marker")
    assert (made / "marker").read_text() == ("new" if is_there else "old") and names(tmp_path) == ["made"]


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
    made = tmp_path / "made"
    for text in ("one", "two"):
        with new_folder(made, overwrite=True, marker="marker") as folder:
            (folder / "below").mkdir()
            (folder / "below/file").write_text(text)
            (folder / "marker").touch()
            assert not made.exists() or (made / "below/file").read_text() == "one"
    assert (made / "below/file").read_text() == "two" and names(tmp_path) == ["made"]


@pytest.fixture
def calls(monkeypatch):
    """What was made sure of on the disk, and what was renamed, in turn."""
    done = []
    sync, replace, rename = os.fsync, files.Path.replace, files.Path.rename

    def note_sync(descriptor):
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def note(name, plain):
        def renamed(self, target):
            done.append((name, self.name, target.name))
            return plain(self, target)

        return renamed

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(files.Path, "replace", note("rename", replace))
    monkeypatch.setattr(files.Path, "rename", note("rename", rename))
    return done


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are Linux's")
def test_what_is_renamed_is_on_the_disk_before(tmp_path, calls):
    with new_file(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    (first, then, last) = calls
    assert first == ("sync", temporary.name) and then == ("rename", temporary.name, "a.json")
    assert last == ("sync", tmp_path.name)
    calls.clear()
    move(tmp_path / "a.json", tmp_path / "b.json")
    assert calls == [("sync", "a.json"), ("rename", "a.json", "b.json"), ("sync", tmp_path.name)]
    calls.clear()
    with new_folder(tmp_path / "made", overwrite=False, marker="m") as folder:
        (folder / "below").mkdir()
        (folder / "below/m").write_text("")
    renamed = calls.index(("rename", folder.name, "made"))
    assert {("sync", "m"), ("sync", "below"), ("sync", folder.name)} <= set(calls[:renamed])
    assert calls[renamed + 1 :] == [("sync", tmp_path.name)]


@pytest.mark.parametrize(("number", "is_error"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EINVAL, False)])
def test_a_disk_that_fails_late_leaves_what_was_there(tmp_path, monkeypatch, number, is_error):
    """Disks of a network say only now that they are full; some have no such call at all."""
    write_json(tmp_path / "run.json", {"a": 1})
    before = (tmp_path / "run.json").read_text()

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if is_error:
        with pytest.raises(OSError, match=r"run\.json"):
            write_json(tmp_path / "run.json", {"a": 2})
    else:
        write_json(tmp_path / "run.json", {"a": 2})
    assert ((tmp_path / "run.json").read_text() == before) == is_error
    assert names(tmp_path) == ["run.json"]


def test_files_that_a_killed_command_left(tmp_path):
    for name in (".0123abcd.part.run.json", ".89abcdef.part.areas.csv", ".mine.part.txt", "0123abcd.part.run.json"):
        (tmp_path / name).touch()
        if "89" not in name:
            os.utime(tmp_path / name, (1, 1))
    remove_new_files(tmp_path)
    assert names(tmp_path) == [".89abcdef.part.areas.csv", ".mine.part.txt", "0123abcd.part.run.json"]
    remove_new_files(tmp_path / "missing")


def test_evaluate_is_not_in_its_own_way(workspace, tmp_path):
    """Its folder holds what it wrote before, or what a killed one left, or the figures of ``--json``."""
    common = ("evaluate", "--predictions", workspace / "predictions", "--dataset", workspace / "dataset")
    out = tmp_path / "figures"
    out.mkdir()
    (out / ".0123abcd.part.evaluation.json").touch()
    assert invoke(*common, "--json", out / "of-test.json", "--split", "train").exit_code == 0
    result = invoke(*common, "--json", out / "of-test.json", "--out", out, "--split", "train")
    assert result.exit_code == 0, result.output
    result = invoke(*common, "--out", out, "--split", "train")
    assert result.exit_code == 1 and "--overwrite" in result.stderr
    assert invoke(*common, "--out", out, "--split", "train", "--overwrite").exit_code == 0
    assert "is a file" in invoke(*common, "--out", out / "of-test.json", "--split", "train").stderr
