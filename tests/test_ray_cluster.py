"""Predicting on a real cluster of Ray, whose machines, workers and driver are ended in the middle of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import invoke, write_tiff
from tests.ray_clusters import ENVIRONMENT, OBJECTS
from tests.test_prediction_resume import make_model, texture
from tests.test_shards import assert_same

pytestmark = [pytest.mark.engine, pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")]

NAMES = "abcdef"
COMMAND = ("predict", "slides", "--model", "m", "--precision", "fp32", "--device", "cpu", "--threads", "1")
"""Sums of another number of threads differ in their last digits, and so do a few labels."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Six slides of about two seconds each, and one that nobody can read; and what one process makes of them."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "slides").mkdir()
    make_model(folder / "m")
    for seed, name in enumerate(NAMES):
        write_tiff(folder / f"slides/{name}.tif", texture(700 + 20 * seed, 400, seed))
    (folder / "slides/bad.tif").write_bytes(b"II*\0 no slide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        whole = invoke(*COMMAND, "--out", "whole")
        assert whole.exit_code == 1, whole.output
        yield folder, whole


@contextmanager
def driver(place, out, *options, address=None, group=False):
    """The command as a process of its own."""
    folder, _ = place
    where = [] if address is None else ["--address", address, "--ray-memory-gb", "0"]
    command = [*COMMAND, "--out", out, "--engine", "ray", *where, *options]
    with subprocess.Popen(
        [sys.executable, "-m", "dmmn_qp", *map(str, command)],
        cwd=folder, env=os.environ | ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=group,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def ended(process):
    said, warned = process.communicate(timeout=120)
    return process.returncode, said, warned


def holder(out, name):
    """The process that predicts a slide; None for none."""
    try:
        return int(json.loads((out / f".{name}.holder.json").read_bytes())["pid"])
    except (OSError, ValueError):
        return None


def at_work(out, names):
    """The processes that predict slides."""
    return {pid for name in names if (pid := holder(out, name)) is not None and is_there(pid)}


def someone_at_work(out, names=NAMES, n=1):
    """Waits until so many slides are worked on; name -> process."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = {name: pid for name in names if (pid := holder(out, name)) is not None}
        if len(found) >= n:
            return found
        time.sleep(0.005)
    raise AssertionError("nobody began")


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids):
    until = time.monotonic() + 60
    while any(map(is_there, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(is_there, pids))


def killed(pid):
    os.kill(pid, signal.SIGKILL)
    return pid


def test_many_machines_make_what_one_process_makes(place, ray_cluster):
    """A slide that cannot be read included; and what is finished is left as it is."""
    folder, whole = place
    with driver(place, "plain", address=ray_cluster.address) as process:
        seen = someone_at_work(folder / "plain", n=2)
        code, said, warned = ended(process)
    assert code == 1 and len(set(seen.values())) == 2
    assert_same(folder / "whole", folder / "plain")
    assert "Predicting 6 slides with m by Ray on cpu, fp32, context" in said
    assert [len(re.findall(rf"^  {name}: \d+ x \d+ px", said, re.MULTILINE)) for name in NAMES] == [1] * 6
    lines = [line for line in whole.stderr.splitlines() if line]
    assert warned.splitlines() == lines and lines[-1].startswith("error: 1 of 7 slides could not be predicted: bad: ")
    again = invoke(*COMMAND, "--out", "plain")
    assert again.output.count("left as they are") == 1


def test_lost_workers_and_machines_cost_nothing_but_time(place, ray_cluster):
    """A worker is killed, then a whole machine; one slide ends every worker that takes it."""
    folder, _ = place
    out = folder / "lost"
    ray_cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
    machines = {node.all_processes["raylet"][0].process.pid: node for node in ray_cluster.worker_nodes}
    ended_by_c = []

    def poison():
        while not stop.wait(0.002):
            if (pid := holder(out, "c")) is not None and pid not in ended_by_c and is_there(pid):
                ended_by_c.append(killed(pid))

    stop = threading.Event()
    killer = threading.Thread(target=poison)
    killer.start()
    try:
        with driver(place, "lost", address=ray_cluster.address) as process:
            first = killed(next(iter(someone_at_work(out, "fedba").values())))
            wait_for(lambda: at_work(out, "fedba") - {first})
            raylet = parent(next(iter(at_work(out, "fedba") - {first})))
            ray_cluster.remove_node(machines[raylet], allow_graceful=False)
            code, said, warned = ended(process)
    finally:
        stop.set()
        killer.join()
    assert code == 1 and len(ended_by_c) == 3
    assert "2 of 7 slides could not be predicted: " in warned and "c: the process that worked on it was ended" in warned
    assert "raylet" not in warned and "Traceback" not in warned
    assert said.count("was lost (") >= 4 and gone(ended_by_c)
    run = json.loads((out / "run.json").read_text())
    assert run["slides"] == [*"abdef"] and sorted(run["failed"]) == ["bad", "c"]
    again = invoke(*COMMAND, "--out", "lost")  # by one process: whatever began it, anything can go on with it
    assert again.exit_code == 1 and "Predicting 1 slide with m on cpu" in again.output
    assert_same(folder / "whole", out, skipped=True)


def parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_the_driver_is_stopped_and_killed_and_begun_again(place, ray_cluster):
    """Ctrl-C ends it in order; what it, and one that was killed, have finished is not done again."""
    folder, _ = place
    out = folder / "again"
    with driver(place, "again", address=ray_cluster.address, group=True) as process:
        workers = someone_at_work(out, n=2)
        os.killpg(process.pid, signal.SIGINT)
        code, _, warned = ended(process)
    assert code == 130 and "stopped; repeat the command to go on, what is finished is kept" in warned
    assert "Traceback" not in warned and gone(workers.values())
    with driver(place, "again", address=ray_cluster.address) as process:
        workers = someone_at_work(out, n=2)
        wait_for(lambda: len(list(out.glob("*.geojson"))) >= 2)
        process.kill()
    assert gone(workers.values())
    finished = {path.stem: path.stat().st_mtime_ns for path in out.glob("*.geojson")}
    with driver(place, "again", address=ray_cluster.address) as process:
        code, _, warned = ended(process)
    assert code == 1 and "1 of 7 slides could not be predicted: bad: " in warned and "left to" not in warned
    assert_same(folder / "whole", out, skipped=True)
    assert {name: (out / f"{name}.geojson").stat().st_mtime_ns for name in finished} == finished


def wait_for(reached):
    until = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_cluster_of_its_own_is_heard_on_this_machine_alone(place):
    """It is ended by Ctrl-C on the whole group of processes, as a terminal does it, and when its driver is killed."""
    folder, _ = place
    out = folder / "own"
    with driver(place, "own", "--ray-workers", "2", "--ray-cpus", "1", group=True) as process:
        wait_for(lambda: len(list(out.glob("*.geojson"))) >= 1)
        processes = of_session(process.pid)
        heard = listening(processes)
        assert len(processes) > 3 and heard and all(address in ("127.0.0.1", "::1") for address in heard), heard
        os.killpg(process.pid, signal.SIGINT)
        code, _, warned = ended(process)
    assert code == 130 and "Traceback" not in warned and gone(processes)
    assert not [path for path in Path("/tmp").glob("dmmn-qp-ray-*") if path.stat().st_mtime > time.time() - 60]
    with driver(place, "own", "--ray-workers", "1", "--ray-cpus", "1", group=True) as process:
        someone_at_work(out)
        processes = of_session(process.pid)
        process.kill()
    assert gone(processes)


def of_session(pid):
    """A process and all that come from it."""
    parents = {int(path.name): parent(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = {pid}
    while more := {child for child, its in parents.items() if its in found} - found:
        found |= more
    return found


def listening(pids):
    """Addresses on which processes listen for TCP, and all of UDP."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*") if is_there(pid) else ():
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
            except OSError:
                continue
    found = []
    for table, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, place, _, its_state, *rest = line.split()
            if its_state == state and rest[5] in inodes:
                found.append(shown(place.partition(":")[0]))
    return found


def shown(text):
    """The kernel's hexadecimal address, as people write it."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    address = b"".join(words)
    if len(address) == 4 or address[:12] == b"\0" * 10 + b"\xff\xff":
        return ".".join(map(str, address[-4:]))
    return "::1" if address == b"\0" * 15 + b"\1" else address.hex()


def test_a_cluster_that_is_not_there_is_one_line(place):
    with driver(place, "none", address="127.0.0.1:9") as process:
        code, _, warned = ended(process)
    assert code == 1 and 'error: Ray cluster "127.0.0.1:9" cannot be used (' in warned and "Traceback" not in warned
