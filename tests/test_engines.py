"""Every engine keeps the contract; the one of processes survives what happens to processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from dmmn_qp.engines import ENGINES, Done, Failed, processes, run
from dmmn_qp.errors import WorkerLostError
from dmmn_qp.files.failures import full_disk
from tests.conftest import REPOSITORY
from tests.engine_tasks import work

OF_MACHINES = ("ray",)
many = pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.engine if name in OF_MACHINES else ()) for name in ENGINES]
)
posix = pytest.mark.skipif(os.name != "posix", reason="this system has no such signals")


@pytest.fixture(autouse=True)
def machines(request):
    """Those of a cluster, for engines that need one."""
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("engine") in OF_MACHINES:
        request.getfixturevalue("ray_here")


def outcomes(engine, tasks, workers=2, function=work):
    return list(ENGINES[engine](function, tasks, workers, lambda *_: None))


def shown(found):
    return [one.result if isinstance(one, Done) else f"{type(one.error).__name__}: {one.error}" for one in found]


@many
@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_outcomes_come_in_the_order_of_the_tasks(engine, n):
    tasks = [("slow", 0.2), *(("square", i) for i in range(1, n))][:n]
    assert shown(outcomes(engine, tasks)) == [0.2, 1, 4, 9, 16][:n]


@many
def test_one_failure_is_no_others(engine):
    found = outcomes(engine, [("square", 2), "wrong", ("square", 3), "odd", ("square", 4)])
    assert shown(found)[:3] == [4, "ValueError: no number", 9] and shown(found)[4] == 16
    assert "1 and 2" in str(found[3].error)


@many
def test_what_an_error_was_raised_for_is_known(engine):
    (found,) = outcomes(engine, ["full"])
    assert full_disk(found.error) == (28, "/disk/file")


@many
def test_progress_is_told_from_the_thread_that_iterates(engine):
    told, threads = {}, set()

    def progressed(number, amount):
        told[number] = told.get(number, 0) + amount
        threads.add(threading.current_thread())

    tasks = [("steps", 1000), ("square", 1), ("steps", 7)]
    assert shown(ENGINES[engine](work, tasks, 2, progressed)) == [1000, 1, 7]
    assert {number: amount for number, amount in told.items() if amount} == {0: 1000, 2: 7}
    assert threads == {threading.current_thread()}


@many
def test_nothing_begins_before_the_first_outcome_is_wanted(engine, monkeypatch):
    monkeypatch.setattr(processes, "_start", lambda: pytest.fail("begun"))
    ENGINES[engine](lambda *_: pytest.fail("begun"), ["square"], 2, lambda *_: None)


@many
def test_functions_may_be_given_more(engine):
    assert shown(outcomes(engine, [1, 2], function=partial(pow_of, base=3))) == [3, 9]


def pow_of(task, advance, *, base):
    del advance
    return base**task


def test_few_tasks_and_few_workers_need_no_process():
    here = os.getpid()
    for tasks, workers in ((["process"], 8), (["process"] * 3, 1), (["process"] * 3, 0)):
        assert shown(run(work, tasks, workers)) == [here] * len(tasks)
    found = set(shown(run(work, [("slow", 0.2), ("slow", 0.2), "process", "process"], 9)))
    assert here not in found


def test_several_tasks_run_at_once():
    """Six tasks that wait 0.3 s each take 1.8 s one after the other."""
    found = ENGINES["processes"](work, ["process", *[("slow", 0.3)] * 6], 6, lambda *_: None)
    next(found)
    start = time.monotonic()
    assert shown(found) == [0.3] * 6
    assert time.monotonic() - start < 1.6


def test_what_is_printed_is_no_answer(capfd):
    assert shown(outcomes("processes", ["print", ("square", 3), "print"])) == ["printed", 9, "printed"]
    out, error = capfd.readouterr()
    assert out == "" and error.count("noise") == 4


def test_what_cannot_be_sent_is_a_failure():
    there, back, other = outcomes("processes", [("square", lambda: None), "function", ("square", 5)])
    assert isinstance(there, Failed) and isinstance(back, Failed) and other == Done(25)


@posix
def test_a_lost_process_costs_its_task():
    found = outcomes("processes", [("square", 1), "killed", ("square", 2), "left", "killed", *[("square", 3)] * 4])
    for number, how in ((1, "SIGKILL"), (3, "exit code 3"), (4, "SIGKILL")):
        assert isinstance(found[number].error, WorkerLostError)
        assert how in str(found[number].error) and "--workers" in str(found[number].error)
    assert [one.result for one in found if isinstance(one, Done)] == [1, 4, 9, 9, 9, 9]


@pytest.mark.parametrize("serve", ["raise SystemExit", "import nothing_of_that_name", "print('hello')"])
def test_where_no_process_begins_the_work_is_done_here(monkeypatch, capfd, serve):
    monkeypatch.setattr(processes, "SERVE", serve)
    assert shown(outcomes("processes", [("square", 2), "wrong", "process"])) == [
        4,
        "ValueError: no number",
        os.getpid(),
    ]
    capfd.readouterr()


def test_where_the_system_begins_no_process_the_work_is_done_here(monkeypatch):
    def refuse():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "_start", refuse)
    assert shown(outcomes("processes", [("square", 2), "process"])) == [4, os.getpid()]


def waited_for(folder, n):
    """The processes that have said who they are."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(found := [int(path.name) for path in folder.iterdir()]) == n:
            return found
        time.sleep(0.02)
    raise AssertionError("they did not begin")


def assert_gone(pids):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(is_there(pid) for pid in pids):
            return
        time.sleep(0.02)
    raise AssertionError("they run on")


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


@posix
def test_closing_the_iterator_ends_all(tmp_path):
    found = ENGINES["processes"](work, [("square", 2), *[("endless", str(tmp_path))] * 3], 2, lambda *_: None)
    assert next(found) == Done(4)
    pids = waited_for(tmp_path, 2)
    found.close()
    assert_gone(pids)


WAITING = """
import sys
from dmmn_qp.engines import run
from tests.engine_tasks import work
for outcome in run(work, [("endless", sys.argv[1])] * 3, 2):
    print(outcome)
"""


@posix
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_the_one_that_began_it(tmp_path, how):
    """A script without any guard, and without a function of its own to end them."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", WAITING, tmp_path]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        pids = waited_for(tmp_path, 2)
        process.send_signal(getattr(signal, how))
        _, error = process.communicate(timeout=120)
    assert_gone(pids)
    assert error.count("Traceback") == (how == "SIGINT")  # of that process alone
