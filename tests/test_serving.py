"""`dmmn-qp serve`: what it answers, what it refuses, and how it ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
import time
import tracemalloc
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from dmmn_qp.errors import ConfigError, InUseError, SlideError
from dmmn_qp.serving import server
from dmmn_qp.serving.actions import Actions, Place
from dmmn_qp.serving.jobs import MOST_WAITING, Job, Jobs
from dmmn_qp.serving.lines import LineTooLong, LineWriter, parse_object, read_lines
from dmmn_qp.serving.reporter import LineReporter
from dmmn_qp.serving.requests import KINDS, OfSlide, Predict, readable_id, request_of
from dmmn_qp.serving.slides import ProjectSlides
from dmmn_qp.training.stopping import StopRequest
from dmmn_qp.workflows import round as round_
from tests.conftest import DEMO, REPOSITORY, moved_demo
from tests.serving import Served

MODEL = REPOSITORY / "models" / "demo"
SLIDE = str(DEMO / "slides" / "val-1.tif")
SLOW = """
import time
from dmmn_qp.serving import actions
class Slow(actions.Actions):
    def load(self, request, reporter):
        print("a library talks")
        with reporter.task("slowly", 1000) as task:
            for _ in range(1000):
                task.advance()
                time.sleep(0.02)
        return {}
from dmmn_qp.serving import server
server.Actions = Slow
"""
"""Has the process take twenty seconds for what loads a model."""


# ---- lines


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_lines_are_bounded_and_what_follows_a_long_one_is_read(size):
    class Pieces(io.RawIOBase):
        text = io.BytesIO(b"a\n" + b"x" * 11 + b"\n" + b"y" * 10 + b"\n\nlost")

        def read(self, most=-1):
            return self.text.read(size)

    found = ["too long" if isinstance(line, LineTooLong) else line for line in read_lines(Pieces(), limit=10)]
    assert found == [b"a", "too long", b"y" * 10, b""]


def test_a_line_without_end_takes_no_memory():
    pieces = iter([b"x" * 2**16] * 64)

    class Endless:
        def read(self, most):
            return next(pieces, b"")

    tracemalloc.start()
    assert list(read_lines(Endless(), limit=2**17)) == []  # type: ignore[arg-type]
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"hello", "no JSON"),
        (b"", "no JSON"),
        (b"[1]", "no object"),
        (b"3", "no object"),
        (b'{"id": NaN}', "NaN is no number"),
        (b'{"id": 1e999}', "too large"),
        (b'{"id": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": ' + b"[" * 100_000, "nested too deep"),
        (b'{"id": "\xff"}', "not UTF-8"),
    ],
)
def test_what_is_no_object_of_json_is_refused_in_one_line(line, said):
    with pytest.raises(ConfigError, match=said) as error:
        parse_object(line)
    assert len(str(error.value)) < 200


def test_a_closed_pipe_is_told_once_and_stops_nothing():
    class Closed(io.RawIOBase):
        def write(self, data):
            raise BrokenPipeError

    told = []
    writer = LineWriter(Closed(), lambda: told.append(1))  # type: ignore[arg-type]
    writer.send({"a": 1})
    writer.send({"a": 1})
    assert told == [1]


# ---- requests

PREDICT = {"id": 1, "op": "predict", "slide": "a.svs"}


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"id": 1}, '"op" is None'),
        ({"id": 1, "op": "format"}, "it is one of hello, jobs"),
        ({"id": 1, "op": ["predict"]}, '"op" is'),
        ({"op": "hello"}, "id"),
        ({"id": "", "op": "hello"}, "id"),
        ({"id": "x" * 65, "op": "hello"}, "id"),
        ({"id": True, "op": "hello"}, "id"),
        ({"id": {"a": 1}, "op": "hello"}, "id"),
        ({"id": 1, "op": "hello", "path": "/etc"}, "path"),
        ({"id": 1, "op": "predict"}, "name the image or the slide"),
        ({**PREDICT, "out": "../.."}, "out"),
        ({**PREDICT, "region": [0, 0, 10]}, "region"),
        ({**PREDICT, "region": [0, 0, 0, 10]}, "above 0"),
        ({**PREDICT, "region": [0.5, 0, 10, 10]}, "region"),
        ({**PREDICT, "region": [0, 0, 10**12, 10]}, "region"),
        ({**PREDICT, "region": [0, 0, 10, 10], "areas": [{}]}, "no areas besides"),
        ({**PREDICT, "areas": []}, "areas"),
        ({**PREDICT, "mpp": -1}, "mpp"),
        ({**PREDICT, "width": "100"}, "width"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(request_, said):
    with pytest.raises(ConfigError, match=said) as error:
        request_of(request_)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_only_ids_that_can_be_answered_are_repeated():
    told = {"a": "a", 3: 3, -1: -1, True: None, 2.5: None, "x" * 65: None, 10**30: None}
    assert [readable_id({"id": given}) for given in told] == [*told.values()]
    assert readable_id({}) is None


def test_every_request_has_an_answer():
    instant = {"hello", "jobs", "cancel", "shutdown"}
    made = server.Server(Place(DEMO / "project.qpproj", DEMO), io.BytesIO(), io.BytesIO())
    assert {*made._actions} | instant == {*KINDS}


# ---- slides and models


def test_only_slides_of_the_project_are_found_in_its_frame(tmp_path):
    slides = ProjectSlides(DEMO / "project.qpproj", (), tmp_path)
    by_uri = slides.find(OfSlide(id=1, op="x", slide=Path(SLIDE).as_uri(), mpp=0.25))
    by_detour = slides.find(OfSlide(id=1, op="x", slide=str(DEMO / "data" / ".." / "slides" / "val-1.tif")))
    assert by_uri.path.samefile(SLIDE) and by_detour.path == by_uri.path
    assert by_uri.view.mpp.listed == 0.25
    for other in ("/etc/passwd", "val-1.tif", str(DEMO / "slides" / ".." / "README.txt"), "\0", "\ud800", "//host/x"):
        with pytest.raises(SlideError, match="is not in project"):
            slides.find(OfSlide.model_construct(id=1, op="x", slide=other))
    with pytest.raises(SlideError, match="QuPath shows 99 x 80 px"):
        slides.find(OfSlide(id=1, op="x", slide=SLIDE, width=99, height=80))


def test_images_of_one_file_are_told_apart_and_a_saved_project_is_read_again(tmp_path):
    project = moved_demo(tmp_path)
    shutil.copytree(DEMO / "slides", tmp_path / "slides")
    slides = ProjectSlides(project, (), tmp_path / "dataset")
    slide = str(tmp_path / "slides" / "val-1.tif")
    known = json.loads(project.read_text())
    shown = next(image for image in known["images"] if "val-1" in image["imageName"])
    assert slides.find(OfSlide(id=1, op="x", slide=slide)).path.samefile(slide)
    known["images"].append({**shown, "entryID": 77, "imageName": "a copy"})
    project.write_text(json.dumps(known))
    with pytest.raises(SlideError, match="shown by 2 images"):
        slides.find(OfSlide(id=1, op="x", slide=slide))
    assert slides.find(OfSlide(id=1, op="x", slide=slide, image="77")).path.samefile(slide)
    with pytest.raises(SlideError, match="is not in project"):
        slides.find(OfSlide(id=1, op="x", slide=slide, image="78"))


@pytest.mark.parametrize("name", ["../models/demo", "demo/", ".", "..", "demo/../demo", "none"])
def test_models_are_named_and_no_paths(tmp_path, name):
    shutil.copytree(MODEL, tmp_path / "models" / "demo")
    actions = Actions(Place(DEMO / "project.qpproj", tmp_path))
    request = request_of({"id": 1, "op": "load", "model": name})
    with pytest.raises(ConfigError, match="which holds demo"):
        actions.load(request, LineReporter(lambda *event, **content: None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("accepted", "used"), [(True, "new"), (False, "given"), (None, "given")])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_round_that_made_a_better_model_has_it_used(tmp_path, monkeypatch, accepted, used, stopped):
    def run_round(asked, reporter):
        if accepted is not None:
            card = {**json.loads((MODEL / "model.json").read_text()), "name": "new", "accepted": accepted}
            shutil.copytree(MODEL, tmp_path / "models" / "new")
            (tmp_path / "models" / "new" / "model.json").write_text(json.dumps(card))
        if stopped:  # in its predictions
            raise KeyboardInterrupt
        return ["train"]

    monkeypatch.setattr(round_, "run_round", run_round)
    actions = Actions(Place(DEMO / "project.qpproj", tmp_path, model=tmp_path / "given"))
    request = request_of({"id": 1, "op": "load"})
    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        actions.round(request, LineReporter(lambda *event, **content: None))
    assert actions.model_of(request).name == used  # type: ignore[arg-type]


# ---- jobs


def running(jobs: Jobs, feed) -> list:
    """Runs jobs in this thread while another one feeds them; gives what was told."""
    told, errors = [], []

    def feeding():
        try:
            feed(told)
        except BaseException as error:
            errors.append(error)
        jobs.end()

    feeder = threading.Thread(target=feeding)
    feeder.start()
    jobs.run()
    feeder.join()
    if errors:
        raise errors[0]
    return told


def job(name, work, told):
    return Job(name, "load", work, lambda event, **content: told.append((name, event)))


def wait_for(told, *reply):
    for _ in range(12_000):
        if tuple(reply) in told:
            return
        time.sleep(0.005)
    raise AssertionError(f"{reply} not in {told}")


def endless(begun=None):
    if begun is not None:
        begun.set()
    while True:
        time.sleep(0.01)


def test_jobs_run_in_order_and_an_error_stops_none():
    def fails():
        raise ConfigError("no")

    def feed(told):
        for name, work in (("a", dict), ("b", fails), ("c", dict)):
            jobs.submit(job(name, work, told))
        wait_for(told, "c", "done")

    jobs = Jobs()
    ends = [reply for reply in running(jobs, feed) if reply[1] != "accepted"]
    assert ends == [("a", "done"), ("b", "failed"), ("c", "done")]


def test_a_running_and_a_waiting_job_are_cancelled_and_the_next_one_runs():
    def feed(told):
        jobs.submit(job("a", endless, told))
        jobs.submit(job("b", endless, told))
        jobs.submit(job("c", dict, told))
        time.sleep(0.05)
        jobs.cancel("b")
        jobs.cancel("a")
        wait_for(told, "c", "done")
        with pytest.raises(ConfigError, match="no job"):
            jobs.cancel("a")

    jobs = Jobs()
    told = running(jobs, feed)
    assert [reply for reply in told if reply[1] != "accepted"] == [
        ("b", "cancelled"),
        ("a", "cancelled"),
        ("c", "done"),
    ]


def test_the_queue_is_bounded_and_an_id_is_one_jobs():
    def feed(told):
        begun = threading.Event()
        jobs.submit(job("a", partial(endless, begun), told))
        assert begun.wait(60)
        for n in range(MOST_WAITING):
            jobs.submit(job(n, dict, told))
        with pytest.raises(InUseError, match="wait already"):
            jobs.submit(job("one more", dict, told))
        jobs.cancel(0)
        with pytest.raises(ConfigError, match="take another"):
            jobs.submit(job("a", dict, told))

    jobs = Jobs()
    told = running(jobs, feed)
    assert told[-1] == ("a", "cancelled")
    assert (1, "done") not in told  # what waits at the end is forgotten


def test_a_job_that_is_stopped_twice_ends_no_other():
    def feed(told):
        def stubborn():
            try:
                endless()
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)  # the second signal, after which nobody asked any more

        jobs.submit(job("a", stubborn, told))
        jobs.submit(job("b", dict, told))
        time.sleep(0.05)
        jobs.cancel("a")
        wait_for(told, "b", "done")

    jobs = Jobs()
    assert [reply for reply in running(jobs, feed) if reply[1] != "accepted"] == [("a", "cancelled"), ("b", "done")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("knows_signals", [False, True])
def test_a_signal_from_elsewhere_ends_everything(number, knows_signals):
    def work():
        if knows_signals:  # as a training does
            with StopRequest() as stop:
                signal.raise_signal(number)
            assert stop.requested
            raise KeyboardInterrupt("stopped after a step")
        signal.raise_signal(number)

    def feed(told):
        jobs.submit(job("a", work, told))
        jobs.submit(job("b", dict, told))
        wait_for(told, "a", "cancelled")
        time.sleep(0.05)

    jobs = Jobs()
    assert [reply for reply in running(jobs, feed) if reply[1] != "accepted"] == [("a", "cancelled")]


def test_a_signal_from_elsewhere_ends_everything_after_a_job_was_cancelled_too():
    def feed(told):
        jobs.submit(job("a", endless, told))
        time.sleep(0.05)
        jobs.cancel("a")
        wait_for(told, "a", "cancelled")
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            if jobs.has_ended:
                return
            time.sleep(0.005)
        raise AssertionError("it waits for more")

    jobs = Jobs()
    running(jobs, feed)


def test_signals_are_as_before_in_the_end():
    before = signal.getsignal(signal.SIGINT)
    running(Jobs(), lambda told: None)
    assert signal.getsignal(signal.SIGINT) is before


# ---- the process


def test_hostile_lines_are_refused_and_it_stays_up():
    served = Served(DEMO, ".", before=SLOW)
    assert served.hello["protocol"] == 1 and served.hello["jobs"][:2] == ["load", "predict"]
    for line in (b"nonsense", b'{"id": 1, "op": NaN}', b"x" * 3 * 2**20, b'{"id": "\xff"}', b"[" * 200_000, b"\0"):
        served.write(line)
        assert served.until(None)["event"] == "refused"
    assert served.ask(id="r", op="predict", slide="../../etc/passwd")["text"].startswith('slide "../../etc/passwd" is')
    assert served.ask(id="r", op="hello")["event"] == "refused"  # the id was used
    for n in range(200):
        served.send(id=n, op="load")
    refused = [served.until(n)["text"] for n in range(MOST_WAITING + 1, 200)]
    assert len({*refused}) == 1 and "wait already" in refused[0]
    listed = served.ask(id="jobs", op="jobs")["jobs"]
    assert [entry["running"] for entry in listed] == [True] + [False] * MOST_WAITING
    served.send(id="stop", op="cancel", job=0)
    assert served.until(0)["event"] == "cancelled"
    assert served.until(1, "progress")["done"] == 0  # the next one runs
    code, said = served.end()
    assert code == 0 and "Traceback" not in said
    assert said.count("a library talks") == 2  # beside the protocol


def test_it_ends_when_nobody_reads_and_when_it_is_told_to():
    served = Served(DEMO, ".", before=SLOW)
    served.send(id=1, op="load")
    served.until(1, "progress")
    assert served.process.stdout is not None and served.process.stderr is not None
    served.process.stdout.close()
    assert served.process.wait(20) == 0
    assert "Traceback" not in served.process.stderr.read().decode()
    other = Served(DEMO, ".")
    assert other.ask(id=1, op="shutdown")["event"] == "done"
    assert other.process.wait(20) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell that a parent has gone; the end of its pipe does")
def test_it_ends_with_its_parent(tmp_path, monkeypatch):
    made = server.Server(Place(DEMO / "project.qpproj", DEMO), io.BytesIO(), io.BytesIO())
    monkeypatch.setattr(server, "_PARENT_POLL_S", 0.01)
    parents = iter([5, 5, 1])
    monkeypatch.setattr(server.os, "getppid", lambda: next(parents))
    made._over.clear()
    made._watch_parent()
    assert made._jobs.has_ended
    made._over.set()


@pytest.mark.parametrize("ends", [True, False])
def test_it_leaves_only_what_does_not_end(monkeypatch, ends):
    made, left = server.Server(Place(DEMO / "project.qpproj", DEMO), io.BytesIO(), io.BytesIO()), threading.Event()
    monkeypatch.setattr(server, "GRACE_S", (0.0, 0.05, 0.1))
    monkeypatch.setattr(server, "leave_at_once", left.set)
    made._over.clear()
    made.end()
    if ends:
        made._over.set()
    assert left.wait(0.5) is not ends


def test_a_region_is_predicted_as_the_command_does_and_again_at_once(tmp_path):
    served = Served(tmp_path, str(DEMO), "--model", str(MODEL), "--device", "cpu")
    request = {"op": "predict", "slide": SLIDE, "region": [1024, 1024, 256, 256], "width": 3072, "height": 3072}
    done = served.ask(id=1, **request)
    assert done["event"] == "done", done
    assert [reply["event"] for reply in served.replies][:2] == ["accepted", "log"]
    assert any(reply["event"] == "progress" and reply["done"] == reply["total"] for reply in served.replies)
    polygons = Path(done["polygons"])
    assert polygons == tmp_path / "predictions" / "roi" / "val-1.geojson"
    assert done["objects"] == len(json.loads(polygons.read_text())["features"]) > 0
    before = polygons.stat().st_mtime_ns
    again = served.ask(id=2, **request)
    assert again["event"] == "done" and polygons.stat().st_mtime_ns == before
    other = served.ask(id=3, **{**request, "region": [1280, 1024, 256, 256]})
    assert other["event"] == "done" and polygons.stat().st_mtime_ns != before
    assert {*predictions_of(tmp_path)} == {"predictions"}
    bad = served.ask(id=4, **{**request, "region": None, "areas": [{"type": "Polygon", "coordinates": "no"}]})
    assert bad["event"] == "failed" and "\n" not in bad["text"]
    served.send(id=5, op="predict", slide=SLIDE)
    served.until(5, "progress")
    served.send(id=6, op="cancel", job=5)
    stopped = served.until(5)
    assert stopped["event"] == "cancelled" and "what is finished is kept" in stopped["text"]
    assert served.ask(id=7, **request)["event"] == "done"  # it goes on, with the model that it has
    code, said = served.end()
    assert code == 0 and "Traceback" not in said
    (tmp_path / "predictions" / ".val-1.part").exists() and shutil.rmtree(tmp_path / "predictions" / ".val-1.part")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".part", ".lock", ".holder.json"))]


def predictions_of(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_requests_name_no_folder():
    fields = {name for kind in KINDS.values() for name in kind.model_fields}
    assert fields == {"id", "op", "job", "model", "image", "slide", "width", "height", "mpp", "region", "areas"} | {
        "regions", "fresh",
    }  # fmt: skip
    assert Predict.model_config["extra"] == "forbid"
