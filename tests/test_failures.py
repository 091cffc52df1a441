"""Errors of all kinds reach the user as one line: the thing, the rule, the way out; and nothing stops without need."""

import errno
import os
import subprocess
import sys

import pytest
import torch

from dmmn_qp import console
from dmmn_qp.cli.app import DEBUG_VARIABLE
from dmmn_qp.console import Reporter
from dmmn_qp.errors import SlideError
from dmmn_qp.files import new_file
from dmmn_qp.files.failures import is_full_disk, line_of
from tests.conftest import REPOSITORY, invoke


def from_cause(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "p/run.json")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SlideError("slide is\nbroken"), ["slide is broken"]),
        (MemoryError(), ["memory of this machine does not suffice", "--workers"]),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), ["does not suffice"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), ["the GPU", "--batch-size", "--device cpu"]),
        (RuntimeError("CUDA error: device-side assert triggered\nCompile"), ["the GPU fails", "--device cpu"]),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ["does not suffice"]),
        (OSError(errno.EMFILE, "Too many open files", "a.svs"), ["too many files are open", 'ulimit -n 4096"']),
        (FULL, ['"p/run.json" cannot be written, no space is left on the disk; free some space', "repeat the command"]),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "m"), ['"m" cannot be written, the quota is used up']),
        (OSError(errno.EFBIG, "File too large", "m"), ['"m" becomes larger', "ulimit -f"]),
        (RuntimeError("I/O error: No space left on device (os error 28)"), ["a file cannot be written, no space"]),
        (from_cause(RuntimeError("basic_ios::clear"), FULL), ['"p/run.json" cannot be written, no space is left']),
        (OSError(errno.EACCES, "Permission denied", "p"), ['"p": Permission denied; check its permissions']),
        (OSError(errno.EROFS, "Read-only file system", "p"), ["can only be read"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "p\x1b[2J\n"), ["p\\x1b[2J", "shorter name"]),
        (UnicodeEncodeError("latin-1", "µ\u2192", 1, 2, "ordinal"), ["cannot be written as latin-1", "PYTHONUTF8=1"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_lines(error, said, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = line_of(error)
    assert all(part in line for part in said), line
    assert line.isprintable() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [IndexError("tuple index"), RecursionError("x"), KeyError("a"), RuntimeError("odd")])
def test_what_nobody_foresaw_is_kept_to_be_reported(error, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        raise error
    except type(error) as raised:
        line = line_of(raised)
    (kept,) = tmp_path.iterdir()
    assert line.startswith(f"unexpected {type(error).__name__}") and str(kept) in line and "report it" in line
    assert "test_failures.py" in kept.read_text() and type(error).__name__ in kept.read_text()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert DEBUG_VARIABLE in line_of(error)


def test_a_full_disk_behind_an_error_that_hides_it(tmp_path):
    """Libraries raise what they like while they write; what was to be written is known to us alone."""
    with pytest.raises(OSError, match=r"a\.bin") as raised, new_file(tmp_path / "a.bin") as temporary:
        temporary.touch()
        raise RuntimeError("[enforce fail at inline_container.cc:603] . unexpected: No space left on device")
    assert raised.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    assert is_full_disk(raised.value) and not is_full_disk(SlideError("no space left on device.svs is no slide"))


def broken(monkeypatch, error):
    """A command that fails in an unusual way."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dmmn_qp.workflows.evaluating.evaluate_into", fail)
    return invoke("evaluate")


def test_the_command_line_says_it_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for error in (ValueError("odd\nthing"), MemoryError(), RecursionError()):
        result = broken(monkeypatch, error)
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ") and "Traceback" not in result.output
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert isinstance(broken(monkeypatch, ValueError("odd")).exception, ValueError)
    assert broken(monkeypatch, SlideError("s")).stderr == "error: s\n"


@pytest.mark.parametrize(
    ("message", "said"), [("", "repeat the command"), ("stopped; go on with --resume", "--resume")]
)
def test_stopped(monkeypatch, message, said):
    result = broken(monkeypatch, KeyboardInterrupt(*filter(None, [message])))
    assert result.exit_code == 130 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_stopped_prediction_says_how_to_go_on(workspace, here, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dmmn_qp.predicting.run.predict_strips", stop)
    model = next((workspace / "models").iterdir())
    result = invoke("predict", "--dataset", workspace / "dataset", "--model", model, "--device", "cpu")
    assert result.exit_code == 130
    assert result.stderr == "stopped; repeat the command to go on, what is finished is kept\n"


class Broken:
    """A stream of which nothing comes out."""

    encoding = "ascii"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    flush = isatty = lambda self: False

    def fileno(self):
        raise OSError


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.EIO, "gone"), FULL, ValueError("closed file")])
def test_what_cannot_be_printed_stops_no_work(monkeypatch, error):
    monkeypatch.setattr(console.sys, "stdout", Broken(error))
    monkeypatch.setattr(console.sys, "stderr", Broken(error))
    reporter = Reporter()
    reporter.say("a")
    reporter.warn("b")
    reporter.heading("c")
    reporter.table(["a"], [["b"]])
    with reporter.task("d", 3) as task:
        task.advance()


def test_any_locale_and_a_reader_that_ends(tmp_path):
    """In plain C, without UTF-8 of Python's own; and with a pipe that nobody reads any more."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    folder = tmp_path / "zu µm"
    words = [sys.executable, "-m", "dmmn_qp", "evaluate", "--predictions", str(folder)]
    result = subprocess.run(words, check=False, env=environment, cwd=tmp_path, capture_output=True)
    assert result.returncode == 1 and result.stderr.startswith(b"error: ") and b"Traceback" not in result.stderr
    reading, writing = os.pipe()
    os.close(reading)
    try:
        words = [sys.executable, "-m", "dmmn_qp", "--help"]
        result = subprocess.run(words, check=False, env=environment, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert result.stderr == b"" and result.returncode in (0, 1)
